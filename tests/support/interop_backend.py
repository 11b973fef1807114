"""A back end that does what its callers ask for: `python -m tests.support.interop_backend --listen 127.0.0.1:0`.

Requests and responses are JSON. A request is a plan: `headers` to send at once; `sleep_s` before it answers; `fail`
with a status name per attempt (the attempt is what `grpc-previous-rpc-attempts` says, an empty name succeeds);
`pushback_ms` to send with a failure; how many `responses` to stream. A response tells `id` (the back end's port),
`attempt`, and what the method adds. SIGTERM ends the process gracefully.
"""

import argparse
import asyncio
import json
import signal
import struct
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

SERVICE = "test.Backend"
LOAD_SERVICE = "xds.service.orca.v3.OpenRcaService"
GRACE_S = 10.0
ATTEMPTS = "grpc-previous-rpc-attempts"


class BreakableHealth(health.aio.HealthServicer):  # type: ignore[misc]
    """The health service, whose watches may be made to fail."""

    broken = False

    async def Watch(self, request: Any, context: Any) -> None:
        await super().Watch(request, _Telling(context, self))


class _Telling:
    """The context of a watch that fails, when it is to, in place of telling anything."""

    def __init__(self, context: Any, servicer: BreakableHealth) -> None:
        self._context = context
        self._servicer = servicer

    async def write(self, message: Any) -> None:
        if self._servicer.broken:
            await self._context.abort(grpc.StatusCode.INTERNAL, "broken")
        await self._context.write(message)


class Backend:
    """The methods, over raw bytes."""

    def __init__(self) -> None:
        self.id = 0
        self.seen = 0
        self._load: dict[int, float] = {}
        self._loaded = asyncio.Event()
        self.health = BreakableHealth()

    async def call(self, request: bytes, context: Any) -> bytes:
        return self._answer(await self._follow(json.loads(request), context), {})

    async def stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        plan = json.loads(request)
        attempt = await self._follow(plan, context)
        for number in range(plan.get("responses", 1)):
            yield self._answer(attempt, {"number": number})
        await self._fail_late(plan, context)

    async def collect(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        plans = [json.loads(request) async for request in requests]
        return self._answer(await self._follow(plans[0], context), {"numbers": [plan.get("number") for plan in plans]})

    async def chat(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            plan = json.loads(request)
            yield self._answer(await self._follow(plan, context), {"number": plan.get("number")})

    async def count(self, _request: bytes, _context: Any) -> bytes:
        return str(self.seen).encode()

    async def set_health(self, request: bytes, _context: Any) -> bytes:
        service, status = json.loads(request)
        await self.health.set(service, health_pb2.HealthCheckResponse.ServingStatus.Value(status))
        return b""

    async def break_health(self, _request: bytes, _context: Any) -> bytes:
        """Health cannot be watched any more: the watches under way fail, and others do."""
        self.health.broken = True
        for status in ("SERVING", "NOT_SERVING", "SERVING"):
            await self.health.set(SERVICE, health_pb2.HealthCheckResponse.ServingStatus.Value(status))
            await asyncio.sleep(0)
        return b""

    async def loads(self, _request: bytes, _context: Any) -> AsyncIterator[bytes]:
        """Load reports (ORCA) as `set_load` says, one now and one at each change."""
        while True:
            yield b"".join(bytes([field << 3 | 1]) + struct.pack("<d", value) for field, value in self._load.items())
            await self._loaded.wait()
            self._loaded.clear()

    async def set_load(self, request: bytes, _context: Any) -> bytes:
        self._load = {int(field): value for field, value in json.loads(request).items()}
        self._loaded.set()
        return b""

    async def _follow(self, plan: dict[str, Any], context: Any) -> int:
        self.seen += 1
        attempt = int(dict(context.invocation_metadata()).get(ATTEMPTS, 0))
        if "headers" in plan:
            await context.send_initial_metadata(tuple(map(tuple, plan["headers"])))
        if plan.get("sleep_s") and plan.get("only", self.id) == self.id and attempt >= plan.get("from_attempt", 0):
            await asyncio.sleep(plan["sleep_s"])
        wanted = [*plan.get("fail", []), *[""] * (attempt + 1)][attempt]
        if wanted:
            trailers = [("id", str(self.id))]
            if "pushback_ms" in plan:
                trailers.append(("grpc-retry-pushback-ms", str(plan["pushback_ms"])))
            await context.abort(grpc.StatusCode[wanted], f"attempt {attempt} at {self.id}", tuple(trailers))
        return attempt

    async def _fail_late(self, plan: dict[str, Any], context: Any) -> None:
        if plan.get("fail_late"):
            await context.abort(grpc.StatusCode[plan["fail_late"]], "after the responses")

    def _answer(self, attempt: int, more: dict[str, Any]) -> bytes:
        return json.dumps({"id": self.id, "attempt": attempt, **more}).encode()

    def load_handlers(self) -> grpc.GenericRpcHandler:
        stream: Any = grpc.unary_stream_rpc_method_handler(self.loads)
        return grpc.method_handlers_generic_handler(LOAD_SERVICE, {"StreamCoreMetrics": stream})

    def handlers(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Call": grpc.unary_unary_rpc_method_handler(self.call),
                "Stream": grpc.unary_stream_rpc_method_handler(self.stream),
                "Collect": grpc.stream_unary_rpc_method_handler(self.collect),
                "Chat": grpc.stream_stream_rpc_method_handler(self.chat),
                "Count": grpc.unary_unary_rpc_method_handler(self.count),
                "SetLoad": grpc.unary_unary_rpc_method_handler(self.set_load),
                "BreakHealth": grpc.unary_unary_rpc_method_handler(self.break_health),
                "SetHealth": grpc.unary_unary_rpc_method_handler(self.set_health),
            },
        )


async def serve(listen: str) -> None:
    backend = Backend()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((backend.handlers(), backend.load_handlers()))
    health_pb2_grpc.add_HealthServicer_to_server(backend.health, server)
    backend.id = server.add_insecure_port(listen)
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(f"listening on 127.0.0.1:{backend.id}", flush=True)
    await stop.wait()
    await server.stop(GRACE_S)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", required=True)
    asyncio.run(serve(parser.parse_args().listen))
