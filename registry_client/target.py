"""Where a registry is: lists of addresses, and `registry://` URLs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

from registry_api.limits import DEFAULT_NAMESPACE, NAME, UNIX, UNIX_ADDRESS
from registry_client.checks import host as check_host
from registry_client.checks import shown
from registry_client.errors import InvalidArgument, InvalidTarget

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEME = "registry"
DEFAULT_PORT = 7400
MAX_DIGITS = 5
_LONGEST_SHOWN = 300
_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[^\[\]:/?#\s]+)(?::(?P<port>[0-9]+))?")


def parse_addresses(addresses: str | Sequence[str]) -> tuple[str, ...]:
    """The addresses of one registry, from `h1:7400,h2:7400` or a sequence; the port defaults to 7400.

    The registry of this machine may be `unix:PATH`, a socket's file.

    Raises InvalidTarget, naming the address that is wrong.
    """
    if isinstance(addresses, bytes | Mapping) or not isinstance(addresses, Iterable):
        raise InvalidTarget(f"addresses: must be 'HOST:PORT[,HOST:PORT]' or a list of such, is {shown(addresses)}")
    texts = addresses.split(",") if isinstance(addresses, str) else list(addresses)
    parsed = tuple(dict.fromkeys(map(_address, texts)))
    if not parsed:
        raise InvalidTarget("addresses: at least one HOST:PORT of the registry is needed")
    return parsed


def parse_endpoint(text: str) -> tuple[str, int]:
    """Where an instance listens, from HOST:PORT; an IPv6 address stands in brackets. Raises InvalidTarget."""
    host, port = _host_and_port(text)
    bare = host.strip("[]")
    if port is None:
        raise InvalidTarget(f"address {shown(text)}: the port is missing; write {host}:8001")
    try:
        return check_host("host", bare), port
    except InvalidArgument as error:
        raise InvalidTarget(f"address {shown(text)}: the {error}") from None


def _address(text: object) -> str:
    if isinstance(text, str) and text.strip().startswith(UNIX):
        return _unix(text.strip())
    host, port = _host_and_port(text)
    return f"{host}:{DEFAULT_PORT if port is None else port}"


def _unix(text: str) -> str:
    found = UNIX_ADDRESS.fullmatch(text)
    if found is None:
        raise InvalidTarget(f"address {shown(text)}: must be unix:PATH, such as unix:/run/registry.sock")
    return UNIX + found["path"]


def _host_and_port(text: object) -> tuple[str, int | None]:
    """The host, an IPv6 address with its brackets, and the port if there is one."""
    if not isinstance(text, str):
        raise InvalidTarget(f"address {shown(text)}: must be a string, such as '127.0.0.1:{DEFAULT_PORT}'")
    found = _ADDRESS.fullmatch(text.strip())
    if found is None:
        raise InvalidTarget(f"address {shown(text)}: must be HOST:PORT, {_how_to_write(text.strip())}")
    if found["port"] is None:
        return found["host"], None
    port = int(found["port"]) if len(found["port"]) <= MAX_DIGITS else 0
    if not 1 <= port <= 65535:
        raise InvalidTarget(f"address {shown(text)}: the port must be 1 to 65535")
    return found["host"], port


def _how_to_write(text: str) -> str:
    """An example near to what was given: who has the last colons of an IPv6 address cannot be told without brackets."""
    host, _, port = text.rpartition(":")
    whole, part = _is_ipv6(text), _is_ipv6(host) and port.isdecimal()
    if whole and part:
        return f"which this is in two ways: write [{host}]:{port} or [{text}]:PORT"
    if whole or part:
        return f"with an IPv6 address in brackets: write [{host}]:{port}" if part else f"write [{text}]:PORT"
    return f"such as 127.0.0.1:{DEFAULT_PORT} or [::1]:{DEFAULT_PORT}"


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Target:
    """A `registry://ADDRESSES/[NAMESPACE/]SERVICE[?OPTION=VALUE&…]` URL, taken apart.

    In the addresses `,` stands between replicas of a registry, and `|` before the next registry. Each `/` of a
    `unix:PATH` is `%2F` there.
    """

    addresses: tuple[str, ...]
    service: str
    namespace: str = DEFAULT_NAMESPACE
    options: Mapping[str, str] = field(default_factory=dict)
    first: int = 0
    """So many of the addresses are of the registry to be preferred; 0 when there is only one."""


def parse_target(url: str) -> Target:
    """Take a `registry://` URL apart. Raises InvalidTarget, naming the part that is wrong."""
    if not isinstance(url, str):
        raise InvalidTarget(f"target {shown(url)}: must be a string")
    scheme, separator, rest = url.partition("://")
    if not separator or scheme != SCHEME:
        raise InvalidTarget(
            f"target {show_url(url)}: must begin with {SCHEME}://, as in {SCHEME}://127.0.0.1:{DEFAULT_PORT}/player"
        )
    rest, _, query = rest.partition("?")
    where, _, path = rest.partition("/")
    if not where:
        raise InvalidTarget(f"target {show_url(url)}: the address of the registry is missing after {SCHEME}://")
    if UNIX in where.replace("|", ",").split(","):
        rule = f"each / of a unix:PATH is %2F, as in {SCHEME}://unix:%2Frun%2Fregistry.sock/player"
        raise InvalidTarget(f"target {show_url(url)}: {rule}")
    names = path.rstrip("/").split("/")
    if not path or len(names) > 2:
        raise InvalidTarget(f"target {show_url(url)}: the path must be SERVICE or NAMESPACE/SERVICE, is {shown(path)}")
    service, namespace = names[-1], names[0] if len(names) == 2 else DEFAULT_NAMESPACE
    for part, name in (("namespace", namespace), ("service", service)):
        if NAME.fullmatch(name) is None:
            rule = "must be 1 to 128 letters, digits and any of _ . : @ ~ + -"
            raise InvalidTarget(f"target {show_url(url)}: the {part} {shown(name)} {rule}")
    registries = [parse_addresses(_written_out(addresses)) for addresses in where.split("|")]
    first = len(registries[0]) if len(registries) > 1 else 0
    addresses = tuple(dict.fromkeys(address for registry in registries for address in registry))
    return Target(addresses, service, namespace, _options(url, query), first)


def _written_out(addresses: str) -> list[str]:
    """The addresses, of which a path cannot stand in a URL as it is."""
    return [unquote(it) if it.startswith(UNIX) else it for it in addresses.split(",")]


def show_url(url: str) -> str:
    """The URL as messages quote it, of bounded length."""
    return repr(url) if len(url) <= _LONGEST_SHOWN else shown(url)


def _options(url: str, query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        rule = "must be NAME=VALUE, joined by &"
        raise InvalidTarget(f"target {show_url(url)}: the options {shown(query)} {rule}") from None
    for name, value in pairs:
        if name in options:
            raise InvalidTarget(f"target {show_url(url)}: the option {shown(name)} is given twice")
        options[name] = value
    return options
