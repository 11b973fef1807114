"""SHELL: the methods of etcd's own API that the store uses, by their paths, with the messages of `etcd.proto`."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from registry_api.registry.etcd.v3 import etcd_pb2 as etcd

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)
QContra = TypeVar("QContra", contravariant=True)
RCo = TypeVar("RCo", covariant=True)

Metadata = Sequence[tuple[str, str]]


class UnaryMethod(Protocol[QContra, RCo]):
    """A method that is answered once."""

    def __call__(self, request: QContra, *, timeout: float, metadata: Metadata = ...) -> Awaitable[RCo]:
        """Call it. Raises grpc.aio.AioRpcError."""


class StreamCall(Protocol[QContra]):
    """A call with messages both ways; write and read raise grpc.aio.AioRpcError."""

    def write(self, request: QContra, /) -> Awaitable[None]:
        """Send a message."""

    def read(self) -> Awaitable[object]:
        """The next message; what is none when there is no next one."""

    def cancel(self) -> bool:
        """End it."""

    def code(self) -> Awaitable[grpc.StatusCode]:
        """How it ended."""

    def details(self) -> Awaitable[str | None]:
        """How it ended, in words."""


class EtcdChannel(Protocol):
    """What carries calls to one etcd server; grpc.aio has more."""

    def unary_unary(
        self, method: str, request_serializer: Callable[[Q], bytes], response_deserializer: Callable[[bytes], R]
    ) -> UnaryMethod[Q, R]:
        """A method by its path."""

    def stream_stream(
        self, method: str, request_serializer: Callable[[Q], bytes], response_deserializer: Callable[[bytes], R]
    ) -> "StreamMethod[Q]":
        """A method by its path."""

    async def close(self) -> None:
        """Close it; what is under way on it fails."""


class StreamMethod(Protocol[QContra]):
    """A method with messages both ways."""

    def __call__(self, *, metadata: Metadata = ...) -> StreamCall[QContra]:
        """A new call."""


WatchCall = StreamCall[etcd.WatchRequest]
RenewalCall = StreamCall[etcd.LeaseKeepAliveRequest]


class Api:
    """What can be called on one channel."""

    def __init__(self, channel: EtcdChannel) -> None:
        self._channel = channel
        self.range = self._unary("KV/Range", etcd.RangeRequest, etcd.RangeResponse)
        self.txn = self._unary("KV/Txn", etcd.TxnRequest, etcd.TxnResponse)
        self.watch = self._stream("Watch/Watch", etcd.WatchRequest, etcd.WatchResponse)
        self.grant = self._unary("Lease/LeaseGrant", etcd.LeaseGrantRequest, etcd.LeaseGrantResponse)
        self.revoke = self._unary("Lease/LeaseRevoke", etcd.LeaseRevokeRequest, etcd.LeaseRevokeResponse)
        self.look = self._unary("Lease/LeaseTimeToLive", etcd.LeaseTimeToLiveRequest, etcd.LeaseTimeToLiveResponse)
        self.renew = self._stream("Lease/LeaseKeepAlive", etcd.LeaseKeepAliveRequest, etcd.LeaseKeepAliveResponse)
        self.authenticate = self._unary("Auth/Authenticate", etcd.AuthenticateRequest, etcd.AuthenticateResponse)
        self.status = self._unary("Maintenance/Status", etcd.StatusRequest, etcd.StatusResponse)

    def _unary(self, path: str, request: type[Q], response: type[R]) -> UnaryMethod[Q, R]:
        return self._channel.unary_unary(
            f"/etcdserverpb.{path}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )

    def _stream(self, path: str, request: type[Q], response: type[R]) -> StreamMethod[Q]:
        return self._channel.stream_stream(
            f"/etcdserverpb.{path}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
