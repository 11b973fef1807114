"""A server that the system lets have few files: however many clients hold on to theirs, a new one gets in."""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from h2.exceptions import ProtocolError

from registry_api.registry.v1 import registry_pb2 as pb
from tests.support.http2 import Http2
from tests.support.raw import RawClient
from tests.support.servers import RegistryServer

FILES = 256
CLIENTS = 400
WATCH = "/registry.v1.Registry/Watch"


class Narrow(RegistryServer):
    """It may have so many files, and not one more."""

    def __init__(self, directory: Path, args: Sequence[str] = ()) -> None:
        super().__init__(directory, args=args)

    def _command(self) -> list[str]:
        return ["sh", "-c", f'ulimit -n {FILES}; exec "$@"', "sh", *super()._command()]


@pytest.mark.parametrize("kind", ["idle", "with a stream"])
async def test_a_new_client_gets_in(kind: str, tmp_path: Path) -> None:
    """Who came first and reads all the while comes back, if it has to make room."""
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(Narrow(tmp_path))
        client = await stack.enter_async_context(RawClient(server.address))
        lease = (await client.register("one", ttl_s=30.0)).lease_id
        for start in range(0, CLIENTS, 50):
            some = [Http2(server.address) for _ in range(50)]
            await asyncio.gather(*map(stack.enter_async_context, some))
            for it in some:
                if kind != "idle":
                    with contextlib.suppress(ConnectionError, ProtocolError):  # it had to make room already
                        it.call(WATCH, pb.WatchRequest(services=["player"]))
                        await it.flush()
            async with RawClient(server.address) as newcomer:
                assert await newcomer.ids() == {"one"}, start
        assert psutil.Process(server.pid).num_fds() < FILES
        assert (await client.renew_one(lease)).state == pb.Renewal.RENEWED
        assert "Traceback" not in server.log_text
        assert server.log_text.count("max_connections") == 1
