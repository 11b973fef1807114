"""What others wrote never does anything to a terminal, and JSON stays exact."""

import ast
import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import registry_client.cli
from registry_client.cli.plain import document, plain

# One of each kind that acts, or hides.
ACTING = {
    "escape": "\x1b[2J", "8-bit escape": "\x9b31m", "line feed": "\n", "carriage return": "\r", "tab": "\t",
    "bell": "\a",
    "backspace": "\b", "delete": "\x7f", "next line": "\x85", "null": "\0", "line separator": "\u2028",
    "paragraph separator": "\u2029", "override": "\u202e", "embedding": "\u202a", "pop": "\u202c", "isolate": "\u2066",
    "mark of direction": "\u200f", "arabic mark": "\u061c", "zero-width space": "\u200b", "joiner": "\u200d",
    "non-joiner": "\u200c", "word joiner": "\u2060", "byte order mark": "\ufeff", "soft hyphen": "\u00ad",
    "invisible times": "\u2062", "filler": "\u3164", "half filler": "\uffa0", "variation": "\ufe0f",
    "more variation": "\U000e0100", "tag": "\U000e0041", "grapheme joiner": "\u034f", "mongolian": "\u180e",
    "surrogate": "\udcff", "private": "\ue000", "unassigned": "\u0378", "wide blank": "\u3000", "blank": "\u00a0",
    "musical": "\U0001d173", "mark on nothing": "\u0301", "enclosing": "\u20dd",
}  # fmt: skip
TEXTS = st.text(st.characters(exclude_categories=[]) | st.sampled_from("".join(ACTING.values())))


@pytest.mark.parametrize("text", ACTING.values(), ids=ACTING)
def test_what_acts_or_hides_is_spelt_out(text: str) -> None:
    shown = plain(text)
    assert shown.isascii()
    assert shown.isprintable()
    assert shown.startswith("\\")
    assert ast.literal_eval(f"'{shown}'") == text
    assert plain(f"a{shown}b") == f"a{shown}b"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain text",
        "größer",
        "žluťoučký kůň",
        "日本語",
        "Ελλάδα",
        "раз",
        "שלום",
        "नमस्ते",
        "ภาษาไทย",
        "👍",
        "a\\nb",
        "e\u0301",
    ],
)
def test_what_people_write_is_shown_as_it_is(text: str) -> None:
    assert plain(text) == text


def test_marks_heap_up_no_higher_than_a_writing_needs() -> None:
    assert plain("a" + "\u0301" * 50) == "a" + "\u0301" * 3 + r"\u0301" * 47


@given(TEXTS)
def test_nothing_that_acts_is_left(text: str) -> None:
    shown = plain(text)
    assert shown.isprintable()
    assert not any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in shown)
    assert plain(shown) == shown


@given(st.dictionaries(TEXTS, TEXTS | st.lists(TEXTS)), st.sampled_from([None, 2]), st.booleans())
def test_json_is_exact_and_does_nothing(content: dict[str, object], indent: int | None, unicode: bool) -> None:
    text = document(content, indent=indent, unicode=unicode)
    assert json.loads(text) == content
    assert all(line.isprintable() for line in text.split("\n"))
    assert unicode or text.isascii()
    assert indent is not None or "\n" not in text


def test_letters_of_json_are_readable() -> None:
    assert document({"map": "größer"}) == '{"map": "größer"}'


def test_nothing_is_written_but_through_one_door() -> None:
    """A new command cannot forget to make plain what it shows."""
    for path in Path(registry_client.cli.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and path.name != "show.py":
                assert ast.unparse(node.func) not in ("print", "click.echo", "click.secho", "sys.stdout.write"), path
