"""The URL of an etcd cluster: `etcd://[USER:PASSWORD@]HOST[:PORT],…[?NAME=VALUE&…]`.

Where a mistake is, any piece of the text may be a piece of a password: an `&` that is not escaped makes a parameter of
it, a forgotten `@` a host. So no message quotes the URL; it names the part and counts.
"""

import os
import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote_to_bytes

from registry_server.stores.base import BadStoreURL

SCHEME = "etcd://"
DEFAULT_PORT = 2379
DEFAULT_PREFIX = "/grpc-registry"

_PARAMETERS = ("ca", "cert", "key", "user", "password", "password_file", "prefix", "tls", "client")
_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[A-Za-z0-9._-]+)(?::(?P<port>.*))?")
_PORT = re.compile(r"[0-9]{1,5}")
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_AMPERSAND = "is an '&' in a value not written %26?"
_AT = "is the '@' after a user and a password missing?"


@dataclass(frozen=True, slots=True)
class Login:
    """A user of etcd. The password is the text itself, or in a file that is read at each login, so it may change."""

    user: str
    password: str | None = field(default=None, repr=False)
    password_file: Path | None = None

    def read_password(self) -> str:
        """The password as of now. Raises OSError when its file cannot be read, or is no text."""
        if self.password_file is None:
            return self.password or ""
        try:
            return self.password_file.read_text(encoding="utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise OSError(f"{self.password_file}: is not UTF-8") from None


@dataclass(frozen=True, slots=True)
class TLS:
    """Files in PEM: who to trust (None: the system's authorities), and the client's own certificate and key."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


class Client(StrEnum):
    """What speaks to etcd: asyncio and libnghttp2 (the package ngh2), or grpcio. Left out, the first there is."""

    HTTP2 = "http2"
    GRPC = "grpc"


@dataclass(frozen=True, slots=True)
class EtcdURL:
    """Where an etcd cluster is and how to speak to it. `endpoints` are `host:port`, ready for gRPC."""

    endpoints: tuple[str, ...]
    prefix: str = DEFAULT_PREFIX
    login: Login | None = None
    tls: TLS | None = None
    client: Client | None = None

    @property
    def has_password(self) -> bool:
        """Whether the URL itself has a password in it, for everybody who sees the URL."""
        return self.login is not None and self.login.password is not None

    @classmethod
    def parse(cls, url: str) -> "EtcdURL":
        """Read `url`. Raises BadStoreURL naming the part that is wrong; its text quotes nothing of the URL."""
        userinfo, addresses, query = _split(url)
        parameters = _parameters(query)
        return cls(
            endpoints=tuple(_endpoint(text, nth) for nth, text in enumerate(addresses.split(","), 1)),
            prefix=_prefix(parameters.get("prefix", DEFAULT_PREFIX)),
            login=_login(userinfo, parameters),
            tls=_tls(parameters),
            client=_client(parameters),
        )


def _split(url: str) -> tuple[str, str, str]:
    """User and password, addresses, parameters; as they are written."""
    if not url.startswith(SCHEME):
        raise _bad(f"an etcd store starts with {SCHEME}")
    if any(character.isspace() or not character.isprintable() for character in url):
        raise _bad("has a blank or a character that does not print; in a user or password it is percent-encoded")
    authority, _, query = url.removeprefix(SCHEME).partition("?")
    userinfo, _, addresses = authority.rpartition("@")
    if "#" in url or "/" in userinfo or "@" in query.partition("=")[0] or "@" in addresses.partition("/")[2]:
        raise _bad("'/', '?', '#' and '@' in a user or password have to be percent-encoded, and nothing follows a '#'")
    addresses, _, path = addresses.partition("/")
    if path:
        raise _bad("a path has no meaning; to set the prefix of the keys use ?prefix=/…")
    return userinfo, addresses, query


def _endpoint(text: str, nth: int) -> str:
    where = f"the {_ordinal(nth)} address"
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise _bad(f"{where} is not HOST, HOST:PORT, [IPV6] or [IPV6]:PORT; {_AT}")
    port = match["port"]
    if port is None:
        return f"{match['host']}:{DEFAULT_PORT}"
    if not (_PORT.fullmatch(port) and 0 < int(port) < 65536):
        raise _bad(f"the port of {where} is not a number from 1 to 65535; {_AT}")
    return f"{match['host']}:{int(port)}"


def _parameters(query: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for nth, text in enumerate(query.split("&") if query else (), 1):
        name, _, value = text.partition("=")
        if name not in _PARAMETERS:
            raise _bad(f"the {_ordinal(nth)} parameter is {_unknown(name)}; {_AMPERSAND}")
        if name in parameters:
            raise _bad(f"parameter '{name}' is given twice")
        if not value:
            raise _bad(f"parameter '{name}' is empty")
        parameters[name] = _decoded(value, f"parameter '{name}'")
    return parameters


def _unknown(name: str) -> str:
    near = get_close_matches(name, _PARAMETERS, n=1)
    return f"none of {', '.join(_PARAMETERS)}" + (f" (nearest: {near[0]})" if near else "")


def _decoded(text: str, what: str) -> str:
    """A `+` stays what it is, as everywhere in a URL but in forms of web pages."""
    try:
        if not _ESCAPE.search(text):
            return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        pass
    raise _bad(f"{what} has a '%' that escapes no character; a '%' itself is written %25")


def _prefix(text: str) -> str:
    prefix = text.rstrip("/")
    if not prefix.startswith("/") or "\0" in prefix:
        raise _bad("prefix must start with '/' and name something")
    return prefix


def _login(userinfo: str, parameters: dict[str, str]) -> Login | None:
    written, _, behind = userinfo.partition(":")
    name, secret = _decoded(written, "the user"), _decoded(behind, "the password")
    _at_most_one("user", name, parameters.get("user"))
    _at_most_one("password", secret, parameters.get("password"), parameters.get("password_file"))
    user, password = name or parameters.get("user"), secret or parameters.get("password")
    secret_file = parameters.get("password_file")
    if user is None:
        if password or secret_file:
            raise _bad("a password needs a user")
        return None
    if not (password or secret_file):
        raise _bad("user needs a password (password_file=FILE, or password=…)")
    return Login(user, password, _readable("password_file", secret_file))


def _at_most_one(what: str, *given: str | None) -> None:
    if sum(1 for value in given if value) > 1:
        raise _bad(f"{what} is given twice")


def _tls(parameters: dict[str, str]) -> TLS | None:
    ca, cert, key = (_readable(name, parameters.get(name)) for name in ("ca", "cert", "key"))
    if (cert is None) != (key is None):
        raise _bad("cert and key belong together")
    asked = parameters.get("tls")
    if asked not in (None, "true", "false"):
        raise _bad("tls is neither true nor false")
    if asked == "false" and (ca or cert):
        raise _bad("tls=false contradicts ca and cert")
    return TLS(ca, cert, key) if asked == "true" or ca or cert else None


def _client(parameters: dict[str, str]) -> Client | None:
    asked = parameters.get("client")
    if asked is None:
        return None
    if asked not in list(Client):
        raise _bad("client is neither http2 nor grpc")
    if asked == Client.HTTP2 and find_spec("ngh2") is None:
        raise _bad("client=http2 needs the package ngh2, which is not installed")
    return Client(asked)


def _readable(name: str, path: str | None) -> Path | None:
    if path is None:
        return None
    if "\0" in path or not (Path(path).is_file() and os.access(path, os.R_OK)):
        raise _bad(f"{name}: there is no readable file of that name")
    return Path(path)


def _ordinal(number: int) -> str:
    return f"{number}{({1: 'st', 2: 'nd', 3: 'rd'}).get(number, 'th')}"


def _bad(text: str) -> BadStoreURL:
    return BadStoreURL(f"store URL: {text}")
