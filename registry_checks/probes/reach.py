"""SHELL: which addresses may be looked at, and the connections to them.

Whoever registers an instance names its host, and so decides to whom a server connects. What only this machine or this
link can reach was not meant for others: it is refused, also where a name stands for it, unless that is allowed.
"""

import asyncio
import ipaddress
import ssl
from dataclasses import dataclass, field
from functools import lru_cache

from registry_checks.names import Lookups, Names
from registry_checks.probes.base import Failed

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Reach:
    """What may be looked at beside what everybody reaches. `ca` is a file of certificates to trust, empty for those of
    the system."""

    loopback: bool = False
    link_local: bool = False
    ca: str = ""
    names: Names = field(default_factory=Lookups, repr=False, compare=False)

    def refuses(self, host: str) -> str:
        """Why an IP address may not be looked at, or a name that always is this machine's; empty if it may be, or is
        any other name."""
        if host.rstrip(".").lower() in ("localhost", "localhost.localdomain"):
            host = "127.0.0.1"
        found = _literal(host)
        return self._refuses(found) if found is not None else ""

    def _refuses(self, found: Address) -> str:
        return _refusal(found, self.loopback, self.link_local)

    async def addresses(self, host: str) -> list[str]:
        """The IP addresses of a host that may be looked at. Raises Failed if there is none, OSError for a name that
        nobody knows."""
        found = [host] if _literal(host) else await self.names.addresses(host)
        refusals = [self._refuses(_literal(it) or ipaddress.ip_address(it)) for it in found]
        allowed = [it for it, refusal in zip(found, refusals, strict=True) if not refusal]
        if not allowed:
            raise Failed(refusals[0])
        return allowed

    async def connect(
        self, host: str, port: int, context: ssl.SSLContext | None = None, server_name: str | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the first address that takes one. Raises Failed or OSError."""
        error: OSError | None = None
        for address in await self.addresses(host):
            try:
                return await asyncio.open_connection(address, port, ssl=context, server_hostname=server_name)
            except ssl.SSLError:
                raise
            except OSError as refused:
                error = refused
        raise error or Failed(f"{host} has no address")

    def context(self, *, insecure: bool) -> ssl.SSLContext:
        """How a certificate is looked at."""
        context = ssl.create_default_context(cafile=self.ca or None)
        if insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


@lru_cache(maxsize=4096)
def _refusal(found: Address, loopback: bool, link_local: bool) -> str:
    address = getattr(found, "ipv4_mapped", None) or found
    if (address.is_loopback or address.is_unspecified) and not loopback:
        return f"{found} is this machine itself, which is not looked at"
    if address.is_link_local and not link_local:
        return f"{found} is link-local, and not looked at"
    if address.is_multicast:
        return f"{found} is a multicast address"
    return ""


@lru_cache(maxsize=4096)
def _literal(host: str) -> Address | None:
    """The address that a host is written as; None for a name. The same few are looked at all the time."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
