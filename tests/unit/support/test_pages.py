"""What reads the pages of the documentation sees all of their blocks, and what carries out lines passes none over."""

from pathlib import Path

import pytest

from tests.support.documented import Line, Place, Shell, parsed
from tests.support.pages import Block, blocks_of, indented_code

PLACE = Place("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3")


def test_blocks_are_found() -> None:
    text = "a\n```python\nx = 1\n\ny\n```\n- b\n\n  ```sh\n  make\n    run\n  ```\n```\nbare\n```\n"
    assert list(blocks_of("p.md", text)) == [
        Block("p.md", 2, "python", "x = 1\n\ny\n"),
        Block("p.md", 9, "sh", "make\n  run\n"),
        Block("p.md", 13, "", "bare\n"),
    ]


def test_a_block_without_an_end_is_none() -> None:
    with pytest.raises(ValueError, match=r"p\.md:3"):
        list(blocks_of("p.md", "a\n\n```sh\nb\n"))


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a\n\n    code\n", [3]),
        ("a\n    goes on\n", []),
        ("- a\n\n    of the item\n", []),
        ("- a\n\nb\n\n    code\n", [5]),
        ("```\n\n    fenced\n```\n", []),
    ],
)
def test_indented_code_is_seen(text: str, lines: list[int]) -> None:
    assert indented_code(text) == lines


@pytest.mark.parametrize(
    ("text", "defines"),
    [("import a\n\ndef f():\n    pass\n", True), ("def f():\n    pass\n\nf()\n", False), ("x = 1\n", False)],
)
def test_what_only_defines(text: str, defines: bool) -> None:
    assert Block("p.md", 1, "python", text).only_defines is defines


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a b  # c", Line({}, ["a", "b"])),
        ("A=1 B='2 3' c --d='e f'", Line({"A": "1", "B": "2 3"}, ["c", "--d=e f"])),
        ("a \\\n  b", Line({}, ["a", "b"])),
        ("a >b.json", Line({}, ["a"], "b.json")),
        ("a > b.json", Line({}, ["a"], "b.json")),
        ("a 'b|c' '*' '{\"d\": 1}'", Line({}, ["a", "b|c", "*", '{"d": 1}'])),
    ],
)
def test_lines_are_read(text: str, line: Line) -> None:
    assert list(parsed(f"\n# nothing\n{text}\n")) == [line]


@pytest.mark.parametrize("text", ["a | b", "a && b", "a; b", "a &", "a <b", "a >>b", "a >b c"])
def test_what_is_no_simple_line_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="simpler"):
        list(parsed(text))


def test_a_reader_has_other_registries() -> None:
    assert PLACE.instead(
        "127.0.0.1:7400/x h1:7400,h2:7400 10.127.0.0.1:7400 127.0.0.1:74001 http://127.0.0.1:7401/"
    ) == ("127.0.0.1:1/x 127.0.0.1:1,127.0.0.1:2 10.127.0.0.1:7400 127.0.0.1:74001 http://127.0.0.1:3/")


@pytest.mark.parametrize(
    "text",
    ["unknown it", "kubectl apply -f deploy/nothing.yaml", "pip install 'grpc-registry[nothing]'", "make nothing"],
)
def test_what_cannot_be_done_fails(text: str, tmp_path: Path) -> None:
    shell = Shell(PLACE, tmp_path, somebody="")
    with pytest.raises(AssertionError):
        shell.run(text)
