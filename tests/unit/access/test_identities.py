"""Who is who: by tokens, of which several are good at a time and some end, and by the names in a certificate."""

import pytest

from registry_server.access.grants import Grant, Grants
from registry_server.access.identities import Access, Identities, Identity, Token
from registry_server.errors import Unauthenticated
from registry_server.rpc.table import Caller, Credentials

NOON = 1_800_000_000.0
READ, ADMIN = Grants([Grant.parse("read */*")]), Grants([Grant.parse("admin */*")])
GAME = Identity(
    "game",
    (Token.of("one"), Token.of("two")._replace(expires_s=NOON)),
    ("spiffe://example/game/*", "*.Game.example", "Case://Kept"),
    READ,
)
ADMINS = Identity("admins", (Token.of("three"),), ("*",), ADMIN)


def who(token: str = "", *names: str, now: float = NOON - 1, access: Access | None = None) -> str:
    found = Identities(access or Access((GAME, ADMINS), READ), b"key").of(Credentials(token, names), now)
    assert found.rights == {"game": READ, "admins": ADMIN, "": READ}[found.identity]
    return found.identity


def test_several_tokens_are_good_at_a_time() -> None:
    assert [who(token) for token in ("one", "two", "three")] == ["game", "game", "admins"]


@pytest.mark.parametrize("token", ["four", "One", "one ", " ", "sha256:" + Token.of("one").digest.hex(), "ö\udcff"])
def test_another_token_is_nobodys(token: str) -> None:
    with pytest.raises(Unauthenticated, match="this token is not known here"):
        who(token)


def test_a_token_ends_at_its_time_and_not_before() -> None:
    assert who("two", now=NOON - 0.001) == "game"
    with pytest.raises(Unauthenticated, match="this token of game has expired"):
        who("two", now=NOON)
    assert Identities(Access((GAME,)), b"key").of(Credentials("two"), NOON - 1).until_s == NOON


@pytest.mark.parametrize(
    ("names", "identity"),
    [
        ((), ""),
        (("spiffe://example/game/7",), "game"),
        (("a.game.EXAMPLE",), "game"),
        (("other", "spiffe://example/game/"), "game"),
        (("Case://Kept",), "game"),
        (("case://kept",), "admins"),
        (("spiffe://EXAMPLE/game/7",), "admins"),
        (("game.example",), "admins"),
    ],
)
def test_a_certificate_is_known_by_its_names(names: tuple[str, ...], identity: str) -> None:
    assert who("", *names) == identity


def test_a_certificate_that_is_nobodys_is_nobody() -> None:
    assert who("", "other", access=Access((GAME,), READ)) == ""


def test_a_token_goes_before_a_certificate() -> None:
    assert who("one", "whatever") == "game"
    with pytest.raises(Unauthenticated):
        who("wrong", "whatever")


def test_nothing_tells_of_a_token() -> None:
    known = Identities(Access((GAME, ADMINS)), b"key")
    assert all(Token.of("one").digest not in it for it in known._tokens)
    caller = Caller("ipv4:192.0.2.1:1", credentials=Credentials("s3cret", ("game.example",)))
    assert "s3cret" not in f"{caller} {caller!r} {caller.credentials}"
    assert "game.example" in repr(caller)
