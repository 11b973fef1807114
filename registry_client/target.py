"""Where a registry is: `registry://` URLs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

from registry_api.limits import DEFAULT_NAMESPACE, NAME, UNIX
from registry_client.addresses import DEFAULT_PORT, parse_addresses
from registry_client.checks import shown, without_secrets
from registry_client.errors import InvalidTarget

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEME = "registry"
OVER_TLS = "registrys"
_LONGEST_SHOWN = 300


@dataclass(frozen=True, slots=True)
class Target:
    """A `registry://ADDRESSES/[NAMESPACE/]SERVICE[?OPTION=VALUE&…]` URL, taken apart; `registrys://` is over TLS.

    In the addresses `,` stands between replicas of a registry, and `|` before the next registry. Each `/` of a
    `unix:PATH` is `%2F` there.
    """

    addresses: tuple[str, ...]
    service: str
    namespace: str = DEFAULT_NAMESPACE
    options: Mapping[str, str] = field(default_factory=dict)
    first: int = 0
    """So many of the addresses are of the registry to be preferred; 0 when there is only one."""
    over_tls: bool = False


def parse_target(url: str) -> Target:
    """Take a `registry://` URL apart. Raises InvalidTarget, naming the part that is wrong."""
    if not isinstance(url, str):
        raise InvalidTarget(f"target {shown(url)}: must be a string")
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in (SCHEME, OVER_TLS):
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
    return Target(addresses, service, namespace, _options(url, query), first, scheme == OVER_TLS)


def _written_out(addresses: str) -> list[str]:
    """The addresses, of which a path cannot stand in a URL as it is."""
    return [unquote(it) if it.startswith(UNIX) else it for it in addresses.split(",")]


def show_url(url: str) -> str:
    """The URL as messages quote it, of bounded length."""
    text = repr(url) if len(url) <= _LONGEST_SHOWN else shown(url)
    return without_secrets(text, asks=not url.startswith((f"{SCHEME}:", f"{OVER_TLS}:")))


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
