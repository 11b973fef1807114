"""A back end that can be ill: each call takes `--work-ms`, and some of them fail with UNAVAILABLE."""

import argparse
import asyncio
import random

import grpc
import grpc.aio

METHOD = "/bench.BackEnd/Work"


class BackEnd:
    def __init__(self, work_s: float, fail: float, rng: random.Random) -> None:
        self._work_s = work_s
        self._fail = fail
        self._rng = rng

    async def work(self, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        if self._rng.random() < self._fail:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "feeling unwell")
        await asyncio.sleep(self._work_s)
        return b""


async def serve(listen: str, back_end: BackEnd) -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "Work": grpc.unary_unary_rpc_method_handler(back_end.work)
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.BackEnd", methods),))
    port = server.add_insecure_port(listen)
    await server.start()
    print(f"listening on {listen.rpartition(':')[0]}:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--work-ms", type=float, default=5.0)
    parser.add_argument("--fail", type=float, default=0.0, help="which part of the calls")
    o = parser.parse_args()
    asyncio.run(serve(o.listen, BackEnd(o.work_ms / 1e3, o.fail, random.Random(1))))
