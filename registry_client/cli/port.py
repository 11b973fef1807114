"""SHELL: whether something listens at an address, and whether that address is this machine's."""

from __future__ import annotations

import asyncio
import contextlib
import socket

_TRY_S = 1.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.25


async def is_local(host: str) -> bool:
    """Whether a process of this machine can listen there. False for a name that nobody knows."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return any(_can_bind(family, where) for family, _, _, _, where in found)


def _can_bind(family: int, where: object) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind(where)  # type: ignore[arg-type]  # as the resolver gave it
    except OSError:
        return False
    return True


async def listens(host: str, port: int) -> bool:
    """Whether a connection to there is taken just now."""
    try:
        async with asyncio.timeout(_TRY_S):
            _, writer = await asyncio.open_connection(host, port)
    except OSError:  # a timeout is one
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


async def wait_until_it_listens(host: str, port: int) -> None:
    """Wait for that, for as long as it takes."""
    pause_s = _FIRST_PAUSE_S
    while not await listens(host, port):
        await asyncio.sleep(pause_s)
        pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)
