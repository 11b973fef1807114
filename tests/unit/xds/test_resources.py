"""What is made for xDS clients is what all of them take; what is not, is seen."""

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as Packed

from registry_api.registry.v1 import policies_pb2 as policies
from registry_api.registry.xds.v1 import ads_pb2 as ads
from registry_api.registry.xds.v1 import resources_pb2 as xds
from registry_server.policies.book import key_of, value_of
from registry_server.records import Delta
from registry_server.rights import UNRESTRICTED
from registry_server.xds import clusters, flaws, listeners, resources
from registry_server.xds.kinds import DEFAULT_LISTEN, ClientKind, Listen, XdsClient, client_of
from registry_server.xds.names import ALL_ROUTES, EVERYTHING, Named, read, shown
from tests.support.ads_session import CDS, EDS, LDS, MESSAGES, RDS, World
from tests.support.core import key, put, setting_record

ENVOY, GO = XdsClient(ClientKind.ENVOY), XdsClient(ClientKind.GO)


def get(world: World, kind: Any, name: str, client: XdsClient = GO) -> Any:
    """A resource, parsed."""
    packed = world.resources.get(kind, client, name, UNRESTRICTED)
    assert packed is not None
    return MESSAGES[kind].FromString(Packed.FromString(packed.any).value)


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("player", Named(("default", "player"))),
        ("default/player", Named(("default", "player"))),
        ("ops/player:80", Named(("ops", "player:80"))),
        ("ops/player#tag=a/b#c", Named(("ops", "player"), "tag=a/b#c")),
        (ALL_ROUTES, Named(EVERYTHING)),
        ("", None),
        ("a/b/c", None),
        ("no service", None),
        ("x" * 700, None),
    ],
)
def test_what_a_name_means(name: str, meaning: Named | None) -> None:
    assert read(name) == meaning
    if meaning is not None and name != ALL_ROUTES:
        assert read(shown(*meaning)) == meaning


def test_a_cluster_is_the_same_by_both_ways() -> None:
    assert xds.Cluster.FromString(clusters.plain("player")) == clusters.cluster("player")
    assert list(flaws.of_cluster(clusters.cluster("player"))) == []


def test_a_listener_leads_to_the_routes_of_its_service_whatever_it_was_called() -> None:
    world = World()
    listener = get(world, LDS, "default/player")
    assert listener.name == "default/player"
    manager = xds.HttpConnectionManager.FromString(listener.api_listener.api_listener.value)
    assert manager.rds.route_config_name == "player"
    assert [it.name for it in manager.http_filters] == ["router"]


def test_parts_have_clusters_of_their_own() -> None:
    world = World()
    world.apply(put(1, key("a"), version="1", host="10.0.0.1", port=1))
    world.apply(put(2, key("b"), version="2", host="10.0.0.2", port=1))
    parts = [policies.Part(version="1", weight=90), policies.Part(version="2", weight=10)]
    follow(world, policies.Policy(split=parts))
    (route,) = get(world, RDS, "player").virtual_hosts[0].routes
    shares = {it.name: it.weight.value for it in route.route.weighted_clusters.clusters}
    assert shares == {"player#version=1": 90, "player#version=2": 10}
    told = {name: addresses(get(world, EDS, name)) for name in (*shares, "player", "player#version=3")}
    assert told["player#version=1"] == ["10.0.0.1"]
    assert told["player#version=2"] == ["10.0.0.2"]
    assert told["player"] == told["player#version=3"] == ["10.0.0.1", "10.0.0.2"]


def test_parts_that_there_never_were_are_not_kept_without_end() -> None:
    world = World()
    world.apply(put(1, key("a")))
    for number in range(2 * resources.MAX_TRAFFIC):
        get(world, CDS, f"player#version={number}")
    assert len(world.resources._of["default", "player"].traffic) <= resources.MAX_TRAFFIC


def test_routes_follow_who_is_there_in_a_split() -> None:
    world = World()
    world.apply(put(1, key("a"), version="1"))
    parts = [policies.Part(version="1", weight=90), policies.Part(version="2", weight=10)]
    follow(world, policies.Policy(split=parts))
    assert get(world, RDS, "player").virtual_hosts[0].routes[0].route.cluster == "player#version=1"
    world.resources.changed(world.catalog.apply(put(3, key("b"), version="2")))
    assert world.resources.weights_changed(("default", "player"))
    assert len(get(world, RDS, "player").virtual_hosts[0].routes[0].route.weighted_clusters.clusters) == 2
    assert not world.resources.weights_changed(("default", "player"))


def follow(world: World, policy: policies.Policy) -> None:
    """Somebody asks for the service, which gets a policy."""
    world.resources.want(("default", "player"))
    policy.namespace, policy.service = "default", "player"
    world.apply(Delta(9, puts=(setting_record(key_of("default", "player"), 9, value_of(policy)),)))
    world.policy_changed(("default", "player"))


def addresses(it: Any) -> list[str]:
    return sorted(point.endpoint.address.socket_address.address for at in it.endpoints for point in at.lb_endpoints)


def test_envoy_is_given_no_domain_twice() -> None:
    keys = [
        ("default", "Player"),
        ("default", "player"),
        ("ops", "chat"),
        ("default", "chat.ops"),
    ]
    action = clusters.action([("x", 1)])
    found = xds.RouteConfiguration.FromString(listeners.all_routes({key: listeners.ways(key, action) for key in keys}))
    domains = [domain for host in found.virtual_hosts for domain in host.domains]
    assert len(domains) == len({domain.lower() for domain in domains})
    by_name = {host.name: list(host.domains) for host in found.virtual_hosts}
    assert by_name["ops/chat"][::2] == ["ops/chat", "ops%2fchat"]
    assert by_name["chat.ops"] == ["chat.ops", "chat.ops:*"]
    assert "player" not in by_name
    paths = [route.match.prefix for host in found.virtual_hosts if host.domains[0] == "*" for route in host.routes]
    assert paths == ["/Player/", "/player/", "/chat.ops/"]


