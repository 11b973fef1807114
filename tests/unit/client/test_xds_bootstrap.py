"""What xDS clients start with, and what each kind of them cannot do without (docs/xds.md)."""

from __future__ import annotations

from typing import Any

import pytest

from registry_client import TLS, InvalidArgument, InvalidTarget, Locality, xds
from registry_client.xds import bootstrap
from registry_client.xds.bootstrap import CLUSTER, LISTEN, Files, Node, for_c_core, for_envoy, for_grpc, for_tonic

NODE = Node("game-1", "games", Locality(region="eu", zone="eu-1"))
H2 = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def servers(made: Any) -> list[str]:
    return [server["server_uri"] for server in made["xds_servers"]]


def test_node_js_finds_an_id_and_a_locality_and_envoy_a_cluster() -> None:
    expected = {"id": "game-1", "cluster": "games", "locality": {"region": "eu", "zone": "eu-1"}}
    for made in (for_grpc(["h:1"], NODE), for_tonic(["h:1"], NODE)):
        assert made["node"] == expected
    made = for_envoy(["h:1"], NODE)["node"]
    assert made == {**expected, "metadata": {LISTEN: "127.0.0.1:0"}}
    assert Node("x").to_json() == {"id": "x", "cluster": "default", "locality": {}}


def test_a_listener_that_vanishes_is_kept() -> None:
    for made in (for_grpc(["h:1"], NODE), for_tonic(["h:1"], NODE)):
        assert all("ignore_resource_deletion" in server["server_features"] for server in made["xds_servers"])  # type: ignore[attr-defined]


def test_each_client_is_told_of_addresses_as_it_reads_them() -> None:
    addresses = ["10.0.0.1:7400", "[::1]:7400", "unix:/run/registry.sock"]
    assert servers(for_grpc(addresses, NODE)) == addresses
    assert servers(for_tonic(addresses[:2], NODE)) == ["http://10.0.0.1:7400", "http://[::1]:7400"]
    with pytest.raises(InvalidTarget, match="tonic-xds cannot connect to unix:PATH"):
        for_tonic(addresses, NODE)
    [cluster] = for_envoy(addresses, NODE)["static_resources"]["clusters"]  # type: ignore[index]
    found = [it["endpoint"]["address"] for it in cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]]
    assert found == [
        {"socket_address": {"address": "10.0.0.1", "port_value": 7400}},
        {"socket_address": {"address": "::1", "port_value": 7400}},
        {"pipe": {"path": "/run/registry.sock"}},
    ]


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (["10.0.0.1:1", "10.0.0.2:2"], ["ipv4:10.0.0.1:1,10.0.0.2:2"]),
        (["[::1]:1", "[::2]:2"], ["ipv6:[::1]:1,[::2]:2"]),
        (["10.0.0.1:1"], ["10.0.0.1:1"]),
        (["10.0.0.1:1", "[::1]:2"], ["10.0.0.1:1", "[::1]:2"]),
        (["10.0.0.1:1", "h:2"], ["10.0.0.1:1", "h:2"]),
        (["h:1", "unix:/run/r"], ["h:1", "unix:/run/r"]),
    ],
)
def test_the_c_core_has_several_numbers_as_one_server(addresses: list[str], expected: list[str]) -> None:
    assert servers(for_c_core(addresses, NODE)) == expected


def test_a_namespace_is_a_template_of_names() -> None:
    template = "client_default_listener_resource_name_template"
    assert for_grpc(["h:1"], NODE, "prod")[template] == "prod/%s"
    assert template not in for_grpc(["h:1"], NODE)


def test_envoy_asks_by_adds_and_pings() -> None:
    for world, kind in ((False, "DELTA_GRPC"), (True, "GRPC")):
        made: Any = for_envoy(["h:1"], NODE, listen="0.0.0.0:80", state_of_the_world=world)
        assert made["dynamic_resources"]["ads_config"]["api_type"] == kind
        [service] = made["dynamic_resources"]["ads_config"]["grpc_services"]
        assert service["envoy_grpc"] == {"cluster_name": CLUSTER, "authority": "h:1"}
        assert made["node"]["metadata"][LISTEN] == "0.0.0.0:80"
    by_file: Any = for_envoy(["unix:/run/registry.sock"], NODE)["dynamic_resources"]
    assert by_file["ads_config"]["grpc_services"][0]["envoy_grpc"]["authority"] == "localhost"
    [cluster] = made["static_resources"]["clusters"]
    assert cluster["name"] == CLUSTER
    assert (
        "connection_keepalive"
        in cluster["typed_extension_protocol_options"][H2]["explicit_http_config"]["http2_protocol_options"]
    )


