"""SHELL: the methods of etcd's own API that the store uses, by their paths, with the messages of `etcd.proto`."""

from typing import TYPE_CHECKING, TypeVar

import grpc.aio
from google.protobuf.message import Message

from registry_api.registry.etcd.v3 import etcd_pb2 as etcd

if TYPE_CHECKING:
    Unary = grpc.aio.UnaryUnaryMultiCallable
    Stream = grpc.aio.StreamStreamMultiCallable
    WatchCall = grpc.aio.StreamStreamCall[etcd.WatchRequest, etcd.WatchResponse]
    RenewalCall = grpc.aio.StreamStreamCall[etcd.LeaseKeepAliveRequest, etcd.LeaseKeepAliveResponse]

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)


class Api:
    """What can be called on one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
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

    def _unary(self, path: str, request: type[Q], response: type[R]) -> "Unary[Q, R]":
        return self._channel.unary_unary(
            f"/etcdserverpb.{path}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )

    def _stream(self, path: str, request: type[Q], response: type[R]) -> "Stream[Q, R]":
        return self._channel.stream_stream(
            f"/etcdserverpb.{path}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
