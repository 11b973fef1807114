"""A registry that is broken, or made to harm: it answers a Watch with whatever the test gives it."""

from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Self

import grpc.aio

from registry_api.registry.v1 import registry_pb2 as pb
from registry_client.instance import Instance
from registry_client.steps import checksum_of

Answer = Callable[[pb.WatchRequest, "grpc.aio.ServicerContext[Any, Any]"], AsyncIterator[pb.WatchResponse | bytes]]


def named(name: str, **fields: Any) -> pb.Instance:
    """An instance as a server sends it."""
    given = {"namespace": "default", "service": "player", "host": "10.0.0.5", "port": 8001, "revision": 1, **fields}
    return pb.Instance(id=name, **given)


def full(*instances: pb.Instance, epoch: str = "e1", revision: int = 1, **fields: Any) -> pb.WatchResponse:
    """A full set, right in every respect but for what is given otherwise."""
    checksum = sum(checksum_of(Instance.from_proto(it)) for it in instances) % 2**64
    given = {"reset": True, "upserts": instances, "checksum": checksum, "resume_token": "t", **fields}
    return pb.WatchResponse(header=pb.ResponseHeader(epoch=epoch, revision=revision), **given)


class Liar:
    """Serves Watch on a free port: use it with `async with`. `streams` counts how often it was asked."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[pb.WatchRequest] = []
        self.address = ""
        self._server: grpc.aio.Server | None = None

    @property
    def streams(self) -> int:
        return len(self.requests)

    async def __aenter__(self) -> Self:
        self._server = grpc.aio.server()
        handler = grpc.unary_stream_rpc_method_handler(
            self._watch,
            request_deserializer=pb.WatchRequest.FromString,
            response_serializer=lambda it: it if isinstance(it, bytes) else it.SerializeToString(),
        )
        name = "registry.v1.Registry"
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"Watch": handler}),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            await self._server.stop(0)

    async def _watch(
        self, request: pb.WatchRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> AsyncIterator[pb.WatchResponse | bytes]:
        self.requests.append(request)
        async for response in self.answer(request, context):
            yield response
