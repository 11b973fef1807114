"""grpc-go's own interop client against the test service of gRPC, on each transport."""

import asyncio
import re
import subprocess

import pytest

from registry_server.transport.status import CODES, Code
from tests.support.go_tools import go_tool
from tests.support.interop_service import AsAsked, service
from tests.support.transports import serving

pytestmark = pytest.mark.timeout(900)  # the first time the client is built

TIMEOUT_S = 30.0
CASES = (
    "cancel_after_begin",
    "cancel_after_first_response",
    "channel_soak",
    "empty_stream",
    "empty_unary",
    "large_unary",
    "pick_first_unary",
    "ping_pong",
    "rpc_soak",
    "server_streaming",
    "special_status_message",
    "status_code_and_message",
    "timeout_on_sleeping_server",
    "unimplemented_method",
    "unimplemented_service",
)
# The client's help leaves these out.
SOAKS = {"channel_soak", "rpc_soak"}
SOAK = ("-soak_num_threads=4", "-soak_iterations=40")
# What no server of a table can answer: its methods neither see nor set headers and trailers, and none gives one answer
# to many requests; there are no calls by Google's credentials.
NOT_ANSWERED = {
    "client_streaming": "one answer to many requests",
    "custom_metadata": "headers and trailers of a method's own",
    "orca_per_rpc": "trailers of a method's own",
    "orca_oob": "a service of its own",
    "compute_engine_channel_credentials": "credentials",
    "compute_engine_creds": "credentials",
    "google_default_credentials": "credentials",
    "jwt_token_creds": "credentials",
    "oauth2_auth_token": "credentials",
    "per_rpc_creds": "credentials",
    "service_account_creds": "credentials",
}


async def run(case: str, address: str) -> None:
    """One case of the client's. Fails when it is not content."""
    host, _, port = address.rpartition(":")
    process = await asyncio.create_subprocess_exec(
        go_tool("interop-client"),
        *(
            f"-server_host={host}",
            f"-server_port={port}",
            f"-test_case={case}",
            "-soak_num_threads=4",
            "-soak_iterations=40",
        ),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"GRPC_GO_LOG_SEVERITY_LEVEL": "info"},
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, said.decode()[-2000:]


@pytest.mark.parametrize("case", CASES)
async def test_the_client_is_content(case: str, transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CODES, AsAsked, Code.UNKNOWN)
    async with serving(transport, service()) as (address, _):
        await run(case, address)


def test_every_case_that_the_client_has_is_tried_or_named() -> None:
    said = subprocess.run([go_tool("interop-client"), "-help"], capture_output=True, text=True, check=False).stderr
    options = said.partition("  -test_case")[2].partition("\n  -")[0]
    assert set(re.findall(r"^\s+(\w+) ?: ", options, re.MULTILINE)) == {*CASES, *NOT_ANSWERED} - SOAKS
