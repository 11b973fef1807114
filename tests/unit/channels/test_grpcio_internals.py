"""The one private name of grpcio in use: the version that is installed has it, and the public way does as well."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest
from grpc._cython import cygrpc

from balancer import StaticResolver, blocking_channel
from balancer.endpoints import Endpoint
from balancer.grpcio_internals import NAMES, look_of
from tests.support.counting import SERVICE, counting
from tests.support.waiting import eventually

READY = grpc.ChannelConnectivity.READY


@contextmanager
def listening() -> Iterator[int]:
    pool = ThreadPoolExecutor(1)
    server = grpc.server(pool)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None).wait(10)
    pool.shutdown()


def test_the_names_are_there() -> None:
    assert [name for _, name in NAMES] == ["_channel", "check_connectivity_state"]
    with grpc.insecure_channel("127.0.0.1:1") as channel:
        assert isinstance(channel._channel, cygrpc.Channel)
        assert callable(channel._channel.check_connectivity_state)


class Foreign:
    """A channel that is not grpcio's own, and has none of its own inside."""

    __slots__ = ("subscribe", "unsubscribe")

    def __init__(self, channel: grpc.Channel) -> None:
        self.subscribe, self.unsubscribe = channel.subscribe, channel.unsubscribe


@pytest.mark.parametrize("wrap", [lambda channel: channel, Foreign], ids=["grpcio's own", "the public way"])
def test_states_are_told(wrap: type[Foreign]) -> None:
    with listening() as port, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        look = look_of(wrap(channel))  # type: ignore[arg-type]
        assert look(False) is grpc.ChannelConnectivity.IDLE
        look(True)
        eventually(lambda: look(True) is READY)


def test_a_channel_that_is_to_connect_is_not_told_idle() -> None:
    """Who looks would take it for one that has nothing to do, and close it."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        grpc.insecure_channel(f"127.0.0.1:{listener.getsockname()[1]}") as channel,
    ):
        told: list[grpc.ChannelConnectivity] = []
        look = look_of(Foreign(channel))  # type: ignore[arg-type]
        looked = {look(True)}
        channel.subscribe(told.append)
        eventually(lambda: looked.add(look(False)) or grpc.ChannelConnectivity.CONNECTING in told)
        assert looked == {grpc.ChannelConnectivity.CONNECTING}


def test_a_channel_works_without_the_private_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("balancer.grpcio_internals._WRAPPERS", 0)
    with counting() as one, counting() as two:
        resolver = StaticResolver([Endpoint(one.address), Endpoint(two.address)])
        with blocking_channel(resolver, policy="round_robin") as channel:
            call = channel.unary_unary(f"/{SERVICE}/Echo")
            eventually(lambda: call(b"x", timeout=10) and one.seen["Echo"] and two.seen["Echo"])
