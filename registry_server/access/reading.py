"""CORE: what the table [access] of a file of settings says, and all that is wrong with it."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time
from difflib import get_close_matches
from typing import TypeVar

from registry_api.limits import NAME, NAME_RULE
from registry_server.access.grants import BadGrant, Grant, Grants
from registry_server.access.identities import HASH, TOKEN_PREFIX, Access, Identity, Token

Item = TypeVar("Item")

Wrong = Callable[[str, str], None]
"""Is told of a mistake: in which setting, a path with dots, and what it is."""

_TOKEN_RULE = "must be 'sha256:' and 64 hexadecimal digits, as `registry-server token new NAME` prints it"  # noqa: S105
_EXPIRES_RULE = "must be a date or a time, such as 2027-01-31 or 2027-01-31T12:00:00Z"


class _Bad(ValueError):
    """What is written is not what it has to be."""


def read_access(table: Mapping[str, object], wrong: Wrong, file: str = "") -> Access:
    """The table, read; what is wrong with it is told, and left out. `file` is where it was read."""
    _known("access", table, ("identities", "anonymous"), wrong)
    given = table.get("identities", {})
    if not isinstance(given, dict):
        wrong("access.identities", "must be a table with a table for each identity")
        given = {}
    identities = tuple(_identity(str(name), it, wrong) for name, it in given.items())
    anonymous = _grants("access.anonymous", table.get("anonymous", []), wrong)
    if not identities and not anonymous.grants:
        wrong(
            "access", "lets nobody in: write a table [access.identities.NAME] with tokens or certificates, and grants"
        )
    _tell_of_shared(identities, wrong)
    return Access(identities, anonymous, file=file)


def _identity(name: str, given: object, wrong: Wrong) -> Identity:
    at = f"access.identities.{name}"
    if not NAME.fullmatch(name):
        wrong(at[:200], NAME_RULE)
    if not isinstance(given, dict):
        wrong(at, "must be a table")
        return Identity(name)
    _known(at, given, ("tokens", "certificates", "grants"), wrong)
    tokens = _each(f"{at}.tokens", given.get("tokens", []), _token, wrong)
    certificates = _each(f"{at}.certificates", given.get("certificates", []), _certificate, wrong)
    if not given.get("tokens") and not given.get("certificates"):
        wrong(at, "has neither tokens nor certificates")
    return Identity(name, tuple(tokens), tuple(certificates), _grants(f"{at}.grants", given.get("grants", []), wrong))


def _known(at: str, table: Mapping[str, object], names: tuple[str, ...], wrong: Wrong) -> None:
    for name in table:
        if name not in names:
            near = get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
            wrong(f"{at}.{name}", f"no such setting; {hint}")


def _grants(at: str, given: object, wrong: Wrong) -> Grants:
    return Grants(_each(at, given, _grant, wrong))


def _each(at: str, given: object, read: Callable[[object], Item], wrong: Wrong) -> list[Item]:
    if not isinstance(given, list):
        wrong(at, "must be a list")
        return []
    return list(_good(at, given, read, wrong))


def _good(at: str, given: Iterable[object], read: Callable[[object], Item], wrong: Wrong) -> Iterator[Item]:
    for number, it in enumerate(given, 1):
        try:
            yield read(it)
        except (_Bad, BadGrant) as error:
            wrong(at, f"number {number} {error}")


def _grant(given: object) -> Grant:
    return Grant.parse(given if isinstance(given, str) else "")


def _certificate(given: object) -> str:
    if not isinstance(given, str) or not given or not given.isprintable():
        raise _Bad("must be a name of certificates, such as 'game.example' or 'spiffe://example/*'")
    return given


def _token(given: object) -> Token:
    if isinstance(given, str):
        return _hash(given)
    if not isinstance(given, dict) or set(given) - {"hash", "expires"} or "hash" not in given:
        raise _Bad(f"{_TOKEN_RULE}; or a table of such a `hash` and when it `expires`")
    hash_ = given["hash"]
    token = _hash(hash_ if isinstance(hash_, str) else "")
    return token._replace(expires_s=_time(given["expires"])) if "expires" in given else token


def _hash(text: str) -> Token:
    match = HASH.fullmatch(text)
    if match is not None:
        return Token(bytes.fromhex(match[1]))
    if text.startswith(TOKEN_PREFIX):
        raise _Bad(f"is a token itself, which only who uses it should have: write '{Token.of(text)}'")
    raise _Bad(_TOKEN_RULE)


def _time(given: object) -> float:
    """Seconds since 1970. What names no zone is UTC, and a day is its beginning."""
    try:
        it = datetime.fromisoformat(given) if isinstance(given, str) else given
        if isinstance(it, date) and not isinstance(it, datetime):
            it = datetime.combine(it, time())
        if isinstance(it, datetime):
            return (it if it.tzinfo else it.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        pass
    raise _Bad(f"expires: {_EXPIRES_RULE}")


def _tell_of_shared(identities: Iterable[Identity], wrong: Wrong) -> None:
    """A token is one identity's: who else would it be that shows it?"""
    owners: dict[bytes, str] = {}
    for it in identities:
        for token in it.tokens:
            other = owners.setdefault(token.digest, it.name)
            if other != it.name:
                wrong(f"access.identities.{it.name}.tokens", f"has a token that is also one of {other}")


def written(access: Access) -> Iterator[tuple[str, str]]:
    """The settings that it comes to, for people: of tokens, how many there are."""
    if access.is_on:
        yield "access.anonymous", ", ".join(access.anonymous.grants)
    for it in access.identities:
        at = f"access.identities.{it.name}"
        ending = sum(token.expires_s < math.inf for token in it.tokens)
        yield f"{at}.tokens", f"{len(it.tokens)}, of which {ending} expire" if ending else str(len(it.tokens))
        yield f"{at}.certificates", ", ".join(it.certificates)
        yield f"{at}.grants", ", ".join(it.rights.grants)
