"""Every block of every page is run, or held against what reads such a thing: by its language, without an exception.

`python` is a program that runs as it stands, `sh` commands, `console` commands and what they say, `toml` settings of
the server, `json` what the server writes or reads, `hcl` what Consul reads (tests/integration/test_consul_store.py),
`text` a picture. A language that nobody knows fails.
"""

import ast
import itertools
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from google.protobuf import json_format
from opentelemetry.util._once import Once

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server import __main__ as server_command
from registry_server import stores
from registry_server.observe.logs import FIELDS
from registry_server.stores.schemes import Schemes, installed
from tests.support.documented import Place, Shell, place
from tests.support.pages import Block, blocks, blocks_of, indented_code, pages, text_of
from tests.support.source import PACKAGES, ROOT, sources

# Pages whose blocks belong together in ways of their own, and what carries them out as they stand.
OWN = {
    "docs/health.md": "tests/integration/health/test_docs.py",
    "docs/processes.md": "tests/integration/client/test_places.py",
    "docs/stores.md": "tests/support/backend.py",
    "docs/stubs.md": "tests/support/stubs.py",
    "docs/testing.md": "tests/integration/client/test_testing.py",
}
# Held equal to another page, block by block (tests/unit/site/test_chinese.py).
SAME = {"docs/zh/getting-started.md"}
LANGUAGES = {"python", "sh", "console", "toml", "json", "text"}
OF_ONE_PAGE = {"docs/stubs.md": {"go", "java", "js", "rs", "rust", "xml"}, "docs/consul.md": {"hcl"}}
PROGRAMS = re.compile(r"\s*(\$ )?(registryctl|registry-server|grpcurl|curl|pip|make|etcdctl|import|from|async|await)\b")
GROUPS = {"grpc_registry.checks", "grpc_registry.policies", "grpc_registry.stores"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A reader's machine: a registry, an empty directory, nothing in the caches."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", None)  # a page may set one, which holds for a process
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER_SET_ONCE", Once())
    monkeypatch.setattr(stores, "_SCHEMES", Schemes(stores._BUILT_IN, installed))  # or register a kind of store
    with place() as it:
        yield it


def of(page: str, *languages: str) -> list[Block]:
    return [block for block in blocks_of(page, text_of(page)) if block.language in languages]


# ---- what a page may have


@pytest.mark.parametrize("page", pages())
def test_somebody_looks_at_every_block(page: str) -> None:
    known = LANGUAGES | OF_ONE_PAGE.get(page, set())
    found = [(block, block.language or "a bare fence") for block in blocks_of(page, text_of(page))]
    assert [f"{block}: {language}" for block, language in found if language not in known] == []
    assert [f"{page}:{line}: indented code" for line in indented_code(text_of(page))] == []


@pytest.mark.parametrize(("page", "test"), OWN.items())
def test_a_page_with_ways_of_its_own_is_carried_out(page: str, test: str) -> None:
    text = (ROOT / test).read_text()
    assert re.search(rf'["/]{re.escape(Path(page).name)}"', text)
    assert any(reads in text for reads in ("```python", "```(", "blocks_of("))


def test_a_picture_is_no_program() -> None:
    lines = [(block, line) for block in blocks("text") for line in block.text.splitlines()]
    assert [f"{block}: {line}" for block, line in lines if PROGRAMS.match(line)] == []


def pairs(line: str) -> Iterator[tuple[str, str]]:
    """Words that stand beside each other, as far as they are words of the language and not names or numbers."""
    for part in re.split(r"\s{2,}|[^\w\s'./-]+", line.lower()):
        yield from ((one, two) for one, two in itertools.pairwise(part.split()) if one.isalpha() and two.isalpha())


def test_what_is_shown_is_said_by_a_program() -> None:
    """Two words of a `text` stand so in a string of ours, or beside what is put into one: what changes is shown so."""
    nodes = [node for source in sources(*PACKAGES) for node in ast.walk(source.tree)]
    said = [node.value.lower() for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    known = {pair for text in said for pair in itertools.pairwise(text.split())}
    holes = " ".join(ast.unparse(node).lower() for node in nodes if isinstance(node, ast.JoinedStr))
    before, after = set(re.findall(r"(\w+) ?\{", holes)), set(re.findall(r"\} ?(\w+)", holes))
    shown = [(block, pairs(line)) for block in blocks("text") for line in block.text.splitlines() if "─" not in line]
    wrong = [(block, pair) for block, found in shown for pair in found if pair not in known]
    assert [f"{block}: {one} {two}" for block, (one, two) in wrong if one not in before and two not in after] == []


# ---- programs


@pytest.mark.parametrize("block", [it for it in blocks("python") if it.page not in SAME], ids=str)
def test_python_runs(block: Block, here: Place, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(here.instead(block.text), str(block), "exec"), {"__name__": "documented"})
    assert not capsys.readouterr().err
    assert not block.only_defines or block.page in OWN, "it only defines what nobody calls"


@pytest.mark.parametrize("page", sorted({it.page for it in blocks("sh")} - SAME - {"docs/stubs.md"}))
def test_commands_run(page: str, here: Place, tmp_path: Path) -> None:
    """In the order of the page, in one directory."""
    shell = Shell(here, tmp_path)
    for block in of(page, "sh"):
        shell.run(block.text)


# ---- what programs read and write


@pytest.mark.parametrize("block", [it for it in blocks("toml") if it.page != "docs/stubs.md"], ids=str)
def test_toml_is_taken(block: Block, here: Place, tmp_path: Path) -> None:
    if "project" in (read := tomllib.loads(block.text)):
        assert read["project"]["entry-points"].keys() <= GROUPS
        return
    numbers = itertools.count()
    text = re.sub("sha256:…", lambda _: f"sha256:{next(numbers):064x}", Shell(here, tmp_path).here(block.text))
    (tmp_path / "registry.toml").write_text(text)
    done = CliRunner().invoke(server_command.main, ["config", "check", "registry.toml"])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_json_is_what_is_read_or_written(block: Block) -> None:
    """An instance as a request has it, or a line of the server's log, or of the audit log."""
    read = json.loads(block.text)
    if "service" in read:
        json_format.ParseDict(read, pb.Instance())
        return
    if "logger" in read:
        assert read.keys() <= {"time", "level", "logger", "message", "error", *FIELDS}
        return
    files = (ROOT / "registry_server/audit").glob("*.py")
    assert read.keys() <= {name for file in files for name in re.findall(r'"([a-z_]+)"', file.read_text())}
