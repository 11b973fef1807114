"""SHELL: for users' tests: a registry in the process of the tests, and leases and checks that wait for nothing.

    async def test_who_dies_leaves() -> None:
        clock = testing.Clock()
        async with testing.registry(clock) as address, registry_client.connect(address) as registry:
            testing.register_once(address, Instance("player", "10.0.0.5", 8001), ttl=10)
            clock.advance(11)
            ...

pytest finds the fixtures `registry` (an address) and `registry_clock` by itself; see docs/testing.md.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc

from registry_api.limits import DEFAULT_TTL_S
from registry_api.registry.v1 import registry_pb2 as pb
from registry_api.registry.v1.registry_pb2_grpc import RegistryStub
from registry_client import checks
from registry_client.addresses import parse_addresses
from registry_client.errors import Misuse, from_rpc_error
from registry_client.instance import Instance, check_registrable
from registry_server.embedded import Clock, in_thread

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = ["Clock", "Running", "register_once", "registry"]

CALL_S = 5.0


def registry(clock: Clock | None = None) -> Running:
    """A registry of its own: `async with testing.registry() as address`, or `with`. Leases and checks go by `clock`."""
    if clock is not None and not callable(clock):
        raise checks.wrong_type("clock", "must be a testing.Clock", clock)
    return Running(clock or Clock())


class Running:
    """A registry in a thread, while a block lasts: whatever the block does to its own event loop, it answers.

    It may be entered again afterwards, and is another one then.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._held: AbstractContextManager[str] | None = None

    def __enter__(self) -> str:
        if self._held is not None:
            raise Misuse("this registry was entered already: make another by testing.registry()")
        held = self._held = in_thread(self._clock)
        try:
            return held.__enter__()
        except BaseException:
            self._held = None
            raise

    def __exit__(self, *_: object) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.__exit__(None, None, None)

    async def __aenter__(self) -> str:
        entering = asyncio.create_task(asyncio.to_thread(self.__enter__))
        try:
            return await asyncio.shield(entering)
        except asyncio.CancelledError:  # a thread cannot be cancelled: what it begins has to be ended
            await entering
            await self.__aexit__()
            raise

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.__exit__)


def register_once(address: str, instance: Instance, ttl: float = DEFAULT_TTL_S) -> Instance:
    """Register an instance that nobody renews, as one whose process dies at once: it is there until the clock of the
    registry has gone on by `ttl` seconds. As the registry stored it. Raises RegistryError.
    """
    [target] = parse_addresses([address])
    request = pb.RegisterRequest(instance=check_registrable(instance).to_proto())
    request.ttl.FromNanoseconds(round(checks.ttl(ttl) * 1e9))
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer: pb.RegisterResponse = RegistryStub(channel).Register(request, timeout=CALL_S)
        except grpc.RpcError as error:
            raise from_rpc_error(error, f"register {instance.key}") from None
    return Instance.from_proto(answer.instance)
