"""`registry_client.xds` channels, in this process: no file, no environment, several registries side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

import registry_client
from registry_client import RegistryClient, xds
from tests.conftest import ServerFactory
from tests.integration.xds.stage import BACKEND, BackEnds, back_ends
from tests.support.etcd import free_port
from tests.support.servers import RegistryServer
from tests.support.taken import Taken
from tests.support.waiting import eventually_async, until

METHOD = f"/{BACKEND}/Who"
CALL_S = 15.0

Who = Callable[..., Awaitable[str]]


@pytest.fixture(autouse=True)
def no_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing comes from the environment."""
    monkeypatch.delenv("GRPC_XDS_BOOTSTRAP", raising=False)
    monkeypatch.delenv("GRPC_XDS_BOOTSTRAP_CONFIG", raising=False)


@pytest.fixture
def server(server_factory: ServerFactory) -> RegistryServer:
    return server_factory(name="registry").start()


@pytest.fixture
async def registry(server: RegistryServer) -> AsyncIterator[RegistryClient]:
    async with registry_client.connect(server.address, cache_dir=None) as client:
        yield client


@pytest.fixture
async def them(registry: RegistryClient) -> AsyncIterator[BackEnds]:
    async with back_ends(registry, a=100) as started:
        yield started


def asked(channel: grpc.aio.Channel) -> Who:
    """What asks for the name of a back end."""
    method = channel.unary_unary(METHOD, None, lambda message: message[2:].decode())

    async def who(*, wait: bool = False) -> str:
        answer: str = await method(b"", timeout=CALL_S, wait_for_ready=wait)
        return answer

    return who


async def answers(who: Who, count: int = 40) -> set[str]:
    return {await who() for _ in range(count)}


async def test_blocking(server: RegistryServer, them: BackEnds) -> None:
    with xds.channel("player", registry=server.address) as channel:
        who = channel.unary_unary(METHOD, None, lambda message: message[2:].decode())
        assert await asyncio.to_thread(who, b"", timeout=CALL_S) == "a"


async def test_asyncio_follows_changes(server: RegistryServer, them: BackEnds) -> None:
    async with xds.aio.channel("player", registry=[server.address]) as channel:
        who = asked(channel)
        assert await who() == "a"
        await them.start("b")

        async def both() -> bool:
            return await answers(who) == {"a", "b"}

        await until(both)


@pytest.mark.parametrize("arguments", [{"service": "prod/player"}, {"service": "player", "namespace": "prod"}])
async def test_another_namespace(arguments: dict[str, str], server: RegistryServer, them: BackEnds) -> None:
    await them.start("elsewhere", namespace="prod")
    async with xds.aio.channel(**arguments, registry=server.address) as channel:
        assert await answers(asked(channel), 5) == {"elsewhere"}


async def test_two_registries_in_one_process(
    server: RegistryServer, them: BackEnds, server_factory: ServerFactory
) -> None:
    other = server_factory(name="other").start()
    async with registry_client.connect(other.address, cache_dir=None) as client, back_ends(client, o=100):
        first, second = (xds.aio.channel("player", registry=it.address) for it in (server, other))
        async with first, second:
            assert (await answers(asked(first), 5), await answers(asked(second), 5)) == ({"a"}, {"o"})


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_an_address_at_which_nobody_is(host: str, server: RegistryServer, them: BackEnds) -> None:
    addresses = [f"{host}:{free_port()}", f"{host}:{server.port}"]
    async with xds.aio.channel("player", registry=addresses) as channel:
        assert await asked(channel)() == "a"


async def test_nobody_is_there_to_call(server: RegistryServer, them: BackEnds) -> None:
    """It is told at once, and those who wait are called as soon as there is somebody."""
    async with xds.aio.channel("nobody", registry=server.address) as channel:
        who = asked(channel)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await who()
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "nobody" in (failed.value.details() or "")
        waiting = asyncio.ensure_future(who(wait=True))
        await them.start("somebody", service="nobody")
        assert await waiting == "somebody"


