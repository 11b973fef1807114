"""The table [access] of a file: all mistakes at once, each where it is made; of what is a secret nothing is shown."""

import math
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from registry_server.access.identities import Access, Token
from registry_server.access.reading import read_access, written
from registry_server.config.sources import load, read_access_of
from registry_server.config.values import ConfigError

HASH = str(Token.of("secret"))


def problems(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    read_access(tomllib.loads(text), lambda name, said: found.update({name: said}))
    return found


def read(text: str) -> Access:
    def wrong(name: str, said: str) -> None:
        raise AssertionError(f"{name}: {said}")

    return read_access(tomllib.loads(text), wrong)


def test_what_docs_show() -> None:
    access = read(f"""
    [identities.game-servers]
    tokens = ["{HASH}"]
    certificates = ["spiffe://example/game", "game.example"]
    grants = ["register default/player", "read */*"]
    """)
    (it,) = access.identities
    assert (it.name, it.tokens) == ("game-servers", (Token.of("secret"),))
    assert it.certificates == ("spiffe://example/game", "game.example")
    assert it.rights.grants == ["read */*", "register default/player"]
    assert access.is_on
    assert access.anonymous.grants == []


@pytest.mark.parametrize(
    ("expires", "when"),
    [
        ("2027-01-31", datetime(2027, 1, 31, tzinfo=UTC)),
        ('"2027-01-31"', datetime(2027, 1, 31, tzinfo=UTC)),
        ("2027-01-31T12:00:00", datetime(2027, 1, 31, 12, tzinfo=UTC)),
        ("2027-01-31T12:00:00Z", datetime(2027, 1, 31, 12, tzinfo=UTC)),
        ('"2027-01-31T12:00:00+02:00"', datetime(2027, 1, 31, 10, tzinfo=UTC)),
    ],
)
def test_when_a_token_ends(expires: str, when: datetime) -> None:
    (it,) = read(f'[identities.a]\ntokens = [{{ hash = "{HASH}", expires = {expires} }}, "{HASH}"]').identities
    assert [token.expires_s for token in it.tokens] == [when.timestamp(), math.inf]


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("", "access", "lets nobody in"),
        ("identities = 3", "access.identities", "must be a table"),
        ("identites = {}", "access.identites", "did you mean identities?"),
        ("anonymous = 'read */*'", "access.anonymous", "must be a list"),
        ("anonymous = ['reed */*']", "access.anonymous", "number 1 must be RIGHT NAMESPACE/SERVICE"),
        ("anonymous = [7]", "access.anonymous", "number 1 must be RIGHT"),
        ("identities.a = 3", "access.identities.a", "must be a table"),
        ("identities.'a b' = {tokens = ['x']}", "access.identities.a b", "must be 1 to 128 letters"),
        ("identities.a = {}", "access.identities.a", "has neither tokens nor certificates"),
        ("identities.a = {tokens = []}", "access.identities.a", "has neither"),
        ("identities.a = {token = ['x']}", "access.identities.a.token", "did you mean tokens?"),
        ("identities.a = {tokens = ['x']}", "access.identities.a.tokens", "number 1 must be 'sha256:'"),
        ("identities.a = {tokens = [7]}", "access.identities.a.tokens", "number 1 must be 'sha256:'"),
        (f"identities.a = {{tokens = ['{HASH.upper()}']}}", "access.identities.a.tokens", "must be 'sha256:'"),
        ("identities.a = {tokens = [{hash = 7}]}", "access.identities.a.tokens", "must be 'sha256:'"),
        ("identities.a = {tokens = [{expires = 2027-01-01}]}", "access.identities.a.tokens", "`hash`"),
        (
            f"identities.a = {{tokens = [{{hash = '{HASH}', expires = 7}}]}}",
            "access.identities.a.tokens",
            "expires: must",
        ),
        (
            f"identities.a = {{tokens = [{{hash = '{HASH}', expires = 'soon'}}]}}",
            "access.identities.a.tokens",
            "expires: must be a date",
        ),
        (f"identities.a = {{tokens = [{{hash = '{HASH}', expire = 1}}]}}", "access.identities.a.tokens", "`expires`"),
        ("identities.a = {certificates = ['']}", "access.identities.a.certificates", "must be a name of certificates"),
        ("identities.a = {certificates = [7]}", "access.identities.a.certificates", "must be a name of certificates"),
        (
            f"identities.a.tokens = ['{HASH}']\nidentities.b.tokens = ['{HASH}']",
            "access.identities.b.tokens",
            "also one of a",
        ),
    ],
)
def test_mistakes(text: str, name: str, said: str) -> None:
    found = problems(text)
    assert said in found[name], found


def test_a_token_in_the_clear_is_not_quoted() -> None:
    secret = "rg_" + "s" * 43
    (said,) = problems(f"identities.a.tokens = ['{secret}']").values()
    assert secret not in said
    assert str(Token.of(secret)) in said, "what to write in its place"


def test_all_mistakes_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    (path := tmp_path / "registry.toml").write_text(
        "lisen = 'x'\n[access]\nanonymous = ['x']\n[access.identities.game]\ntokens = ['x']\ngrants = ['y']\n"
    )
    with pytest.raises(ConfigError) as error:
        load({}, {}, path)
    lines = [it.where.rpartition("line ")[2] for it in error.value.problems]
    assert lines == ["1", "5", "6", "3"]


def settings(**flags: Any) -> Any:
    return load(flags, {}, None).config


def test_a_file_of_its_own(tmp_path: Path) -> None:
    (path := tmp_path / "access.toml").write_text(f"[access.identities.a]\ntokens = ['{HASH}']\n")
    access = settings(access_file=str(path)).access
    assert ([it.name for it in access.identities], access.file) == (["a"], str(path))
    assert read_access_of(str(path)) == access
    path.write_text("listen = 'x'\n")
    with pytest.raises(ConfigError, match=r"listen: only the table \[access\]"):
        settings(access_file=str(path))
    with pytest.raises(ConfigError, match="No such file"):
        settings(access_file=str(tmp_path / "none.toml"))
    path.write_text(f"[access.identities.a]\ntokens = ['{HASH}']\n")
    with pytest.raises(ConfigError, match=r"access_file: there is a table \[access\] as well"):
        load({"access_file": str(path)}, {}, path)


def test_of_a_file_of_settings_it_is_read_alone(tmp_path: Path) -> None:
    """What else is wrong there by now is no reason to keep a right that was taken away."""
    (path := tmp_path / "registry.toml").write_text(f"lisen = 1\n[access.identities.a]\ntokens = ['{HASH}']\n")
    assert [it.name for it in read_access_of(str(path)).identities] == ["a"]
    path.write_text("listen = '127.0.0.1:0'\n")
    with pytest.raises(ConfigError, match="access: must be a table"):
        read_access_of(str(path))


def test_what_is_shown_of_it() -> None:
    access = read(
        f'[identities.a]\ntokens = ["{HASH}", {{ hash = "{HASH}", expires = 2027-01-01 }}]\ngrants = ["read */*"]'
    )
    assert dict(written(access)) == {
        "access.anonymous": "",
        "access.identities.a.tokens": "2, of which 1 expire",
        "access.identities.a.certificates": "",
        "access.identities.a.grants": "read */*",
    }
