"""A registry in the process of the test that can say anything: what no real server would, to see who believes it."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import grpc
import grpc.aio

from registry_api.registry.v1 import registry_pb2 as pb
from registry_api.registry.v1 import registry_pb2_grpc

Context = grpc.aio.ServicerContext  # of whatever method
Spoil = Callable[..., object]


def header(revision: int = 1, *, stale_s: int | None = None) -> pb.ResponseHeader:
    """The header of an answer."""
    made = pb.ResponseHeader(epoch="e1", revision=revision)
    if stale_s is not None:
        made.stale_for.FromSeconds(stale_s)
    return made


END = object()  # in place of an answer on a stream: the stream ends, in order


@dataclass
class Store:
    """What is registered; replicas share it."""

    instances: dict[str, pb.Instance] = field(default_factory=dict)
    revision: int = 0
    ttl_s: int = 15


@dataclass
class FakeRegistry(registry_pb2_grpc.RegistryServicer):
    """Holds what was registered. For each method a function may be given that spoils its answer, or fails the call.

    `calls` counts the calls of each method, and the renewals.
    """

    spoil: dict[str, Spoil] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    requests: dict[str, list[object]] = field(default_factory=dict)
    store: Store = field(default_factory=Store)

    async def _out(self, method: str, request: object, answer: object, context: object) -> object:
        self.calls[method] += 1
        self.requests.setdefault(method, []).append(request)
        changed = self.spoil[method](answer, context) if method in self.spoil else answer
        if isinstance(changed, Awaitable):
            changed = await changed
        return answer if changed is None else changed

    async def Register(self, request: pb.RegisterRequest, context: Context) -> pb.RegisterResponse:  # type: ignore[type-arg]
        self.store.revision += 1
        stored = pb.Instance()
        stored.CopyFrom(request.instance)
        stored.id = stored.id or f"made-{self.store.revision}"
        stored.generation, stored.revision, stored.create_revision = (
            self.store.revision,
            self.store.revision,
            self.store.revision,
        )
        self.store.instances[stored.id] = stored
        answer = pb.RegisterResponse(
            header=header(self.store.revision), instance=stored, lease_id=request.lease_id or "L1", ttl=request.ttl
        )
        if not request.lease_id:
            self.store.ttl_s = request.ttl.seconds
        answer.ttl.FromSeconds(self.store.ttl_s)
        return await self._out("Register", request, answer, context)  # type: ignore[return-value]

    async def Deregister(self, request: pb.DeregisterRequest, context: Context) -> pb.DeregisterResponse:  # type: ignore[type-arg]
        removed = [request.key.id] if request.HasField("key") else list(self.store.instances)
        for name in removed:
            self.store.instances.pop(name, None)
        answer = pb.DeregisterResponse(header=header(self.store.revision), removed=len(removed))
        return await self._out("Deregister", request, answer, context)  # type: ignore[return-value]

    async def KeepAlive(
        self,
        requests: AsyncIterator[pb.KeepAliveRequest],
        context: Context,  # type: ignore[type-arg]
    ) -> AsyncIterator[pb.KeepAliveResponse]:
        if await self._out("KeepAlive", None, None, context) is END:
            return
        async for request in requests:
            answer = pb.KeepAliveResponse(header=header(self.store.revision))
            for lease_id in request.lease_ids:
                renewal = answer.renewals.add(
                    lease_id=lease_id, state=pb.Renewal.RENEWED, instances=len(self.store.instances)
                )
                renewal.ttl.FromSeconds(self.store.ttl_s)
            changed = await self._out("renewal", request, answer, context)
            if changed is END:
                return
            for one in changed if isinstance(changed, list) else [changed]:
                yield one  # type: ignore[misc]  # whatever the test makes of it

    async def Get(self, request: pb.GetRequest, context: Context) -> pb.GetResponse:  # type: ignore[type-arg]
        found = self.store.instances.get(request.key.id)
        if found is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such instance")
        answer = pb.GetResponse(header=header(self.store.revision), instance=found)
        return await self._out("Get", request, answer, context)  # type: ignore[return-value]

    async def Update(self, request: pb.UpdateRequest, context: Context) -> pb.UpdateResponse:  # type: ignore[type-arg]
        answer = pb.UpdateResponse(header=header(self.store.revision), instance=request.instance)
        return await self._out("Update", request, answer, context)  # type: ignore[return-value]

    async def List(self, request: pb.ListRequest, context: Context) -> pb.ListResponse:  # type: ignore[type-arg]
        found = [self.store.instances[name] for name in sorted(self.store.instances)]
        answer = pb.ListResponse(header=header(self.store.revision), instances=found)
        return await self._out("List", request, answer, context)  # type: ignore[return-value]

    async def ListServices(
        self,
        request: pb.ListServicesRequest,
        context: Context,  # type: ignore[type-arg]
    ) -> pb.ListServicesResponse:
        answer = pb.ListServicesResponse(header=header(self.store.revision))
        return await self._out("ListServices", request, answer, context)  # type: ignore[return-value]


class NoRules(registry_pb2_grpc.ChecksServicer):
    """No service has checks that were put for it, and nobody puts any."""

    async def Put(self, request: pb.ChecksPutRequest, context: Context) -> pb.ChecksPutResponse:  # type: ignore[type-arg]
        raise NotImplementedError

    async def Get(self, request: pb.ChecksGetRequest, context: Context) -> pb.ChecksGetResponse:  # type: ignore[type-arg]
        raise NotImplementedError

    async def Delete(self, request: pb.ChecksDeleteRequest, context: Context) -> pb.ChecksDeleteResponse:  # type: ignore[type-arg]
        raise NotImplementedError

    async def List(self, request: pb.ChecksListRequest, context: Context) -> pb.ChecksListResponse:  # type: ignore[type-arg]
        return pb.ChecksListResponse(header=header())


@contextlib.asynccontextmanager
async def serving(registry: registry_pb2_grpc.RegistryServicer, address: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """Its address, for as long as the block lasts."""
    server = grpc.aio.server()
    registry_pb2_grpc.add_RegistryServicer_to_server(registry, server)
    registry_pb2_grpc.add_ChecksServicer_to_server(NoRules(), server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield f"{address.rpartition(':')[0]}:{port}"
    finally:
        await server.stop(None)


def fail(code: grpc.StatusCode, text: str = "because", **details: bytes) -> Spoil:
    """A function that fails the call; `status`: the bytes that the details are."""

    def abort(_: object, context: Context) -> Awaitable[object]:  # type: ignore[type-arg]
        trailers = tuple(("grpc-status-details-bin", value) for value in details.values())
        return context.abort(code, text, trailers)

    return abort


def end_it(*_: object) -> object:
    """A function that ends a stream in order."""
    return END


async def silent(*_: object) -> None:
    """A function that never answers."""
    await asyncio.Event().wait()
