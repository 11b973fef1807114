"""CORE: who is who: identities by the tokens and certificates that they show.

A token is 256 random bits, so its hash needs no salt, and nobody finds a token that has a given one. The server knows
the hashes alone. They are looked up by a keyed hash of their own, so that the time it takes tells nothing of them.
"""

import hashlib
import hmac
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from registry_server.access.grants import Grants
from registry_server.access.patterns import Pattern
from registry_server.errors import Unauthenticated
from registry_server.rpc.table import Credentials

TOKEN_PREFIX = "rg_"  # noqa: S105 - by which people and scanners see what it is
HASH = re.compile(r"sha256:([0-9a-f]{64})")

# So many callers who are known are remembered, by what they showed: mostly some tens of bytes, 16 KiB at the most.
MAX_LATELY = 5_000

_UNKNOWN = "this token is not known here"


class Token(NamedTuple):
    """One token of an identity: the hash of it, and when it ends, in seconds since 1970."""

    digest: bytes
    expires_s: float = math.inf

    @classmethod
    def of(cls, secret: str) -> "Token":
        """That of a token in the clear."""
        return cls(hashlib.sha256(secret.encode(errors="surrogatepass")).digest())

    def __str__(self) -> str:
        return f"sha256:{self.digest.hex()}"


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody, or something, that is known by name. `certificates` are patterns of names, with `*` for anything."""

    name: str
    tokens: tuple[Token, ...] = field(default=(), repr=False)
    certificates: tuple[str, ...] = ()
    rights: Grants = field(default_factory=Grants)


@dataclass(frozen=True, slots=True)
class Access:
    """All who are known, and what those may do who show nothing. `file` is where it was read, empty for nowhere."""

    identities: tuple[Identity, ...] = ()
    anonymous: Grants = field(default_factory=Grants)
    is_on: bool = True
    file: str = field(default="", compare=False)


NO_ACCESS = Access(is_on=False)


class Somebody(NamedTuple):
    """Who somebody is. `identity` is empty for who shows nothing, or a certificate that is nobody's; `until_s`, in
    seconds since 1970, is when that is over."""

    identity: str
    rights: Grants
    until_s: float = math.inf


class Identities:
    """Looks up who shows what. `key` is random, and secret."""

    def __init__(self, access: Access, key: bytes) -> None:
        self._key = key
        # Those who were found of late, so that a call costs no hashing. Python finds them by a keyed hash, too.
        self._lately: dict[Credentials, Somebody] = {}
        self._anonymous = Somebody("", access.anonymous)
        self._tokens = {
            self._place(token.digest): (token, Somebody(it.name, it.rights, token.expires_s))
            for it in access.identities
            for token in it.tokens
        }
        self._certificates = [
            (Pattern.of(plain_name(pattern)), Somebody(it.name, it.rights))
            for it in access.identities
            for pattern in it.certificates
        ]

    def of(self, credentials: Credentials, now_s: float) -> Somebody:
        """Who shows that. A token goes before a certificate. Raises Unauthenticated for a token that is not good."""
        somebody = self._lately.get(credentials)
        if somebody is None or now_s >= somebody.until_s:
            somebody = self._found(credentials, now_s)
            if len(self._lately) >= MAX_LATELY:
                self._lately.clear()
            self._lately[credentials] = somebody
        return somebody

    def _found(self, credentials: Credentials, now_s: float) -> Somebody:
        if credentials.token:
            return self._by_token(credentials.token, now_s)
        return next(self._by_names(credentials.names), self._anonymous)

    def _by_token(self, secret: str, now_s: float) -> Somebody:
        digest = Token.of(secret).digest
        found = self._tokens.get(self._place(digest))
        if found is None or not hmac.compare_digest(found[0].digest, digest):
            raise Unauthenticated(_UNKNOWN)
        if now_s >= found[0].expires_s:
            raise Unauthenticated(f"this token of {found[1].identity} has expired")
        return found[1]

    def _by_names(self, names: Iterable[str]) -> Iterator[Somebody]:
        shown = [plain_name(name) for name in names]
        return (known for pattern, known in self._certificates if any(map(pattern.fits, shown)))

    def _place(self, digest: bytes) -> bytes:
        return hmac.digest(self._key, digest, "sha256")


def plain_name(name: str) -> str:
    """A name of a certificate as names are compared: of DNS names, case says nothing."""
    return name if "://" in name else name.lower()
