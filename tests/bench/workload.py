"""The request bodies of the load: encoded here once, and sent by a load generator that knows no messages."""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from registry_api.registry.etcd.v3 import etcd_pb2 as etcd_pb
from registry_api.registry.v1 import registry_pb2 as pb
from registry_api.registry.v1 import registry_pb2_grpc
from registry_server.wire import message_field, varint

T = TypeVar("T")

# What loadgen finds and fills in: instance, sequence number, nanoseconds. See loadgen/main.go.
MARKER = "~fan=000000;000000000;0000000000000000000;"
FLEET = "game-server"
PREFIX = b"/fleet/"
LONG_TTL = Duration(seconds=3600)


@dataclass(frozen=True, slots=True)
class FanOut:
    """How to change something on one kind of server, and how to watch it. The subject names it in the tables.

    `ack` is what a watcher sends for each message it gets, but for that one's nonce; empty where it sends nothing.
    """

    subject: str
    method: str
    bodies: tuple[bytes, ...]
    watch_method: str
    watch_body: bytes
    ack: bytes = b""


def write_bodies(path: Path, bodies: Iterable[bytes]) -> Path:
    """The file format of loadgen: each body after its length in four bytes."""
    path.write_bytes(b"".join(struct.pack(">I", len(body)) + body for body in bodies))
    return path


def name(number: int) -> str:
    return f"game-{number:06}"


def instance(number: int, service: str = FLEET) -> pb.Instance:
    """An instance as a game server would register it."""
    return pb.Instance(
        service=service,
        id=name(number),
        host=f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}",
        port=7777,
        version="1.4.2",
        weight=100,
        tags=["game", "eu"],
        metadata={"map": "northern-wastes"},
        locality=pb.Locality(region="eu-west", zone="eu-west-1a"),
    )


def registrations(count: int, services: int = 100) -> list[bytes]:
    """Bodies of Register for as many different instances, each to get a lease of its own."""
    return [
        pb.RegisterRequest(
            instance=instance(number, f"service-{number % services:03}"), ttl=LONG_TTL
        ).SerializeToString()
        for number in range(count)
    ]


def register_fleet(address: str, count: int) -> str:
    """Registers the fleet on one lease, and returns the lease."""
    with grpc.insecure_channel(address) as channel:
        stub = registry_pb2_grpc.RegistryStub(channel)
        first = pb.RegisterRequest(instance=instance(0), ttl=LONG_TTL)
        lease = stub.Register(first, timeout=30).lease_id
        others = (pb.RegisterRequest(instance=instance(number), lease_id=lease) for number in range(1, count))
        for batch in batched(others, 256):
            for call in [stub.Register.future(request, timeout=60) for request in batch]:
                call.result()
        return lease


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def leases(address: str, count: int) -> list[str]:
    """As many leases, each with an instance."""
    with grpc.insecure_channel(address) as channel:
        stub = registry_pb2_grpc.RegistryStub(channel)
        requests = (pb.RegisterRequest(instance=instance(number), ttl=LONG_TTL) for number in range(count))
        return [stub.Register(request, timeout=30).lease_id for request in requests]


def many_leases(address: str, count: int) -> list[str]:
    """The same for very many, which register side by side."""
    with grpc.insecure_channel(address) as channel:
        stub = registry_pb2_grpc.RegistryStub(channel)
        requests = (pb.RegisterRequest(instance=instance(number), ttl=LONG_TTL) for number in range(count))
        calls = ([stub.Register.future(it, timeout=60) for it in batch] for batch in batched(requests, 256))
        return [call.result().lease_id for batch in calls for call in batch]


def keep_alives(lease_ids: Sequence[str]) -> list[bytes]:
    return [pb.KeepAliveRequest(lease_ids=[lease]).SerializeToString() for lease in lease_ids]


def _metadata_update(number: int) -> bytes:
    changed = pb.Instance(service=FLEET, id=name(number), metadata={"players": MARKER})
    return pb.UpdateRequest(instance=changed, update_mask=FieldMask(paths=["metadata"])).SerializeToString()


