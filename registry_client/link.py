"""SHELL: the way to a registry of several addresses, any of which may be down."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import grpc
import grpc.aio

from protos.registry.v1 import registry_pb2_grpc
from registry_client.errors import RegistryError, RegistryUnavailable, from_rpc_error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from protos.registry.v1 import registry_pb2 as pb
    from protos.registry.v1.registry_pb2_grpc import RegistryAsyncStub
    from registry_client.backoff import Backoff

log = logging.getLogger(__name__)

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")

# No single try takes longer while there may be another address to ask.
TRY_S = 3.0
_OPTIONS: tuple[tuple[str, int], ...] = (
    # A peer that is half dead is noticed within seconds; ping_timeout is what makes that so.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.http2.ping_timeout_ms", 2_000),
    ("grpc.http2.max_pings_without_data", 0),
    # How soon an address that was down is tried again; how often that is useful is decided by our own backoff.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
)


async def end(call: grpc.aio.Call) -> None:
    """Cancel a call and wait until it has ended: what gRPC's core tells of it later might find the loop gone."""
    call.cancel()
    await call.code()


@dataclass(frozen=True, slots=True, eq=False)
class Connection:
    """One address of the registry and the stub that talks to it."""

    address: str
    channel: grpc.aio.Channel
    stub: RegistryAsyncStub


class Link:
    """Channels to the addresses of one registry, and which of them is in use.

    A failure moves new calls on to the next address; what runs on the former one is left alone, because the failure of
    one call says little about another.
    """

    def __init__(
        self, addresses: Sequence[str], credentials: grpc.ChannelCredentials | None, backoff: Backoff, rng: Random
    ) -> None:
        self._addresses = list(addresses)
        self._credentials = credentials
        self._backoff = backoff
        self._rng = rng
        self._index = rng.randrange(len(self._addresses))
        self._connections: dict[str, Connection] = {}
        self._said = False

    @property
    def addresses(self) -> tuple[str, ...]:
        """All addresses of the registry."""
        return tuple(self._addresses)

    @property
    def current(self) -> Connection:
        """The address in use."""
        address = self._addresses[self._index]
        connection = self._connections.get(address)
        if connection is None:
            connection = self._connections[address] = self._connect(address)
        return connection

    def _connect(self, address: str) -> Connection:
        if self._credentials is None:
            channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        else:
            channel = grpc.aio.secure_channel(address, self._credentials, options=_OPTIONS)
        return Connection(address, channel, registry_pb2_grpc.RegistryStub(channel))

    def rotate(self, failed: Connection) -> None:
        """Go on to the next address, unless somebody has moved on from the failed one already."""
        if self.current is failed:
            self._index = (self._index + 1) % len(self._addresses)

    def asking(self, connection: Connection) -> None:
        """Something was asked there."""

    def answered(self, connection: Connection, header: pb.ResponseHeader) -> None:
        """It answered."""
        self._said = False

    def failed(self, connection: Connection, failure: RegistryError) -> None:
        """It gave no answer, or one of no use: on to the next address."""
        if not self._said:
            log.warning("the registry cannot be reached: %s", failure)
        self._said = True
        self.rotate(connection)

    async def call(
        self,
        method: Callable[[RegistryAsyncStub], grpc.aio.UnaryUnaryMultiCallable[_Request, _Response]],
        request: _Request,
        timeout: float,
        doing: str,
    ) -> _Response:
        """Call a method, on another address if one is down, for at most `timeout` seconds in all.

        Raises RegistryError; RegistryUnavailable when the time is over.
        """
        loop = asyncio.get_running_loop()
        deadline, attempt = loop.time() + timeout, 0
        while True:
            connection = self.current
            try:
                return await method(connection.stub)(request, timeout=self._share(deadline - loop.time()))
            except grpc.aio.AioRpcError as error:
                failure = from_rpc_error(error, doing)
            if not isinstance(failure, RegistryUnavailable):
                raise failure
            self.rotate(connection)
            # One round over all addresses goes without a pause.
            rounds, attempt = attempt // len(self._addresses), attempt + 1
            pause_s = self._backoff.delay(rounds, self._rng) if attempt % len(self._addresses) == 0 else 0.0
            if loop.time() + pause_s >= deadline:
                raise failure
            await asyncio.sleep(pause_s)

    def _share(self, left_s: float) -> float:
        """How long one try may take of the time that is left, in seconds."""
        return left_s if len(self._addresses) == 1 else min(left_s, TRY_S)

    async def aclose(self) -> None:
        """Close all channels. Calls under way are cancelled."""
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            await connection.channel.close()
