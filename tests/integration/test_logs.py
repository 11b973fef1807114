"""The log of a server as it is run: JSON with who asked what in which trace; and with OpenTelemetry's own command."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from tests.conftest import ServerFactory
from tests.support.access import file_of, token
from tests.support.raw import RawClient
from tests.support.source import ROOT
from tests.support.transports import FLAGS
from tests.support.waiting import eventually_async

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACED = ("traceparent", f"00-{TRACE_ID}-{SPAN_ID}-01")


@pytest.mark.parametrize("transport", FLAGS)
async def test_a_line_of_json_says_who_asked_what(
    transport: str, server_factory: ServerFactory, tmp_path: Path
) -> None:
    access = tmp_path / "access.toml"
    access.write_text(file_of())
    args = ["--log-format", "json", "--log-level", "debug", "--access-file", str(access), *FLAGS[transport]]
    async with server_factory(args=args) as server, RawClient(server.address) as client:
        metadata = (TRACED, ("authorization", f"Bearer {token('owner')}"))
        wanted = pb.Instance(service="player", id="one", host="127.0.0.1", port=9000)
        answer = await client.stub.Register(pb.RegisterRequest(instance=wanted), metadata=metadata, timeout=20)
        asked = "/registry.v1.Registry/Register: OK"
        await eventually_async(lambda: asked in server.log_text)
        assert await server.terminate_async() == 0
    lines = [json.loads(line) for line in server.log_text.splitlines()]
    [told] = [it for it in lines if it["message"].startswith(asked)]
    assert told["revision"] == answer.header.revision
    assert told["peer"].startswith("ipv4:127.0.0.1:")
    assert (told["identity"], told["trace_id"], told["span_id"]) == ("owner", TRACE_ID, SPAN_ID)
    assert {"time", "level", "logger"} < set(told)
    assert token("owner") not in server.log_text


async def test_under_opentelemetry_instrument(tmp_path: Path) -> None:
    command = ["--traces_exporter", "console", "--metrics_exporter", "none", "--logs_exporter", "none", sys.executable]
    serving = ["-m", "registry_server", "--listen", "127.0.0.1:0", "--admin", "off"]
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("opentelemetry-instrument")),
        *command,
        *serving,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "protos")])},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            address = (await process.stdout.readline()).decode().rpartition(" ")[2].strip()
            async with RawClient(address) as client:
                await client.stub.List(pb.ListRequest(service="player"), metadata=(TRACED,), timeout=20)
            process.send_signal(signal.SIGTERM)
            said = (await process.stdout.read()).decode()
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
    span = json.loads(said[said.index("{") :])
    assert span["name"] == "registry.v1.Registry/List"
    assert (span["context"]["trace_id"], span["parent_id"]) == (f"0x{TRACE_ID}", f"0x{SPAN_ID}")