def registry_fan_out(count: int, subject: str = "grpc-registry") -> FanOut:
    """Update changes the metadata of one of `count` instances, Watch tells of it."""
    return FanOut(
        subject,
        "/registry.v1.Registry/Update",
        tuple(map(_metadata_update, range(count))),
        "/registry.v1.Registry/Watch",
        pb.WatchRequest(services=[FLEET]).SerializeToString(),
    )


def _stored(number: int) -> bytes:
    whole = instance(number)
    whole.metadata["players"] = MARKER
    return whole.SerializeToString()


def bare_fan_out(count: int) -> FanOut:
    """The same number of bytes for each change, on a server that does nothing with them."""
    return FanOut("bare grpc.aio", "/bare.Bare/Change", tuple(map(_stored, range(count))), "/bare.Bare/Watch", b"")


def etcd_puts(count: int) -> list[bytes]:
    """Bodies of etcd's Put for as many instances."""
    keys = (PREFIX + name(number).encode() for number in range(count))
    return [etcd_pb.PutRequest(key=key, value=_stored(nth)).SerializeToString() for nth, key in enumerate(keys)]


def etcd_grants(count: int) -> list[bytes]:
    """Bodies of etcd's LeaseGrant for the leases 1 to `count`."""
    ttl_s = LONG_TTL.seconds
    return [etcd_pb.LeaseGrantRequest(ttl=ttl_s, id=nth + 1).SerializeToString() for nth in range(count)]


def etcd_renewals(count: int) -> list[bytes]:
    """Bodies of etcd's LeaseKeepAlive for these."""
    return [etcd_pb.LeaseKeepAliveRequest(id=nth + 1).SerializeToString() for nth in range(count)]


def etcd_fan_out(count: int, subject: str) -> FanOut:
    """The same instances as plain values below a prefix, put and watched without anything in between."""
    puts = (etcd_pb.PutRequest(key=PREFIX + name(number).encode(), value=_stored(number)) for number in range(count))
    create = etcd_pb.WatchCreateRequest(key=PREFIX, range_end=PREFIX[:-1] + b"0")
    return FanOut(
        subject,
        "/etcdserverpb.KV/Put",
        tuple(put.SerializeToString() for put in puts),
        "/etcdserverpb.Watch/Watch",
        etcd_pb.WatchRequest(create=create).SerializeToString(),
    )


_ENDPOINTS = b"type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"


def control_plane_fan_out(count: int) -> FanOut:
    """The same instances as endpoints of xDS, a resource for each; every watcher asks for all, and acknowledges."""
    kind = message_field(2, _ENDPOINTS)
    return FanOut(
        "go-control-plane",
        "/peer.Peer/Change",
        tuple(map(_assignment, range(count))),
        "/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints",
        kind + message_field(3, b"*"),
        ack=kind,
    )


def _assignment(number: int) -> bytes:
    """A ClusterLoadAssignment with one endpoint, which has what an instance has; its tags and version are metadata."""
    it = instance(number)
    labels = {**it.metadata, "players": MARKER, "version": it.version, "tags": ",".join(it.tags)}
    pairs = (_entry(key, message_field(3, value.encode())) for key, value in labels.items())
    struct_ = b"".join(message_field(1, pair) for pair in pairs)
    metadata = message_field(1, _entry("registry", struct_))
    address = message_field(2, it.host.encode()) + _number(3, it.port)
    endpoint = message_field(1, message_field(1, message_field(1, address)))
    weight = message_field(4, _number(1, it.weight))
    where = message_field(1, it.locality.region.encode()) + message_field(2, it.locality.zone.encode())
    group = message_field(1, where) + message_field(2, endpoint + message_field(3, metadata) + weight)
    return message_field(1, it.id.encode()) + message_field(2, group)


def _entry(key: str, value: bytes) -> bytes:
    """An entry of a map of messages."""
    return message_field(1, key.encode()) + message_field(2, value)


def _number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def change_all(address: str, fan_out: FanOut) -> None:
    """Every change once, so that all instances are there."""
    with grpc.insecure_channel(address) as channel:
        change: Any = channel.unary_unary(fan_out.method)
        for batch in batched(fan_out.bodies, 256):
            for call in [change.future(body, timeout=60) for body in batch]:
                call.result()