def test_envoy_reports_its_calls_if_it_is_told_to() -> None:
    assert "cluster_manager" not in for_envoy(["h:1"], NODE)
    made: Any = for_envoy(["h:1"], NODE, load_reports=True)
    config = made["cluster_manager"]["load_stats_config"]
    assert (config["api_type"], config["transport_api_version"]) == ("GRPC", "V3")
    assert config["grpc_services"] == made["dynamic_resources"]["ads_config"]["grpc_services"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [("127.0.0.1:0", "127.0.0.1:0"), ("0.0.0.0:10000", "0.0.0.0:10000"), ("[::]:080", "[::]:80")],
)
def test_where_envoy_listens(given: str, expected: str) -> None:
    assert bootstrap.listen_address(given) == expected


@pytest.mark.parametrize(
    "given",
    ["", "h:1", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "::1:1", "127.0.0.1:-1", "127.0.0.1:٣", "[::1%lo]:1"],
)
def test_where_envoy_cannot_listen(given: str) -> None:
    with pytest.raises(InvalidTarget, match=r"must be an IP address and a port, such as 127\.0\.0\.1:0"):
        bootstrap.listen_address(given)


TLS_FILES = Files("/ca.pem", "/cert.pem", "/key.pem")


def test_tls_of_grpc() -> None:
    config = {"ca_certificate_file": "/ca.pem", "certificate_file": "/cert.pem", "private_key_file": "/key.pem"}
    for made, uri in (
        (for_grpc(["h:1"], NODE, tls=TLS_FILES), "h:1"),
        (for_tonic(["h:1"], NODE, TLS_FILES), "https://h:1"),
        (for_c_core(["h:1"], NODE, TLS_FILES), "h:1"),
    ):
        [server] = made["xds_servers"]  # type: ignore[misc]
        assert (server["server_uri"], server["channel_creds"]) == (uri, [{"type": "tls", "config": config}])
    [server] = for_grpc(["h:1"], NODE, tls=Files())["xds_servers"]  # type: ignore[misc]
    assert server["channel_creds"] == [{"type": "tls", "config": {}}]


def test_a_certificate_is_for_one_of_several_addresses() -> None:
    addresses = ["10.0.0.1:1", "10.0.0.2:2"]
    assert servers(for_c_core(addresses, NODE, TLS_FILES)) == addresses


def test_tls_of_envoy_goes_by_names() -> None:
    made: Any = for_envoy(["h:1", "10.0.0.1:2", "[::1]:3"], NODE, tls=TLS_FILES)
    [cluster] = made["static_resources"]["clusters"]
    context = cluster["transport_socket"]["typed_config"]
    validation = context["common_tls_context"]["validation_context"]
    assert context["sni"] == "h"
    assert validation["trusted_ca"] == {"filename": "/ca.pem"}
    assert [(it["san_type"], it["matcher"]["exact"]) for it in validation["match_typed_subject_alt_names"]] == [
        ("DNS", "h"),
        ("IP_ADDRESS", "10.0.0.1"),
        ("IP_ADDRESS", "::1"),
    ]
    with pytest.raises(InvalidTarget, match="Envoy brings no authorities"):
        for_envoy(["h:1"], NODE, tls=Files())


@pytest.mark.parametrize("make", [xds.channel, xds.aio.channel])
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"registry": "h:x"}, "address 'h:x'"),
        ({"registry": ""}, "must be HOST:PORT"),
        ({"service": "a b"}, "service: must be"),
        ({"service": ""}, "service: is required"),
        ({"service": "a/b/c"}, "namespace: must be"),
        ({"service": 7}, "service: must be a string"),
        ({"namespace": "a/b"}, "namespace: must be"),
        ({"locality": "eu"}, "locality: must be a Locality"),
        ({"credentials": "x"}, "credentials: must be a ChannelCredentials"),
        ({"node_id": 3}, "node_id: must be a string"),
        ({"options": {"a": 1}}, "options: must be a list of"),
        ({"registry_tls": "ca.pem"}, "registry_tls: must be a TLS"),
        ({"registry_tls": TLS(b"x")}, "registry_tls.ca: must be the path"),
        ({"registry_tls": TLS("nowhere.pem")}, "nowhere.pem"),
    ],
)
def test_a_mistake_is_told_at_once(make: Any, wrong: dict[str, object], says: str) -> None:
    with pytest.raises((InvalidArgument, InvalidTarget), match=says):
        make(**{"service": "player", "registry": "127.0.0.1:7400", **wrong})