async def test_a_client_that_is_there_before_the_registry(tmp_path: Path) -> None:
    """What was called meanwhile has failed; what is called then is answered."""
    server = RegistryServer(tmp_path)
    server.port = free_port()
    async with xds.aio.channel("player", registry=server.address) as channel:
        who = asked(channel)
        with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
            await who()
        async with server, registry_client.connect(server.address, cache_dir=None) as client, back_ends(client, a=1):

            async def answered() -> bool:
                try:
                    return await who() == "a"
                except grpc.aio.AioRpcError:
                    return False

            await eventually_async(answered, timeout_s=30.0)


async def test_calls_go_on_while_the_registry_is_away(server: RegistryServer, them: BackEnds) -> None:
    async with xds.aio.channel("player", registry=server.address) as channel:
        who = asked(channel)
        assert await who() == "a"
        server.kill()
        assert await answers(who) == {"a"}
        await server.start_async()
        await them.start("b")

        async def both() -> bool:
            return await answers(who) == {"a", "b"}

        await until(both, timeout_s=30.0)


def test_the_environment_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bootstrap of the user's own is none of these channels' business."""
    monkeypatch.setenv("GRPC_XDS_BOOTSTRAP_CONFIG", "no JSON")
    address = f"127.0.0.1:{free_port()}"
    with xds.channel("player", registry=address) as channel, pytest.raises(grpc.RpcError) as failed:
        channel.unary_unary(METHOD)(b"", timeout=CALL_S)
    assert address.rpartition(":")[2] in failed.value.details()


@pytest.mark.parametrize("more", ["", ",127.0.0.1:1"], ids=["one address", "several"])
async def test_who_is_named_in_no_proxy_is_asked_without_one(
    more: str, server: RegistryServer, them: BackEnds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/xds.md. The back ends are called without one in any case."""
    async with proxy() as (address, heard):
        monkeypatch.setenv("grpc_proxy", f"http://{address}")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        async with xds.aio.channel("player", registry=server.address + more) as channel:
            assert await asked(channel)() == "a"
        assert heard == []


async def test_grpc_asks_the_proxy_of_the_environment_for_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/xds.md says how to do without."""
    registry = f"127.0.0.1:{free_port()}"
    async with proxy() as (address, heard):
        monkeypatch.setenv("grpc_proxy", f"http://{address}")
        async with xds.aio.channel("player", registry=registry) as channel:
            channel.get_state(try_to_connect=True)
            first = await eventually_async(lambda: heard, what="somebody asks the proxy")
    assert first[0] == f"CONNECT {registry} HTTP/1.1\r\n".encode()


@asynccontextmanager
async def proxy() -> AsyncIterator[tuple[str, list[bytes]]]:
    """One that refuses everybody: its address, and what it was asked."""
    heard: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        heard.append(await reader.readline())

    taken = Taken(refuse)
    listening = await asyncio.start_server(taken, "127.0.0.1", 0)
    try:
        host, port = listening.sockets[0].getsockname()
        yield f"{host}:{port}", heard
    finally:
        listening.close()
        await taken.end()


ARGUMENTS = ("service", "registry", "namespace", "credentials", "options", "compression", "registry_tls", "locality")


@pytest.mark.parametrize("argument", ARGUMENTS)
async def test_arguments_of_other_types_are_told_by_their_names(argument: str) -> None:
    given: list[object] = [float("nan"), 10**400, b"\0", "\udcff", [None], {1: 1}, object()]
    for make in (xds.channel, xds.aio.channel):
        for it in given:
            fields: dict[str, Any] = {"service": "player", "registry": "127.0.0.1:1", argument: it}
            with pytest.raises(registry_client.RegistryError, match=f"^(target .*)?({argument}|address)"):
                make(**fields)
