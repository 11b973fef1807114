"""What a client sends in a row is taken in piece by piece: many small things in it hold up nobody else."""

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from registry_server.transport.http2 import encrypted
from registry_server.transport.http2.connection import Connection
from registry_server.transport.http2.encrypted import MAX_EMPTY_BYTES
from registry_server.transport.http2.shared import READ_BYTES
from tests.support.frames import PREFACE, SETTINGS, WINDOW_UPDATE, frame
from tests.support.records import Records
from tests.support.tls import LOCAL, Authority, certificates_of
from tests.support.transports import Everything, serving
from tests.support.waiting import eventually_async

OPENING = PREFACE + frame(SETTINGS)
# A frame that asks for nothing, and that nobody counts.
CRUMB = frame(WINDOW_UPDATE, payload=b"\0\0\0\1")
PIECES = 2
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Iterator[Callable[[Coroutine[Any, Any, None]], None]]:
    """What runs a coroutine on each loop that a server may have."""
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
        yield runner.run


class Taken:
    """How much connections took in, and how much of it in one turn of the loop at the most."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self._in_turns: Counter[int] = Counter()
        self._turn = 0
        self._is_counting = True
        before = Connection.take_in

        def take_in(connection: Connection, data: Any) -> bool:
            self.sizes.append(len(data))
            self._in_turns[self._turn] += len(data)
            return before(connection, data)

        monkeypatch.setattr(Connection, "take_in", take_in)
        asyncio.get_running_loop().call_soon(self._next)

    @property
    def most(self) -> int:
        return max(self._in_turns.values())

    def stop(self) -> None:
        self._is_counting = False

    def _next(self) -> None:
        self._turn += 1
        if self._is_counting:
            asyncio.get_running_loop().call_soon(self._next)


def filled(to: socket.socket, data: bytes) -> int:
    """Send what the system takes while nobody reads; how much that was."""
    to.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < len(data):
            sent += to.send(data[sent:])
    return sent


def test_of_one_client_no_more_than_a_piece_is_taken_in_one_turn(
    run: Callable[[Coroutine[Any, Any, None]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def flood() -> None:
        async with serving("http2", Everything().service()) as (address, _):
            host, _, port = address.rpartition(":")
            with await asyncio.to_thread(socket.create_connection, (host, int(port))) as client:
                taken = Taken(monkeypatch)
                sent = filled(client, OPENING + CRUMB * (PIECES * READ_BYTES // len(CRUMB) + 1))
                assert sent > PIECES * READ_BYTES
                await eventually_async(lambda: sum(taken.sizes) == sent)
                taken.stop()
                assert taken.most <= READ_BYTES

    run(flood())


@contextlib.asynccontextmanager
async def by_hand(directory: Path) -> AsyncIterator[tuple[str, Authority, Records]]:
    """A server over TLS, its authority, and a client that is connected and has said what it is."""
    authority = Authority()
    tls = certificates_of(authority.pair(*LOCAL))
    async with serving("http2", Everything().service(), tls=tls) as (address, _):
        client = Records(address, authority.pem, directory)
        await asyncio.to_thread(client.__enter__)
        with contextlib.closing(client.socket):
            client.socket.sendall(client.data(OPENING))
            yield address, authority, client


def test_crumbs_of_tls_are_taken_in_together(
    run: Callable[[Coroutine[Any, Any, None]], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Records of a byte each: what came at once is one thing to take in, and no more than a piece of it in a turn."""

    async def flood() -> None:
        async with by_hand(tmp_path) as (_, _, client):
            crumbs = CRUMB * 120
            taken = Taken(monkeypatch)
            records = client.crumbs(crumbs)
            assert filled(client.socket, records) == len(records) > PIECES * READ_BYTES
            await eventually_async(lambda: sum(taken.sizes) >= len(crumbs))
            taken.stop()
            assert len(taken.sizes) < 20
            assert taken.most <= READ_BYTES

    run(flood())


def other_keys(client: Records, bytes_of_it: int) -> bytes:
    """Records that bring nothing, so many bytes of them."""
    made = bytearray()
    while len(made) < bytes_of_it:
        made += client.other_keys()
    return bytes(made)


async def test_who_changes_keys_without_end_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each costs the server more than a call, and OpenSSL would take them for ever."""
    monkeypatch.setattr(encrypted, "EMPTY_S", 1e9)
    async with by_hand(tmp_path) as (_, _, client):
        records = other_keys(client, 2 * MAX_EMPTY_BYTES + 2 * READ_BYTES)
        await asyncio.to_thread(client.socket.sendall, records)
        assert await asyncio.to_thread(client.hears_the_end)


async def test_who_changes_keys_now_and_then_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it has been there."""
    monkeypatch.setattr(encrypted, "EMPTY_S", 0.0)
    async with by_hand(tmp_path) as (_, _, client):
        taken = Taken(monkeypatch)
        await asyncio.to_thread(client.socket.sendall, other_keys(client, 3 * MAX_EMPTY_BYTES) + client.data(CRUMB))
        await eventually_async(lambda: taken.sizes[-1:] == [len(CRUMB)])
        taken.stop()
