"""Where a registry is: lists of addresses, and `registry://` URLs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from registry_client.errors import InvalidTarget
from registry_client.instance import DEFAULT_NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SCHEME = "registry"
DEFAULT_PORT = 7400
# As in registry.proto, NAMES.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@~+-]{0,127}")
_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[^\[\]:/?#\s]+)(?::(?P<port>\d+))?")


def parse_addresses(addresses: str | Sequence[str]) -> tuple[str, ...]:
    """The addresses of one registry, from `h1:7400,h2:7400` or a sequence; the port defaults to 7400.

    Raises InvalidTarget, naming the address that is wrong.
    """
    texts = addresses.split(",") if isinstance(addresses, str) else list(addresses)
    parsed = tuple(dict.fromkeys(_address(text.strip()) for text in texts))
    if not parsed:
        raise InvalidTarget("addresses: at least one HOST:PORT of the registry is needed")
    return parsed


def _address(text: str) -> str:
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise InvalidTarget(
            f"address {text!r}: must be HOST:PORT, such as 127.0.0.1:{DEFAULT_PORT} or [::1]:{DEFAULT_PORT}"
        )
    port = int(found["port"] or DEFAULT_PORT)
    if not 1 <= port <= 65535:
        raise InvalidTarget(f"address {text!r}: the port must be 1 to 65535")
    return f"{found['host']}:{port}"


@dataclass(frozen=True, slots=True)
class Target:
    """A `registry://ADDRESSES/[NAMESPACE/]SERVICE[?OPTION=VALUE&…]` URL, taken apart."""

    addresses: tuple[str, ...]
    service: str
    namespace: str = DEFAULT_NAMESPACE
    options: Mapping[str, str] = field(default_factory=dict)


def parse_target(url: str) -> Target:
    """Take a `registry://` URL apart. Raises InvalidTarget, naming the part that is wrong."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme != SCHEME:
        raise InvalidTarget(
            f"target {url!r}: must begin with {SCHEME}://, as in {SCHEME}://127.0.0.1:{DEFAULT_PORT}/player"
        )
    rest, _, query = rest.partition("?")
    where, _, path = rest.partition("/")
    if not where:
        raise InvalidTarget(f"target {url!r}: the address of the registry is missing after {SCHEME}://")
    names = path.rstrip("/").split("/")
    if not path or len(names) > 2:
        raise InvalidTarget(f"target {url!r}: the path must be SERVICE or NAMESPACE/SERVICE, is {path!r}")
    service, namespace = names[-1], names[0] if len(names) == 2 else DEFAULT_NAMESPACE
    for part, name in (("namespace", namespace), ("service", service)):
        if _NAME.fullmatch(name) is None:
            raise InvalidTarget(
                f"target {url!r}: the {part} {name!r} must be 1 to 128 letters, digits and any of _ . : @ ~ + -"
            )
    return Target(parse_addresses(where), service, namespace, _options(url, query))


def _options(url: str, query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise InvalidTarget(f"target {url!r}: the options {query!r} must be NAME=VALUE, joined by &") from None
    for name, value in pairs:
        if name in options:
            raise InvalidTarget(f"target {url!r}: the option {name!r} is given twice")
        options[name] = value
    return options
