"""Whether an owner is where it says: it calls from there, and connections are taken there."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Iterator

import pytest

from registry_checks.probes import Reach
from registry_server.homes import MOST, NOWHERE, Connecting, _takes_connections
from tests.support.etcd import free_port

HERE = Connecting(Reach(loopback=True))
PEER = "ipv4:127.0.0.1:50123"


@pytest.fixture
async def port() -> AsyncIterator[int]:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("peer", [PEER, "ipv6:[::1]:5", "ipv6:%5B::1%5D:5", "ipv6:[::ffff:127.0.0.1]:5", "unix:"])
async def test_who_calls_from_this_machine_is_at_its_addresses(host: str, peer: str, port: int) -> None:
    assert await HERE.is_at_home((host, port), peer)


async def test_where_nothing_listens_nobody_is() -> None:
    nobodys = free_port()
    assert not await HERE.is_at_home(("127.0.0.1", nobodys), PEER)
    assert not await HERE.answers(("127.0.0.1", nobodys))


@pytest.mark.parametrize("peer", ["ipv4:192.0.2.7:1", "ipv6:[2001:db8::1]:1", "ipv6:[nonsense", "ipv4:", ""])
async def test_who_calls_from_elsewhere_is_not_here(peer: str, port: int) -> None:
    assert await HERE.is_at_home(("127.0.0.1", port), peer) == (peer in ("", "ipv4:", "ipv6:[nonsense"))


@pytest.mark.parametrize("host", ["192.0.2.7", "no-such-host.invalid", "256.1.1.1"])
async def test_nobody_of_this_machine_is_at_anothers_address(host: str) -> None:
    assert not await HERE.is_at_home((host, 1), PEER)


async def test_what_must_not_be_looked_at_may_answer(port: int) -> None:
    """So nobody loses what he has because of where he is, and nobody finds out what listens on the server's machine."""
    for homes in (Connecting(Reach()), Connecting(None), NOWHERE):
        assert await homes.answers(("127.0.0.1", free_port()))
    assert await HERE.answers(("127.0.0.1", port))
    assert not await NOWHERE.is_at_home(("127.0.0.1", port), PEER)


@pytest.fixture
def mute(port: int) -> Iterator[str]:
    """An address that never answers at that port: what comes is not let in, and not refused either."""
    with socket.socket() as full, contextlib.ExitStack() as waiting:
        full.bind(("127.0.0.2", port))
        full.listen(0)
        for _ in range(8):
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        yield "127.0.0.2"


async def test_of_several_addresses_one_is_enough(mute: str, port: int) -> None:
    """Whatever the others do: nobody is put out because one of his addresses is not reached."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await _takes_connections([mute], port)
    assert await _takes_connections([mute, "127.0.0.3", "::1", "127.0.0.1"], port)
    assert not await _takes_connections(["127.0.0.3"], port)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENETUNREACH, errno.EADDRNOTAVAIL, socket.EAI_AGAIN])
async def test_where_this_machine_cannot_look_somebody_may_answer(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: object) -> None:
        raise OSError(code, "not from here")

    monkeypatch.setattr(asyncio, "open_connection", fails)
    assert await HERE.answers(("127.0.0.1", 1))
    assert not await HERE.is_at_home(("127.0.0.1", 1), PEER)


async def test_who_asks_very_often_holds_up_nobody_else(mute: str, port: int) -> None:
    homes = Connecting(Reach(loopback=True))
    many = [asyncio.create_task(homes.is_at_home((mute, port), PEER)) for _ in range(4 * MOST)]
    await asyncio.sleep(0)
    assert await homes.is_at_home(("127.0.0.1", port), "ipv4:127.0.0.1:2")
    assert sum(it.done() for it in many) < MOST / 4
    for it in many:
        it.cancel()
    await asyncio.wait(many)
