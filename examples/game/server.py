"""A game server that registers itself: the whole of what a service does to be found.

    python -m examples.game.server --registry 127.0.0.1:7400 --weight 3

It prints `serving as ID on HOST:PORT` once it is registered. SIGTERM drains it: the registry tells everybody that it
takes nothing new, what it has begun it finishes, and it leaves.
"""

import argparse
import asyncio
import signal
from collections.abc import AsyncIterator

import grpc
import grpc.aio

import registry_client
from examples.game import game_pb2, game_pb2_grpc
from registry_client import Instance

SERVICE = "player"
CALL_S = 0.004  # what letting a player in takes
DRAIN_S = 1.0  # how long it stays visible as DRAINING
FINISH_S = 5.0  # how long it waits for calls that have begun


class Player(game_pb2_grpc.PlayerServicer):
    """Lets players in and counts them."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._players = 0
        self._closing = asyncio.Event()

    def close(self) -> None:
        """Ends the streams of events."""
        self._closing.set()

    async def Join(
        self, request: game_pb2.JoinRequest, context: grpc.aio.ServicerContext[game_pb2.JoinRequest, game_pb2.JoinReply]
    ) -> game_pb2.JoinReply:
        await asyncio.sleep(CALL_S)
        self._players += 1
        return game_pb2.JoinReply(server=self._name, players=self._players)

    async def Events(
        self, request: game_pb2.EventsRequest, context: grpc.aio.ServicerContext[game_pb2.EventsRequest, game_pb2.Event]
    ) -> AsyncIterator[game_pb2.Event]:
        yield game_pb2.Event(server=self._name, text=f"welcome, {request.player}")
        await self._closing.wait()
        yield game_pb2.Event(server=self._name, text="this server drains; please join another")


async def serve(registry_address: str, name: str, listen: str, weight: int, ttl_s: float) -> None:
    stopping = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stopping.set)

    player, server = Player(name), grpc.aio.server()
    game_pb2_grpc.add_PlayerServicer_to_server(player, server)
    host, _, port = listen.rpartition(":")
    instance = Instance(
        service=SERVICE, id=name, host=host, port=server.add_insecure_port(f"{host}:{port}"), weight=weight
    )
    await server.start()

    async with (
        registry_client.connect(registry_address) as registry,
        registry.register(instance, ttl=ttl_s, drain=DRAIN_S),
    ):
        print(f"serving as {name} on {instance.address}", flush=True)
        await stopping.wait()
    # It has drained: nobody sends anything new from here on.
    player.close()
    await server.stop(FINISH_S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--registry", default="127.0.0.1:7400", help="HOST:PORT[,HOST:PORT…] of the registry")
    parser.add_argument("--name", default="", help="its id; made by the registry when empty")
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--weight", type=int, default=1)
    parser.add_argument("--ttl", type=float, default=15.0, help="seconds until a crash is noticed")
    o = parser.parse_args()
    asyncio.run(serve(o.registry, o.name, o.listen, o.weight, o.ttl))


if __name__ == "__main__":
    main()
