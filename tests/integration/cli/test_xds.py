"""`registryctl xds`: what xDS clients start with, and which are there."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from registry_client import InvalidArgument, RegistryClient, sync
from registry_client import xds as client_xds
from registry_client.xds.bootstrap import LISTEN
from tests.integration.client.conftest import player
from tests.integration.xds.stage import BACKEND, back_ends
from tests.support import xds_messages as xds
from tests.support.ads import Sotw
from tests.support.registryctl import ctl
from tests.support.waiting import until
from tests.support.xds_messages import EDS

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


async def test_bootstrap_of_a_namespace_that_cannot_be() -> None:
    refused = await ctl(*SERVER, "-n", "a/%s b", "xds", "bootstrap")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.startswith("registryctl: --namespace: must be")


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


async def test_bootstrap_always_says_who_asks() -> None:
    made = json.loads((await ctl(*SERVER, "xds", "bootstrap", "--envoy", "--node-id", "", "--node-cluster", "")).stdout)
    assert (made["node"]["id"], made["node"]["cluster"]) == (socket.gethostname(), "default")
    refused = await ctl(*SERVER, "xds", "bootstrap", "--region", "\udcff")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("registryctl: --region: must be text without lone surrogates")


async def test_bootstrap_with_tls() -> None:
    result = await ctl(*SERVER, "--token", "secret", "--tls-ca", "ca.pem", "xds", "bootstrap")
    [server, _] = json.loads(result.stdout)["xds_servers"]
    config = {"ca_certificate_file": str(Path("ca.pem").absolute())}
    assert server["channel_creds"] == [{"type": "tls", "config": config}]
    assert "carries no token" in result.stderr
    assert "secret" not in result.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--tls-cert", "cert.pem"], "go together"),
        (["--envoy", "--tls"], "Envoy brings no authorities"),
        (["--envoy", "--tonic"], "choose one"),
        (["--envoy-listen", "127.0.0.1:0"], "need --envoy"),
        (["--state-of-the-world", "--tonic"], "need --envoy"),
        (["--envoy-load-reports"], "need --envoy"),
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


# ---- who is there


@pytest.fixture
async def stream(address: str, registry: RegistryClient) -> AsyncIterator[Sotw]:
    """Somebody who asks for endpoints as gRPC does."""
    async with (
        registry.register(player("p1")),
        grpc.aio.insecure_channel(address) as channel,
        Sotw(channel, xds.Node(id="game-1", user_agent_name="gRPC Go", locality={"region": "eu"})) as it,
    ):
        yield it


async def test_clients_by_node(stream: Sotw) -> None:
    await stream.want(EDS, "player")
    answer = await stream.next(EDS)
    [head, row] = [line.split() for line in (await ctl("xds", "clients")).stdout.splitlines()]
    assert head == ["NODE", "KIND", "PEER", "TYPE", "NAMES", "SENT", "ACCEPTED"]
    assert (row[0], row[1], row[3:]) == ("game-1", "go", ["ENDPOINTS", "player", answer.version[:8], "none"])
    await stream.ack(answer)

    async def accepted() -> bool:
        return (await ctl("xds", "clients", "game-1")).stdout.splitlines()[1].split()[-1] == "="

    await until(accepted)
    wide = (await ctl("xds", "clients", "-o", "wide")).stdout
    assert all(it in wide for it in (answer.version, "eu", "gRPC Go", "state of the world"))
    assert "game-1" not in (await ctl("xds", "clients", "game-2")).stdout
    assert "no game-2 is connected" in (await ctl("xds", "clients", "game-2")).stderr


async def test_a_client_that_asks_for_nothing_is_there_all_the_same(stream: Sotw) -> None:
    await stream.want(EDS, "player")
    answer = await stream.next(EDS)
    await stream.ack(answer)
    await stream.want(EDS)

    async def wants_nothing() -> bool:
        _, *rows = (await ctl("xds", "clients")).stdout.splitlines()
        return bool(rows) and "player" not in rows[0] and rows[0].startswith("game-1")

    await until(wants_nothing)


@pytest.mark.usefixtures("address")
async def test_that_there_is_nothing_to_show_is_said() -> None:
    for arguments, said in (
        (("xds", "clients"), "no xDS client is connected to the registry that answers"),
        (("xds", "loads"), "no xDS client reports calls to a service of namespace default"),
        (("xds", "loads", "player"), "no xDS client reports calls to player"),
        (("policy", "list"), "no service of namespace default has a policy"),
        (("policy", "list", "-A"), "no service of any namespace has a policy"),
        (("events",), "nothing happened, as far as the registry remembers"),
        (("events", "plaeyr"), "nothing happened that fits, as far as the registry remembers"),
        (("events", "--cause", "expired"), "nothing happened that fits, as far as the registry remembers"),
    ):
        done = await ctl(*arguments)
        assert (done.exit_code, done.stderr) == (0, f"registryctl: {said}\n")


async def test_what_a_client_rejected_last(stream: Sotw) -> None:
    await stream.want(EDS, "player")
    answer = await stream.next(EDS)
    await stream.nack(answer, "the weight is odd")

    async def rejected() -> bool:
        said = (await ctl("xds", "clients")).stdout.splitlines()[1]
        return said.endswith(f"{answer.version[:8]}: the weight is odd")

    await until(rejected)
    [shown] = json.loads((await ctl("xds", "clients", "-o", "json")).stdout)["clients"]
    [wanted] = shown["streams"][0]["subscriptions"]
    assert wanted["rejection"]["reason"] == "the weight is odd"
    assert (wanted["type"], wanted["acceptedVersion"]) == ("ENDPOINTS", "")


async def test_loads_of_a_service(address: str, registry: RegistryClient) -> None:
    async with back_ends(registry, a=100), client_xds.aio.channel("player", registry=address) as channel:
        who = channel.unary_unary(f"/{BACKEND}/Who")
        for _ in range(3):
            await who(b"", timeout=15)

        async def reported() -> bool:
            lines = (await ctl("xds", "loads", "player")).stdout.splitlines()
            return len(lines) == 2 and lines[1].split()[:5] == ["default", "player", "3", "3", "0"]

        await until(reported, timeout_s=20.0)
        [load] = json.loads((await ctl("xds", "loads", "-A", "-o", "json")).stdout)["loads"]
        assert (load["calls"], load["clients"]) == ("3", 1)
        assert (await ctl("xds", "loads", "nobody")).stdout.split()[-1] == "REPORTED"


def test_for_threads(address: str) -> None:
    with sync.connect(address) as registry:
        assert (list(registry.xds_clients.list()), list(registry.xds_clients.loads("player"))) == ([], [])
        with pytest.raises(InvalidArgument, match="service: must be"):
            registry.xds_clients.loads("a b")
