"""The URL of an etcd cluster: `etcd://[USER:PASSWORD@]HOST[:PORT],…[?NAME=VALUE&…]`."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from registry_server.stores.base import BadStoreURL

DEFAULT_PORT = 2379
DEFAULT_PREFIX = "/grpc-registry"

_PARAMETERS = ("ca", "cert", "key", "user", "password", "password_file", "prefix", "tls")
_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[^\[\]:]+)(?::(?P<port>.*))?", re.DOTALL)
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[.*\]")


@dataclass(frozen=True, slots=True)
class Login:
    """A user of etcd. The password is the text itself, or in a file that is read at each login, so it may change."""

    user: str
    password: str | None = field(default=None, repr=False)
    password_file: Path | None = None

    def read_password(self) -> str:
        """The password as of now. Raises OSError when its file cannot be read."""
        if self.password_file is not None:
            return self.password_file.read_text(encoding="utf-8").rstrip("\r\n")
        return self.password or ""


@dataclass(frozen=True, slots=True)
class TLS:
    """Files in PEM: who to trust (None: the system's authorities), and the client's own certificate and key."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class EtcdURL:
    """Where an etcd cluster is and how to speak to it. `endpoints` are `host:port`, ready for gRPC."""

    endpoints: tuple[str, ...]
    prefix: str = DEFAULT_PREFIX
    login: Login | None = None
    tls: TLS | None = None

    @classmethod
    def parse(cls, url: str) -> "EtcdURL":
        """Read `url`. Raises BadStoreURL naming the part that is wrong; its text never carries the password."""
        parts = _split(url)
        userinfo, _, addresses = parts.netloc.rpartition("@")
        query = _query(parts.query)
        return cls(
            endpoints=tuple(_endpoint(address) for address in addresses.split(",")),
            prefix=_prefix(query.get("prefix", DEFAULT_PREFIX)),
            login=_login(userinfo, query),
            tls=_tls(query),
        )


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise BadStoreURL(f"store URL: {error}") from None
    if parts.scheme != "etcd" or not url.partition(":")[2].startswith("//"):
        raise BadStoreURL("store URL: an etcd store starts with etcd://")
    if "@" in parts.path + parts.fragment + parts.query.partition("=")[0]:
        # Likely the end of a password; no later message may quote it.
        raise BadStoreURL("store URL: '/', '?', '#' and '@' in a user or password have to be percent-encoded")
    if parts.path not in ("", "/"):
        raise BadStoreURL(
            f"store URL: path {parts.path!r} has no meaning; to set the prefix of the keys use ?prefix=/…"
        )
    if parts.fragment:
        raise BadStoreURL("store URL: '#…' has no meaning")
    return parts


def _endpoint(address: str) -> str:
    match = _ADDRESS.fullmatch(address)
    if match is None or not _HOST.fullmatch(match["host"]):
        raise BadStoreURL(f"store URL: host {address!r} is not HOST, HOST:PORT, [IPV6] or [IPV6]:PORT")
    return f"{match['host']}:{_port(match['port'], address)}"


def _port(text: str | None, address: str) -> int:
    if text is None:
        return DEFAULT_PORT
    if not (text.isascii() and text.isdigit() and 0 < int(text[:9]) < 65536):
        raise BadStoreURL(f"store URL: port of {address!r} is not a number from 1 to 65535")
    return int(text)


def _query(text: str) -> dict[str, str]:
    query: dict[str, str] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        if name not in _PARAMETERS:
            raise BadStoreURL(f"store URL: unknown parameter {name!r}; there are {', '.join(_PARAMETERS)}")
        if name in query:
            raise BadStoreURL(f"store URL: parameter {name!r} is given twice")
        if not value:
            raise BadStoreURL(f"store URL: parameter {name!r} is empty")
        query[name] = value
    return query


def _prefix(text: str) -> str:
    prefix = text.rstrip("/")
    if not prefix.startswith("/") or "\0" in prefix:
        raise BadStoreURL(f"store URL: prefix {text!r} must start with '/' and name something")
    return prefix


def _login(userinfo: str, query: dict[str, str]) -> Login | None:
    name, _, secret = (unquote(part) for part in userinfo.partition(":"))
    _at_most_one("user", name, query.get("user"))
    _at_most_one("password", secret, query.get("password"), query.get("password_file"))
    user, password = name or query.get("user"), secret or query.get("password")
    secret_file = query.get("password_file")
    if user is None:
        if password or secret_file:
            raise BadStoreURL("store URL: a password needs a user")
        return None
    if not (password or secret_file):
        raise BadStoreURL("store URL: user needs a password (password=… or password_file=FILE)")
    return Login(user, password, _readable("password_file", secret_file))


def _at_most_one(what: str, *given: str | None) -> None:
    if sum(1 for value in given if value) > 1:
        raise BadStoreURL(f"store URL: {what} is given twice")


def _tls(query: dict[str, str]) -> TLS | None:
    ca, cert, key = (_readable(name, query.get(name)) for name in ("ca", "cert", "key"))
    if (cert is None) != (key is None):
        raise BadStoreURL("store URL: cert and key belong together")
    asked = query.get("tls")
    if asked not in (None, "true", "false"):
        raise BadStoreURL(f"store URL: tls {asked!r} is neither true nor false")
    if asked == "false" and (ca or cert):
        raise BadStoreURL("store URL: tls=false contradicts ca and cert")
    return TLS(ca, cert, key) if asked == "true" or ca or cert else None


def _readable(name: str, path: str | None) -> Path | None:
    if path is None:
        return None
    if not (Path(path).is_file() and os.access(path, os.R_OK)):
        raise BadStoreURL(f"store URL: {name}: no readable file {path!r}")
    return Path(path)
