"""Targets without a registry behind them, through the same two functions."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

import registry_client
from registry_client import InvalidTarget

ECHO = "/test.Echo/Echo"


async def echo(request: bytes, _context: object) -> bytes:
    return request


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """Where something answers."""
    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Echo": method}),))
    bound = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(None)


TARGETS = ["static://127.0.0.1:{}", "static://127.0.0.1:{};weight=3?policy=random", "dns://127.0.0.1:{}?refresh=60"]


@pytest.mark.parametrize("target", TARGETS)
async def test_calls_arrive(port: int, target: str) -> None:
    async with registry_client.aio.channel(target.format(port)) as channel:
        assert await channel.unary_unary(ECHO)(b"hello", timeout=10) == b"hello"


@pytest.mark.parametrize("target", TARGETS)
async def test_calls_of_threads_arrive(port: int, target: str) -> None:
    def call() -> object:
        with registry_client.channel(target.format(port), policy="round_robin") as channel:
            return channel.unary_unary(ECHO)(b"hello", timeout=10)

    assert await asyncio.to_thread(call) == b"hello"


@pytest.mark.parametrize(
    ("target", "named"),
    [
        ("static://", "nothing after"),
        ("static://h:1;size=3", "size"),
        ("static://h:1?tags=a", "tags"),
        ("dns://h:1?refresh=never", "refresh"),
        ("static://h:1?policy=best", "best"),
        ("ftp://h:1/player", "must begin with registry://"),
    ],
)
def test_a_mistake_is_named(target: str, named: str) -> None:
    for make in (registry_client.channel, registry_client.aio.channel):
        with pytest.raises(InvalidTarget, match=named):
            make(target)


def test_filters_need_a_registry() -> None:
    with pytest.raises(InvalidTarget, match="filters"):
        registry_client.channel("static://h:1", filters={"tags": ["a"]})
