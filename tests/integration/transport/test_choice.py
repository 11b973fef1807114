"""Which transport a server has, and with which limits: what it is told, or what there is."""

import os
import re
import tomllib
from pathlib import Path

import grpc
import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.config import TRANSPORTS
from registry_server.transport.limits import Limits
from tests.conftest import ServerFactory
from tests.support.http2 import Http2
from tests.support.raw import RawClient
from tests.support.servers import ROOT
from tests.support.stores import Backends, backends

__all__ = ["backends"]


async def test_without_ngh2_grpc_aio_serves_and_calls_etcd_and_a_line_each_says_so(
    server_factory: ServerFactory, backends: Backends, tmp_path: Path
) -> None:
    (tmp_path / "ngh2.py").write_text("raise ImportError('no wheel for this machine')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    store = f"etcd://{backends.etcd().nodes[0].endpoint}?prefix=/{tmp_path.name}"
    server = server_factory(store=store, env={"PYTHONPATH": path}).start()
    async with RawClient(server.address) as client:
        await client.register("one")
    serving, calling = server.log_lines
    assert "serving by grpc.aio, which is slower" in serving
    assert "calling etcd by grpcio, which costs more" in calling
    assert all("no wheel for this machine" in line for line in (serving, calling))


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_limits_of_the_file_hold(server_factory: ServerFactory, tmp_path: Path, transport: str) -> None:
    file = tmp_path / "registry.toml"
    file.write_text("[limits]\nmax_streams = 5\nmax_message_bytes = 1000\n")
    server = server_factory(args=["--config", str(file), "--transport", transport]).start()
    async with Http2(server.address) as client, RawClient(server.address) as other:
        assert client.max_streams == 5
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await other.stub.Get(pb.GetRequest(key=pb.InstanceKey(id="x" * 1000)))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_documented_limits_are_the_defaults() -> None:
    text = (ROOT / "docs" / "protocol.md").read_text()
    (block,) = [it for it in re.findall(r"```toml\n(.*?)```", text, re.DOTALL) if it.startswith("[limits]")]
    assert Limits.named(tomllib.loads(block)["limits"]) == Limits()
