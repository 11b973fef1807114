"""CORE: addresses of registries and of instances, as people write them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING

from registry_api.limits import UNIX, UNIX_ADDRESS
from registry_client.checks import host as check_host
from registry_client.checks import shown
from registry_client.errors import InvalidArgument, InvalidTarget

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_PORT = 7400
MAX_DIGITS = 5
_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[^\[\]:/?#\s\ud800-\udfff]+)(?::(?P<port>[0-9]+))?")


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


def is_of_this_machine(address: str) -> bool:
    """Whether what is said to an address, HOST:PORT or unix:PATH, cannot leave this machine."""
    host = address.rpartition(":")[0].strip("[]")
    if address.startswith(UNIX) or host.lower() == "localhost":
        return True
    try:
        it = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = it.ipv4_mapped if isinstance(it, IPv6Address) else None
    return (mapped or it).is_loopback


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
