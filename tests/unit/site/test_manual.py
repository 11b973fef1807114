"""The .proto files as pages: what stands in a descriptor is on its page, and comments say what they say."""

import tempfile
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

from docs.tools.manual import escaped, pages, prose

COMMON = """
// What all need.
syntax = "proto3";
package game.v1;
// Names a player.
message Key {
  // Unique.
  string id = 1;
}
"""
GAME = """
// A game, and <who> plays it. See docs/security.md.
//
// ERRORS:
//
//   NOT_FOUND   no such *player*
//               anywhere
//
// That is all.
syntax = "proto3";
package game.v1;
import "common.proto";
import "google/protobuf/duration.proto";

// Who plays.
service Game {
  // Tells of `all_of_it`.
  // Needs: read, to some_of it.
  rpc Watch(stream WatchRequest) returns (stream Key);
  rpc Get(Key) returns (Key);
}
// Asks.
message WatchRequest {
  // Inside.
  message Part {
    enum Kind {
      // None.
      NONE = 0;
      SOME = 1;
    }
    Kind kind = 1;
  }
  repeated Part parts = 1;
  map<string, Key> named = 2;
  optional uint32 weight = 3;
  oneof which {
    // In seconds.
    google.protobuf.Duration after = 4;
    bool always = 5;
  }
}
"""


def described(**files: str) -> list[FileDescriptorProto]:
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            (Path(folder) / f"{name}.proto").write_text(text)
        google, out = Path(protoc.__file__).parent / "_proto", Path(folder) / "out"
        names = [f"{name}.proto" for name in files]
        places = [f"-I{folder}", f"-I{google}"]
        assert not protoc.main(["protoc", *places, "--include_source_info", f"--descriptor_set_out={out}", *names])
        return list(FileDescriptorSet.FromString(out.read_bytes()).file)


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return pages(described(common=COMMON, game=GAME))


@pytest.fixture(scope="module")
def page(made: dict[str, str]) -> str:
    return made["game.md"]


@pytest.mark.parametrize(
    "says",
    [
        "# game.proto\n",
        "A game, and \\<who\\> plays it. See [docs/security.md](../security.md).\n",
        "\n```text\nNOT_FOUND   no such *player*\n            anywhere\n```\n\nThat is all.\n",
        "## service Game { #Game }\n\nWho plays.\n",
        "### Game.Watch { #Game.Watch }\n\nstream of [WatchRequest](#WatchRequest) → stream of [Key](common.md#Key)\n",
        "Tells of `all_of_it`.\n\n**Needs:** read, to some\\_of it.\n",
        "[Key](common.md#Key) → [Key](common.md#Key)\n",
        "## WatchRequest { #WatchRequest }\n\nAsks.\n",
        "- `parts` (repeated [WatchRequest.Part](#WatchRequest.Part); 1)\n",
        "- `named` (map of string to [Key](common.md#Key); 2)\n",
        "- `weight` (optional uint32; 3)\n",
        "- `after` (`google.protobuf.Duration`, one of `which`; 4)\n\n    In seconds.\n",
        "- `always` (bool, one of `which`; 5)\n",
        "### WatchRequest.Part { #WatchRequest.Part }\n\nInside.\n",
        "- `kind` ([WatchRequest.Part.Kind](#WatchRequest.Part.Kind); 1)\n",
        "### WatchRequest.Part.Kind { #WatchRequest.Part.Kind }\n\n- `NONE` (0)\n\n    None.\n\n- `SOME` (1)\n",
    ],
)
def test_what_stands_there_is_on_the_page(page: str, says: str) -> None:
    assert says in page


def test_an_entry_of_a_map_is_no_message_of_its_own(page: str) -> None:
    assert "NamedEntry" not in page


def test_each_file_has_its_page(made: dict[str, str]) -> None:
    assert sorted(made) == ["common.md", "game.md"]
    assert "- `id` (string; 1)\n\n    Unique.\n" in made["common.md"]


@pytest.mark.parametrize(
    ("line", "markdown"),
    [
        ("a_b *c* [d](e) <f> & g|h #i", "a\\_b \\*c\\* \\[d\\](e) \\<f\\> \\& g\\|h \\#i"),
        ("an {#id} of {its} own", "an \\{\\#id\\} of \\{its\\} own"),
        ("`a_b <c>` and d_e", "`a_b <c>` and d\\_e"),
        ("a lone ` stays_so", "a lone ` stays\\_so"),
    ],
)
def test_prose_is_no_markup(line: str, markdown: str) -> None:
    assert escaped(line) == markdown


def test_lists_stay_lists() -> None:
    assert prose(" One:\n - a\n   more\n - b\n") == "One:\n\n- a\n  more\n- b\n"
