"""SHELL: whether an owner is at the address that it registered: it calls from there, and connections are taken there.

So much anybody can show of its own address, and of nobody else's. Who calls through a proxy, or from behind a network
that changes addresses, cannot; then all is as if nobody could.
"""

import asyncio
import errno
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import islice
from typing import Protocol

from registry_checks.names import Lookups
from registry_checks.probes import Reach
from registry_checks.probes.base import Failed
from registry_server.errors import Contended
from registry_server.limits.peers import host_of, peer_of
from registry_server.model import Address
from registry_server.turns import Turns

TIMEOUT_S = 1.0
# So many are looked at at a time, and of one host so many addresses.
MOST, MOST_ADDRESSES = 32, 8
# What says something of this machine, and nothing of the other.
_OURS = frozenset(
    (
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOBUFS,
        errno.EADDRNOTAVAIL,
        errno.EAFNOSUPPORT,
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.EPERM,
        errno.EACCES,
        socket.EAI_AGAIN,
    )
)


class Homes(Protocol):
    """Who looks."""

    async def is_at_home(self, address: Address, peer: str) -> bool:
        """Whether who calls from `peer`, as gRPC writes it, is at that address, and answers there."""

    async def answers(self, address: Address) -> bool:
        """Whether somebody answers there, or may do so: where it must not be looked at, nobody knows."""


class Nowhere:
    """Nobody is looked for."""

    async def is_at_home(self, address: Address, peer: str) -> bool:
        """No."""
        return False

    async def answers(self, address: Address) -> bool:
        """That may be."""
        return True


NOWHERE: Homes = Nowhere()


class Connecting:
    """Finds out by connecting. What others registered is looked at as far as `reach` allows it, and not at all without
    one."""

    def __init__(self, reach: Reach | None) -> None:
        self._reach = reach
        self._turns = asyncio.Semaphore(MOST)
        self._names = Lookups()  # of their own: neither those of checks nor what others registered is in their way
        # One at a time of who asks: those of somebody who asks a thousand times hold up nobody else's.
        self._own = Turns()

    async def is_at_home(self, address: Address, peer: str) -> bool:
        """See Homes."""
        host, port = address
        try:
            async with self._own.of([(peer_of(peer),)]), self._turns, asyncio.timeout(TIMEOUT_S):
                own = [it for it in await self._addresses(host) if _is_same_place(peer, it)]
                return bool(own) and await _takes_connections(map(str, own), port)
        except (OSError, Contended):  # a timeout is the first one
            return False

    async def _addresses(self, host: str) -> list[IPv4Address | IPv6Address]:
        """Raises OSError for a name that nobody knows."""
        return [_plain(it) for it in await self._names.addresses(host)]

    async def answers(self, address: Address) -> bool:
        """See Homes."""
        host, port = address
        if self._reach is None:
            return True
        try:
            async with self._turns, asyncio.timeout(TIMEOUT_S):
                return await _takes_connections(await self._reach.addresses(host), port)
        except Failed:
            return True
        except OSError as error:
            return error.errno in _OURS


def _plain(address: str) -> IPv4Address | IPv6Address:
    found = ip_address(address.partition("%")[0])
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found


def _is_same_place(peer: str, address: IPv4Address | IPv6Address) -> bool:
    """Whether who calls from there is at that address. From this machine itself, that is any of its addresses."""
    caller = host_of(peer)
    if caller is None or caller.is_loopback:
        return _is_of_this_machine(address)
    return caller == address


def _is_of_this_machine(address: IPv4Address | IPv6Address) -> bool:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


async def _takes_connections(addresses: Iterable[str], port: int) -> bool:
    """Whether any of them does: all are asked at once, as one may not answer at all. Raises OSError where nobody can
    find out from here."""
    looks = [asyncio.create_task(_refusal(it, port)) for it in islice(addresses, MOST_ADDRESSES)]
    ours: OSError | None = None
    try:
        for look in asyncio.as_completed(looks):
            refusal = await look
            if refusal is None:
                return True
            ours = refusal if refusal.errno in _OURS else ours
    finally:
        for it in looks:
            it.cancel()
    if ours is not None:
        raise ours
    return False


async def _refusal(address: str, port: int) -> OSError | None:
    """What comes of a connection; None for one that is taken."""
    try:
        _, writer = await asyncio.open_connection(address, port)
    except OSError as error:
        return error
    writer.transport.abort()
    return None
