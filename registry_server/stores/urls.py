"""What the URLs of stores have in common: `SCHEME://[USER:PASSWORD@]HOST[:PORT],…[/PATH][?NAME=VALUE&…]`.

Where a mistake is, any piece of the text may be a piece of a password: an `&` that is not escaped makes a parameter of
it, a forgotten `@` a host. So no message quotes the URL; it names the part and counts.
"""

import os
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from registry_server.stores.base import BadStoreURL

_IPV6 = r"\[[0-9A-Fa-f:.]+(?:%\w+)?\]"
_NAME = r"(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?"  # what is longer, or empty, no name server can be asked for
_ADDRESS = re.compile(rf"(?P<host>{_IPV6}|{_NAME})(?::(?P<port>.*))?")
_PORT = re.compile(r"[0-9]{1,5}")
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_AMPERSAND = "is an '&' in a value not written %26?"
_AT = "is the '@' after a user and a password missing?"


@dataclass(frozen=True, slots=True)
class Login:
    """A user of a store. The password is the text itself, or in a file that is read at each login, so it may change."""

    user: str
    password: str | None = field(default=None, repr=False)
    password_file: Path | None = None

    def read_password(self) -> str:
        """The password as of now. Raises OSError when its file cannot be read, or is no text."""
        if self.password_file is None:
            return self.password or ""
        try:
            return self.password_file.read_text(encoding="utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError:
            raise OSError(f"{self.password_file}: is not UTF-8") from None


@dataclass(frozen=True, slots=True)
class TLS:
    """Files in PEM: who to trust (None: the system's authorities), and the client's own certificate and key."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """As the files are now. Raises OSError, which names the file."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as error:  # an SSLError is one
            raise OSError(f"ca: {self.ca}: {error.strerror}") from None
        # As everywhere but in Python 3.13 and later: authorities that people made by hand lack an extension or two.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.verify_flags |= (
            ssl.VERIFY_X509_PARTIAL_CHAIN
        )  # as these systems' own tools: one that another one signed
        if self.cert is not None:
            try:
                # A key that needs a password is refused. Without one here, it would be asked for at the terminal.
                context.load_cert_chain(self.cert, self.key, password="")
            except OSError as error:
                raise OSError(f"cert and key: {self.cert}, {self.key}: {error.strerror}") from None
        return context


class Parts(NamedTuple):
    """A URL taken apart. User and password, `addresses` and `path` are as they are written; `path` has no first `/`."""

    userinfo: str
    addresses: str
    path: str
    parameters: Mapping[str, str]

    def endpoints(self, default_port: int) -> tuple[str, ...]:
        """All addresses, each as `host:port`. Raises BadStoreURL."""
        return tuple(_endpoint(text, nth, default_port) for nth, text in enumerate(self.addresses.split(","), 1))

    def login(self) -> Login | None:
        """Of what stands before the `@` and the parameters user, password and password_file. Raises BadStoreURL."""
        written, _, behind = self.userinfo.partition(":")
        name, secret = decoded(written, "the user"), decoded(behind, "the password")
        given, secret_file = self.parameters, self.parameters.get("password_file")
        _at_most_one("user", name, given.get("user"))
        _at_most_one("password", secret, given.get("password"), secret_file)
        user, password = name or given.get("user"), secret or given.get("password")
        if user is None:
            if password or secret_file:
                raise bad("a password needs a user")
            return None
        if not (password or secret_file):
            raise bad("user needs a password (password_file=FILE, or password=…)")
        return Login(user, password, readable("password_file", secret_file))

    def tls(self) -> TLS | None:
        """Of the parameters tls, ca, cert and key. Raises BadStoreURL."""
        ca, cert, key = (readable(name, self.parameters.get(name)) for name in ("ca", "cert", "key"))
        if (cert is None) != (key is None):
            raise bad("cert and key belong together")
        asked = self.parameters.get("tls")
        if asked not in (None, "true", "false"):
            raise bad("tls is neither true nor false")
        if asked == "false" and (ca or cert):
            raise bad("tls=false contradicts ca and cert")
        return TLS(ca, cert, key) if asked == "true" or ca or cert else None


def split(url: str, scheme: str, known: Sequence[str]) -> Parts:
    """Take a URL apart that begins with `scheme` (`etcd://`) and has no other parameters than those that are known.

    Raises BadStoreURL.
    """
    if not url.startswith(scheme):
        raise bad(f"this kind of store starts with {scheme}")
    if any(character.isspace() or not character.isprintable() for character in url):
        raise bad("has a blank or a character that does not print; in a user or password it is percent-encoded")
    authority, _, query = url.removeprefix(scheme).partition("?")
    userinfo, _, rest = authority.rpartition("@")
    if "#" in url or "/" in userinfo or "@" in query.partition("=")[0] or "@" in rest.partition("/")[2]:
        raise bad("'/', '?', '#' and '@' in a user or password have to be percent-encoded, and nothing follows a '#'")
    addresses, _, path = rest.partition("/")
    return Parts(userinfo, addresses, path, _parameters(query, known))


def _endpoint(text: str, nth: int, default_port: int) -> str:
    where = f"the {_ordinal(nth)} address"
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise bad(f"{where} is not HOST, HOST:PORT, [IPV6] or [IPV6]:PORT; {_AT}")
    port = match["port"]
    if port is None:
        return f"{match['host']}:{default_port}"
    if not (_PORT.fullmatch(port) and 0 < int(port) < 65536):
        raise bad(f"the port of {where} is not a number from 1 to 65535; {_AT}")
    return f"{match['host']}:{int(port)}"


def _parameters(query: str, known: Sequence[str]) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for nth, text in enumerate(query.split("&") if query else (), 1):
        name, _, value = text.partition("=")
        if name not in known:
            raise bad(f"the {_ordinal(nth)} parameter is {_unknown(name, known)}; {_AMPERSAND}")
        if name in parameters:
            raise bad(f"parameter '{name}' is given twice")
        if not value:
            raise bad(f"parameter '{name}' is empty")
        parameters[name] = decoded(value, f"parameter '{name}'")
    return parameters


def _unknown(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"none of {', '.join(known)}" + (f" (nearest: {near[0]})" if near else "")


def decoded(text: str, what: str) -> str:
    """Without percent-encoding. A `+` stays what it is, as everywhere in a URL but in forms of web pages."""
    try:
        if not _ESCAPE.search(text):
            return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        pass
    raise bad(f"{what} has a '%' that escapes no character; a '%' itself is written %25")


def _at_most_one(what: str, *given: str | None) -> None:
    if sum(1 for value in given if value) > 1:
        raise bad(f"{what} is given twice")


def readable(name: str, path: str | None) -> Path | None:
    """The file that a parameter names, if it is given. Raises BadStoreURL when it cannot be read."""
    if path is None:
        return None
    # The one of Path raises when a directory must not be searched.
    if not (os.path.isfile(path) and os.access(path, os.R_OK)):  # noqa: PTH113
        raise bad(f"{name}: there is no readable file of that name")
    return Path(path)


def _ordinal(number: int) -> str:
    return f"{number}{({1: 'st', 2: 'nd', 3: 'rd'}).get(number, 'th')}"


def bad(text: str) -> BadStoreURL:
    """A mistake in the part that the text names."""
    return BadStoreURL(f"store URL: {text}")
