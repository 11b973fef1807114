"""Patterns and grants: what may be done where, by the words of docs/security.md."""

import fnmatch
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_server.access.grants import MAX_REMEMBERED, BadGrant, Grant, Grants
from registry_server.access.patterns import Pattern
from registry_server.rights import RIGHTS, UNRESTRICTED

TEXT = st.text("ab*", max_size=8)


def grants(*texts: str) -> Grants:
    return Grants(map(Grant.parse, texts))


@given(TEXT, st.text("ab", max_size=8))
def test_a_star_stands_for_any_characters(pattern: str, text: str) -> None:
    assert Pattern.of(pattern).fits(text) == fnmatch.fnmatchcase(text, pattern)


def test_a_pattern_of_ill_will_takes_no_time() -> None:
    assert not Pattern.of("*a" * 60 + "b").fits("a" * 100_000)


@pytest.mark.parametrize("granted", RIGHTS)
@pytest.mark.parametrize("asked", RIGHTS)
def test_a_right_includes_those_before_it(granted: str, asked: str) -> None:
    may = RIGHTS.index(asked) <= RIGHTS.index(granted)  # type: ignore[arg-type]
    assert grants(f"{granted} default/player").may(asked, "default", "player") is may  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("grant", "yes", "no"),
    [
        ("read default/player", ["default/player"], ["default/players", "default/*", "*/player", "prod/player"]),
        ("read */*", ["default/player", "*/*", "default/*", "*/player"], []),
        ("read default/*", ["default/player", "default/*"], ["*/*", "default2/player", "prod/player"]),
        ("read prod-*/pl*r", ["prod-eu/player", "prod-/plr"], ["prod/player", "prod-*/play", "*/player", "prod-eu/*"]),
        ("read */player", ["default/player", "*/player"], ["default/chat", "default/*"]),
    ],
)
def test_what_a_grant_covers(grant: str, yes: list[str], no: list[str]) -> None:
    rights = grants(grant)
    for _ in range(2):  # it is remembered
        assert all(rights.may("read", *name.split("/")) for name in yes)
        assert not any(rights.may("read", *name.split("/")) for name in no)


def test_as_many_grants_as_services_are_found_without_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    rights = grants("admin prod-*/chat", *(f"read default/{number}" for number in range(1_000)))
    fitted: list[str] = []
    monkeypatch.setattr(Pattern, "fits", lambda self, text: bool(fitted.append(text)))
    assert all(rights.may("read", "default", str(number)) for number in range(1_000))
    assert fitted == []
    assert not any(rights.may("read", "default", str(number)) for number in range(1_000, 2_000))
    assert len(fitted) == 1_000


def test_some_of_what_is_asked_about() -> None:
    rights = grants("read default/pl*", "admin prod/chat")
    assert rights.may_some("read", "default", "*")
    assert rights.may_some("read", "*", "*")
    assert rights.may_some("read", "*", "player")
    assert not rights.may_some("read", "*", "match")
    assert not rights.may_some("read", "test", "*")
    assert not rights.may_some("register", "default", "*")
    assert rights.may_some("admin", "*", "*")
    assert not grants().may_some("read", "*", "*")


def test_equal_grants_are_equal_rights() -> None:
    one, same = grants("read a/b", "admin c/*"), grants("admin c/*", "read   a/b", "read a/b")
    assert (one, hash(one), one.grants) == (same, hash(same), same.grants)
    assert one != grants("read a/b")
    assert one != UNRESTRICTED
    assert one.grants == ["admin c/*", "read a/b"]


def test_what_is_no_name_is_not_kept() -> None:
    """Whoever asks for names without end fills nothing."""
    rights = grants("read */*")
    assert not rights.may("read", "default", "x" * 1_000_000)
    for number in range(MAX_REMEMBERED * 2):
        assert rights.may("read", "default", f"service-{number}")
    assert len(rights._remembered) <= MAX_REMEMBERED


@pytest.mark.parametrize(
    "text",
    [
        "",
        "read",
        "read default",
        "reed */*",
        "READ */*",
        "read a/b/c",
        "read /b",
        "read a/",
        "read a b/c",
        "*/*",
        "read\n*/*",
    ],
)
def test_what_is_no_grant(text: str) -> None:
    with pytest.raises(BadGrant, match=re.escape("RIGHT NAMESPACE/SERVICE")):
        Grant.parse(text)
