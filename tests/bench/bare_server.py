"""What the product is held against: a grpc.aio server that does the least, on raw bytes, in a process of its own.

    Empty    unary, answers nothing
    Many     server stream of 100 empty messages
    Change   unary; keeps the body of each instance, told apart by the marker `~fan=INSTANCE;`, and tells every watcher
    Watch    server stream: everything first, then what changed since; one encoding for all watchers that are in step

Watchers are served in rounds that rest as long as they took, as the product's are: waking every watcher at every change
would starve the writers.
"""

import argparse
import asyncio
import gc

import grpc
import grpc.aio

Context = grpc.aio.ServicerContext[bytes, bytes]
SERVICE = "bare.Bare"
MANY = 100
MARKER = b"~fan="
KEY_LENGTH = len(MARKER) + 6


class Board:
    """The newest body of each instance, and the rounds in which watchers are told."""

    def __init__(self) -> None:
        self._revision = 0
        self._newest: dict[bytes, tuple[int, bytes]] = {}
        self._differences: dict[tuple[int, int], bytes] = {}
        self._turns: list[asyncio.Future[None]] = []
        self._writing = 0
        self._told = 0  # the revision of the last round
        self._began = 0.0
        self._rest_until = 0.0
        self._armed = False

    def change(self, body: bytes) -> None:
        at = body.index(MARKER)
        self._revision += 1
        self._newest[body[at : at + KEY_LENGTH]] = (self._revision, body)
        self._arm()

    async def watch(self, context: Context) -> None:
        """Tells one watcher, until it leaves."""
        sent = await self._tell(context, 0)
        while True:
            turn = asyncio.get_running_loop().create_future()
            self._turns.append(turn)
            if sent != self._revision:
                self._arm()
            try:
                await turn
                sent = await self._tell(context, sent)
            finally:
                if not turn.cancelled():
                    self._finished()

    async def _tell(self, context: Context, since: int) -> int:
        revision = self._revision
        if since != revision or not since:
            await context.write(self._difference(since, revision))
        return revision

    def _difference(self, since: int, revision: int) -> bytes:
        if (since, revision) not in self._differences:
            if len(self._differences) > 64:
                self._differences.clear()
            changed = (body for changed_at, body in self._newest.values() if changed_at > since)
            self._differences[since, revision] = b"\n".join(changed)
        return self._differences[since, revision]

    def _arm(self) -> None:
        if not self._armed and not self._writing:
            self._armed = True
            loop = asyncio.get_running_loop()
            loop.call_at(max(self._rest_until, loop.time()), self._start)

    def _start(self) -> None:
        self._armed = False
        self._told, self._began = self._revision, asyncio.get_running_loop().time()
        turns, self._turns = [turn for turn in self._turns if not turn.done()], []
        self._writing = len(turns)
        for turn in turns:
            turn.set_result(None)

    def _finished(self) -> None:
        self._writing -= 1
        if not self._writing:
            now = asyncio.get_running_loop().time()
            self._rest_until = now + (now - self._began)
            if self._told != self._revision:
                self._arm()


class Bare:
    """The handlers."""

    def __init__(self) -> None:
        self._board = Board()

    async def empty(self, request: bytes, context: Context) -> bytes:
        return b""

    async def many(self, request: bytes, context: Context) -> None:
        for _ in range(MANY):
            await context.write(b"")

    async def change(self, request: bytes, context: Context) -> bytes:
        self._board.change(request)
        return b""

    async def watch(self, request: bytes, context: Context) -> None:
        await self._board.watch(context)

    def handler(self) -> grpc.GenericRpcHandler:
        methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "Empty": grpc.unary_unary_rpc_method_handler(self.empty),
            "Many": grpc.unary_stream_rpc_method_handler(self.many),
            "Change": grpc.unary_unary_rpc_method_handler(self.change),
            "Watch": grpc.unary_stream_rpc_method_handler(self.watch),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)


async def serve(listen: str) -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((Bare().handler(),))
    host = listen.rpartition(":")[0]
    port = server.add_insecure_port(listen)
    await server.start()
    gc.freeze()
    print(f"listening on {host}:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listen", default="127.0.0.1:0")
    asyncio.run(serve(parser.parse_args().listen))
