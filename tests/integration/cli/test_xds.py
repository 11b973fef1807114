"""`registryctl xds`: what xDS clients start with, and which are there."""

from __future__ import annotations

import json
import socket

import pytest

from registry_client.xds.bootstrap import LISTEN
from tests.support.registryctl import ctl

SERVER = ("--server", "10.0.0.1:7400,registry.example")


async def test_bootstrap_is_for_grpc_and_asks_nobody() -> None:
    result = await ctl(*SERVER, "xds", "bootstrap", "--region", "eu")
    made = json.loads(result.stdout)
    assert [it["server_uri"] for it in made["xds_servers"]] == ["10.0.0.1:7400", "registry.example:7400"]
    assert made["node"] == {"id": socket.gethostname(), "cluster": "default", "locality": {"region": "eu"}}
    assert (result.exit_code, result.stderr) == (0, "")


async def test_bootstrap_of_a_namespace() -> None:
    made = json.loads((await ctl(*SERVER, "-n", "prod", "xds", "bootstrap", "--node-id", "me")).stdout)
    assert made["client_default_listener_resource_name_template"] == "prod/%s"
    assert made["node"]["id"] == "me"


async def test_bootstrap_for_tonic() -> None:
    result = await ctl(*SERVER, "-n", "prod", "xds", "bootstrap", "--tonic", "--node-cluster", "games")
    made = json.loads(result.stdout)
    assert [it["server_uri"] for it in made["xds_servers"]] == ["http://10.0.0.1:7400", "http://registry.example:7400"]
    assert made["node"]["cluster"] == "games"
    assert "call xds:///NAMESPACE/SERVICE" in result.stderr


async def test_bootstrap_for_envoy() -> None:
    arguments = ("xds", "bootstrap", "--envoy", "--envoy-listen", "0.0.0.0:10000", "--state-of-the-world")
    made = json.loads((await ctl(*SERVER, *arguments)).stdout)
    assert made["node"]["metadata"] == {LISTEN: "0.0.0.0:10000"}
    assert made["dynamic_resources"]["ads_config"]["api_type"] == "GRPC"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--envoy", "--tonic"], "choose one"),
        (["--envoy-listen", "127.0.0.1:0"], "need --envoy"),
        (["--state-of-the-world", "--tonic"], "need --envoy"),
        (["--envoy", "--envoy-listen", "here:1"], "must be an IP address and a port"),
        (["--server", "h:0"], "the port must be 1 to 65535"),
        (["--tonic", "--server", "unix:/run/registry"], "tonic-xds cannot connect to unix:PATH"),
    ],
)
async def test_bootstrap_of_what_cannot_be(arguments: list[str], says: str) -> None:
    result = await ctl("xds", "bootstrap", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1
