"""Calls balanced over what is registered, on one page: `python -m examples.load_balancer`.

A registry inside of this process, three game servers of weights 1:1:3, a watch, calls, and one server that drains.
"""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import grpc
import grpc.aio

import registry_client
from examples.game import game_pb2, game_pb2_grpc
from examples.game.server import Player
from registry_client import Instance, RegistryClient

WEIGHTS = {"anna": 1, "bert": 1, "cleo": 3}


async def start_server(registry: RegistryClient, name: str, weight: int, stack: AsyncExitStack) -> None:
    """A game server that is registered until the stack unwinds."""
    server = grpc.aio.server()
    game_pb2_grpc.add_PlayerServicer_to_server(Player(name), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stack.push_async_callback(server.stop, 1)
    instance = Instance("player", "127.0.0.1", port, id=name, weight=weight)
    await stack.enter_async_context(registry.register(instance, drain=0))


async def show_changes(registry: RegistryClient) -> None:
    async for view in registry.watch("player"):
        print("watch:", ", ".join(f"{it.id} ({it.status})" for it in view.instances) or "nobody")


async def call(stub: "game_pb2_grpc.PlayerAsyncStub", times: int) -> Counter[str]:
    replies = [await stub.Join(game_pb2.JoinRequest(player=str(number))) for number in range(times)]
    return Counter(reply.server for reply in replies)


async def main() -> None:
    async with registry_client.connect("memory:") as registry, AsyncExitStack() as stack:
        watching = asyncio.create_task(show_changes(registry))
        for name, weight in WEIGHTS.items():
            await start_server(registry, name, weight, stack)

        async with registry.channel("player", policy="weighted_round_robin") as channel:
            stub = game_pb2_grpc.PlayerStub(channel)
            while len(await call(stub, 5)) < len(WEIGHTS):  # until there is a connection to each of them
                pass
            print("by weight:", dict(await call(stub, 50)))

            await registry.update("player", "cleo", status="DRAINING")
            while "cleo" in await call(stub, 5):  # what is told by a watch takes milliseconds
                pass
            print("without cleo:", dict(await call(stub, 50)))
        watching.cancel()


if __name__ == "__main__":
    asyncio.run(main())
