"""A client in Python with asyncio, as its users have it: grpcio, and generated stubs. See README.md beside."""

import asyncio
import sys

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status

from registry_api.registry.v1 import registry_pb2 as pb
from registry_api.registry.v1.registry_pb2_grpc import RegistryStub

CALL_S = 30
SHORT_S = 0.3


async def main(address: str, namespace: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        await run(RegistryStub(channel), pb.InstanceKey(namespace=namespace, service="player", id="one"))


async def run(registry, key):
    lease = await register(registry, key)
    await keep_alive(registry, lease)
    watch = registry.Watch(watching(key, "player"), timeout=CALL_S)
    first = await step(watch)
    say("watch reset", first.reset, "upserts", len(first.upserts))
    await update(registry, key)
    changed = await step(watch)
    say("watch reset", changed.reset, "weight", changed.upserts[0].weight)
    page = await registry.List(pb.ListRequest(namespace=key.namespace, service=key.service), timeout=CALL_S)
    say("listed", len(page.instances), "same checksum", page.checksum == changed.checksum)
    say("watch bookmark", (await step(watch, bookmark=True)).bookmark)
    say("deadline", (await end(registry.Watch(watching(key, "nobody"), timeout=SHORT_S))).name)
    await cancelled(registry, key)
    await big(registry)
    await refused(registry, key)
    say("left", (await registry.Deregister(pb.DeregisterRequest(lease_id=lease), timeout=CALL_S)).removed)
    (gone,) = (await step(watch)).removed
    say("watch removed", gone.id, pb.Departure.Cause.Name(gone.cause))
    watch.cancel()
    say("gone", (await failure(registry.Get(pb.GetRequest(key=key), timeout=CALL_S))).code().name)


def say(*words: object) -> None:
    print(*(str(word).lower() if isinstance(word, bool) else word for word in words), flush=True)


def watching(key, service):
    return pb.WatchRequest(namespace=key.namespace, services=[service])


async def step(watch, *, bookmark=False):
    """The next step that is a bookmark, or is none: on a machine that is busy one may come between any two."""
    while (it := await watch.read()).bookmark != bookmark:
        pass
    return it


async def end(watch):
    """The code of the error that a stream ends with. One that this side cancelled has no error but asyncio's."""
    try:
        while await watch.read() is not grpc.aio.EOF:
            pass
    except (grpc.RpcError, asyncio.CancelledError):
        pass
    return await watch.code()


async def failure(call):
    """The error that a call ends with."""
    try:
        await call
    except grpc.RpcError as error:
        return error


async def register(registry, key):
    instance = pb.Instance(namespace=key.namespace, service=key.service, id=key.id, host="10.0.0.5", port=8001)
    request = pb.RegisterRequest(instance=instance, ttl=Duration(seconds=CALL_S))
    done = await registry.Register(request, timeout=CALL_S)
    say("registered", done.instance.id, "ttl", done.ttl.seconds)
    return done.lease_id


async def keep_alive(registry, lease):
    """Two requests on one stream, which then ends from this side."""
    stream = registry.KeepAlive(timeout=CALL_S)
    for id_ in (lease, "nobody"):
        await stream.write(pb.KeepAliveRequest(lease_ids=[id_]))
        say("renewal", pb.Renewal.State.Name((await stream.read()).renewals[0].state))
    await stream.done_writing()
    say("renewals end", await stream.read() is grpc.aio.EOF)


async def update(registry, key):
    """Packed by gzip on its way there."""
    instance = pb.Instance(namespace=key.namespace, service=key.service, id=key.id, weight=7)
    request = pb.UpdateRequest(instance=instance, update_mask=FieldMask(paths=["weight"]))
    await registry.Update(request, timeout=CALL_S, compression=grpc.Compression.Gzip)


async def cancelled(registry, key):
    watch = registry.Watch(watching(key, "nobody"), timeout=CALL_S)
    await step(watch)
    watch.cancel()
    say("cancelled", (await end(watch)).name)


async def big(registry):
    """About 900 KB there and more back, and then more than the server takes."""
    for length in (90, 120):
        stream = registry.KeepAlive(timeout=CALL_S)
        try:
            await stream.write(pb.KeepAliveRequest(lease_ids=["x" * length] * 10_000))
            answer = await stream.read()
            await stream.done_writing()
        except grpc.RpcError as error:
            say("too big", error.code().name)
        else:
            say("big", len(answer.renewals), pb.Renewal.State.Name(answer.renewals[9_999].state))


async def refused(registry, key):
    instance = pb.Instance(namespace=key.namespace, service=key.service, host="10.0.0.5", port=70_000)
    error = await failure(registry.Register(pb.RegisterRequest(instance=instance), timeout=CALL_S))
    status = Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    request = BadRequest()
    status.details[0].Unpack(request)
    say("refused", error.code().name, request.field_violations[0].field)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
