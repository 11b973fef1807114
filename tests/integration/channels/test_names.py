"""Back ends registered by name, whose name moves to another address."""

import contextlib

import grpc.aio

from balancer import Endpoint, StaticResolver, aio_channel
from examples.game import game_pb2, game_pb2_grpc
from tests.support.names import name_server
from tests.support.waiting import eventually_async

BEFORE, AFTER = "127.0.0.1", "127.0.0.2"


class Player(game_pb2_grpc.PlayerServicer):
    def __init__(self, name: str) -> None:
        self._name = name

    async def Join(
        self, request: game_pb2.JoinRequest, context: grpc.aio.ServicerContext[game_pb2.JoinRequest, game_pb2.JoinReply]
    ) -> game_pb2.JoinReply:
        return game_pb2.JoinReply(server=self._name)


async def back_end(host: str, port: int = 0) -> tuple[grpc.aio.Server, int]:
    server = grpc.aio.server()
    game_pb2_grpc.add_PlayerServicer_to_server(Player(host), server)
    port = server.add_insecure_port(f"{host}:{port}")
    await server.start()
    return server, port


async def test_a_back_end_that_moves_is_found_within_seconds_and_not_half_a_minute() -> None:
    """The name is looked up as soon as the connection breaks, when it may still say the old address, and soon again."""
    async with contextlib.AsyncExitStack() as stack:
        old, port = await back_end(BEFORE)
        stack.push_async_callback(old.stop, None)
        new, _ = await back_end(AFTER, port)
        stack.push_async_callback(new.stop, None)
        names = await stack.enter_async_context(name_server(BEFORE))
        channel = await stack.enter_async_context(aio_channel(StaticResolver((Endpoint(names.target(port)),))))
        stub = game_pb2_grpc.PlayerStub(channel)
        assert (await stub.Join(game_pb2.JoinRequest(), timeout=20)).server == BEFORE
        asked = names.asked
        await old.stop(None)
        channel.get_state(try_to_connect=True)
        await eventually_async(lambda: names.asked > asked, timeout_s=20)
        names.address = AFTER
        assert (await stub.Join(game_pb2.JoinRequest(), timeout=12, wait_for_ready=True)).server == AFTER