def test_a_service_of_another_namespace_has_names_that_pass_a_proxy() -> None:
    ways = {("ops", "chat"): listeners.ways(("ops", "chat"), clusters.action([("ops/chat", 1)]))}
    (host,) = xds.RouteConfiguration.FromString(listeners.all_routes(ways)).virtual_hosts
    assert list(host.domains)[::2] == ["ops/chat", "ops%2fchat", "chat.ops"]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("0.0.0.0:8080", Listen("0.0.0.0", 8080)),
        ("[::1]:0", Listen("::1", 0)),
        ("localhost:80", DEFAULT_LISTEN),
        ("127.0.0.1:x", DEFAULT_LISTEN),
        ("127.0.0.1:70000", DEFAULT_LISTEN),
        ("", DEFAULT_LISTEN),
    ],
)
def test_where_envoy_listens(text: str, where: Listen) -> None:
    node = ads.Node(user_agent_name="envoy")
    node.metadata["registry.listen"] = text
    assert client_of(node).listen == where


def test_what_a_client_says_of_itself_is_kept_in_so_many_bytes_and_can_be_part_of_a_name() -> None:
    said = client_of(ads.Node(id="a\0b" + "\U0001f600" * 1_000, cluster="\0"))
    assert said.id == "ab" + "\U0001f600" * 63
    assert said.cluster == ""


@pytest.mark.parametrize(
    ("agent", "kind"),
    [
        ("envoy", ClientKind.ENVOY),
        ("gRPC C-core linux Python/C-core", ClientKind.C_CORE),
        ("gRPC Go", ClientKind.GO),
        ("gRPC Java", ClientKind.JAVA),
        ("gRPC Node Pure JS", ClientKind.NODE),
        ("gRPC Rust tonic-xds", ClientKind.RUST),
        ("something else", ClientKind.OTHER),
    ],
)
def test_who_a_client_is(agent: str, kind: ClientKind) -> None:
    assert client_of(ads.Node(user_agent_name=agent)).kind is kind


# ---- flaws


def broken_cluster(change: Callable[[xds.Cluster], None]) -> list[str]:
    found = clusters.cluster("player")
    change(found)
    return list(flaws.of_cluster(found))


def set_(path: str, value: Any) -> Callable[[Any], None]:
    def change(message: Any) -> None:
        *way, last = path.split(".")
        for step in way:
            message = getattr(message, step)
            message = message[0] if hasattr(message, "append") else message
        setattr(message, last, value)

    return change


@pytest.mark.parametrize(
    "change",
    [
        set_("name", ""),
        set_("type", 0),
        set_("lb_policy", 1),
        set_("circuit_breakers.thresholds.max_requests.value", 0),
        set_("outlier_detection.max_ejection_percent.value", 101),
        set_("outlier_detection.interval.seconds", -1),
        lambda it: it.load_balancing_policy.policies.add(),
        lambda it: it.eds_cluster_config.ClearField("eds_config"),
    ],
)
def test_a_flaw_of_a_cluster_is_seen(change: Callable[[xds.Cluster], None]) -> None:
    assert broken_cluster(change)


@pytest.mark.parametrize(
    "change",
    [
        set_("cluster", ""),
        set_("retry_policy.retry_on", "unavailable, internal"),
        set_("retry_policy.num_retries.value", 0),
        set_("retry_policy.retry_back_off.base_interval.seconds", 1),
        set_("timeout.seconds", -1),
        lambda it: it.hash_policy.add(),
        lambda it: it.weighted_clusters.clusters.add(name="x"),
    ],
)
def test_a_flaw_of_a_way_is_seen(change: Callable[[xds.RouteAction], None]) -> None:
    found = clusters.action([("player", 1)])
    assert list(flaws.of_action(found)) == []
    change(found)
    assert list(flaws.of_action(found))


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it.ClearField("locality"),
        set_("load_balancing_weight.value", 0),
        set_("priority", 1),
        set_("lb_endpoints.load_balancing_weight.value", 0),
        set_("lb_endpoints.endpoint.address.socket_address.address", "host.example"),
        set_("lb_endpoints.endpoint.address.socket_address.port_value", 0),
        lambda it: it.lb_endpoints.append(it.lb_endpoints[0]),
    ],
)
def test_a_flaw_of_endpoints_is_seen(change: Callable[[xds.LocalityLbEndpoints], None]) -> None:
    world = World()
    world.apply(put(1, key("a")))
    found = get(world, EDS, "player")
    assert list(flaws.of_assignment(found)) == []
    change(found.endpoints[0])
    assert list(flaws.of_assignment(found))


def test_a_policy_that_somebody_would_not_take_is_followed_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(cluster: xds.Cluster, *_: object) -> None:
        cluster.outlier_detection.max_ejection_percent.value = 1_000

    monkeypatch.setattr("registry_server.xds.traffic.to_cluster", broken)
    world = World()
    follow(world, policies.Policy(balancing=policies.Policy.LEAST_REQUEST))
    assert get(world, CDS, "player", ENVOY) == clusters.cluster("player")
    assert list(world.resources.take_flaws()) == [("default", "player")]
    assert world.resources.take_flaws() == {}
