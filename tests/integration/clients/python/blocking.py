"""A client in Python with blocking calls, as its users have it: grpcio, and generated stubs. See README.md beside."""

import sys
from collections.abc import Iterator

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc.error_details_pb2 import BadRequest
from grpc_status import rpc_status

from registry_api.registry.v1 import registry_pb2 as pb
from registry_api.registry.v1.registry_pb2_grpc import RegistryStub

CALL_S = 30
SHORT_S = 0.3


def main(address: str, namespace: str) -> None:
    with grpc.insecure_channel(address) as channel:
        run(RegistryStub(channel), pb.InstanceKey(namespace=namespace, service="player", id="one"))


def run(registry, key):
    lease = register(registry, key)
    keep_alive(registry, lease)
    watch = registry.Watch(watching(key, "player"), timeout=CALL_S)
    first = step(watch)
    say("watch reset", first.reset, "upserts", len(first.upserts))
    update(registry, key)
    changed = step(watch)
    say("watch reset", changed.reset, "weight", changed.upserts[0].weight)
    page = registry.List(pb.ListRequest(namespace=key.namespace, service=key.service), timeout=CALL_S)
    say("listed", len(page.instances), "same checksum", page.checksum == changed.checksum)
    say("watch bookmark", step(watch, bookmark=True).bookmark)
    say("deadline", end(registry.Watch(watching(key, "nobody"), timeout=SHORT_S)).code().name)
    cancelled(registry, key)
    big(registry)
    refused(registry, key)
    say("left", registry.Deregister(pb.DeregisterRequest(lease_id=lease), timeout=CALL_S).removed)
    (gone,) = step(watch).removed
    say("watch removed", gone.id, pb.Departure.Cause.Name(gone.cause))
    try:
        registry.Get(pb.GetRequest(key=key), timeout=CALL_S)
    except grpc.RpcError as error:
        say("gone", error.code().name)


def say(*words: object) -> None:
    print(*(str(word).lower() if isinstance(word, bool) else word for word in words), flush=True)


def watching(key, service):
    return pb.WatchRequest(namespace=key.namespace, services=[service])


def step(watch, *, bookmark=False):
    """The next step that is a bookmark, or is none: on a machine that is busy one may come between any two."""
    return next(it for it in watch if it.bookmark == bookmark)


def end(watch):
    """The error that a stream ends with."""
    try:
        for _ in watch:
            pass
    except grpc.RpcError as error:
        return error


def register(registry, key):
    instance = pb.Instance(namespace=key.namespace, service=key.service, id=key.id, host="10.0.0.5", port=8001)
    done = registry.Register(pb.RegisterRequest(instance=instance, ttl=Duration(seconds=CALL_S)), timeout=CALL_S)
    say("registered", done.instance.id, "ttl", done.ttl.seconds)
    return done.lease_id


def keep_alive(registry, lease):
    """Two requests on one stream, which then ends from this side."""
    asked: list[str] = []

    def requests() -> Iterator[pb.KeepAliveRequest]:
        for id_ in (lease, "nobody"):
            asked.append(id_)
            yield pb.KeepAliveRequest(lease_ids=[id_])

    for answer in registry.KeepAlive(requests(), timeout=CALL_S):
        say("renewal", pb.Renewal.State.Name(answer.renewals[0].state))
    say("renewals end", len(asked) == 2)


def update(registry, key):
    """Packed by gzip on its way there."""
    instance = pb.Instance(namespace=key.namespace, service=key.service, id=key.id, weight=7)
    request = pb.UpdateRequest(instance=instance, update_mask=FieldMask(paths=["weight"]))
    registry.Update(request, timeout=CALL_S, compression=grpc.Compression.Gzip)


def cancelled(registry, key):
    watch = registry.Watch(watching(key, "nobody"), timeout=CALL_S)
    step(watch)
    watch.cancel()
    say("cancelled", end(watch).code().name)


def big(registry):
    """About 900 KB there and more back, and then more than the server takes."""
    for length in (90, 120):
        request = pb.KeepAliveRequest(lease_ids=["x" * length] * 10_000)
        try:
            (answer,) = registry.KeepAlive(iter([request]), timeout=CALL_S)
        except grpc.RpcError as error:
            say("too big", error.code().name)
        else:
            say("big", len(answer.renewals), pb.Renewal.State.Name(answer.renewals[9_999].state))


def refused(registry, key):
    instance = pb.Instance(namespace=key.namespace, service=key.service, host="10.0.0.5", port=70_000)
    try:
        registry.Register(pb.RegisterRequest(instance=instance), timeout=CALL_S)
    except grpc.RpcError as error:
        request = BadRequest()
        rpc_status.from_call(error).details[0].Unpack(request)
        say("refused", error.code().name, request.field_violations[0].field)


if __name__ == "__main__":
    main(*sys.argv[1:])
