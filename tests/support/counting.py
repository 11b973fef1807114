"""A back end in this process that counts what reaches it and what is under way there."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

SERVICE = "test.Counting"


class Counting:
    """What was called, and how many calls have not ended."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.metadata: list[dict[str, Any]] = []
        self.uploads: list[list[bytes]] = []
        self.port = 0
        self.twin = self
        """Another one like it, for a channel to compare with."""
        self.released = threading.Event()
        """Calls of `Wait` are answered."""
        self._lock = threading.Lock()
        self._active = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def active(self) -> int:
        """Calls under way."""
        with self._lock:
            return self._active

    def _enter(self, name: str, context: grpc.ServicerContext) -> None:
        with self._lock:
            self.seen[name] += 1
            self._active += 1
            self.metadata.append(dict(context.invocation_metadata()))
        if not context.add_callback(self._leave):
            self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._active -= 1

    def echo(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self._enter("Echo", context)
        return request

    def fail(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self._enter("Fail", context)
        context.abort(grpc.StatusCode[request.decode()], "as asked")
        raise AssertionError

    def hang(self, _request: bytes, context: grpc.ServicerContext) -> bytes:
        self._enter("Hang", context)
        ended = threading.Event()
        if context.add_callback(ended.set):
            ended.wait(60)
        return b""

    def wait(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self._enter("Wait", context)
        self.released.wait(60)
        return request

    def stream(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        self._enter("Stream", context)
        while context.is_active():
            yield request

    def upload(self, requests: Iterable[bytes], context: grpc.ServicerContext) -> bytes:
        self._enter("Upload", context)
        got = list(requests)
        self.uploads.append(got)
        return str(len(got)).encode()

    def chat(self, requests: Iterable[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        self._enter("Chat", context)
        yield from requests

    def handlers(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Echo": grpc.unary_unary_rpc_method_handler(self.echo),
                "Fail": grpc.unary_unary_rpc_method_handler(self.fail),
                "Hang": grpc.unary_unary_rpc_method_handler(self.hang),
                "Wait": grpc.unary_unary_rpc_method_handler(self.wait),
                "Stream": grpc.unary_stream_rpc_method_handler(self.stream),
                "Upload": grpc.stream_unary_rpc_method_handler(self.upload),
                "Chat": grpc.stream_stream_rpc_method_handler(self.chat),
            },
        )


@contextmanager
def counting(
    *, workers: int = 64, options: Iterable[tuple[str, Any]] = (), credentials: grpc.ServerCredentials | None = None
) -> Iterator[Counting]:
    """One back end, gone when the context ends."""
    backend = Counting()
    pool = ThreadPoolExecutor(workers)
    server = grpc.server(pool, options=[("grpc.so_reuseport", 0), *options])
    server.add_generic_rpc_handlers((backend.handlers(),))
    if credentials is None:
        backend.port = server.add_insecure_port("127.0.0.1:0")
    else:
        backend.port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield backend
    finally:
        server.stop(None).wait(10)
        pool.shutdown()
