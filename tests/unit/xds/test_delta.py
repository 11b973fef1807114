"""The incremental protocol, and clients that ask for all there is, as Envoy does: without a port."""

import pytest

from registry_api.registry.v1 import policies_pb2 as policies
from registry_server.policies.book import key_of, value_of
from registry_server.records import Delta
from registry_server.xds import resources, session
from registry_server.xds.names import ALL_ROUTES
from tests.support.ads_session import CDS, EDS, LDS, RDS, DeltaPeer, Peer, World, names
from tests.support.core import gone, key, put, setting_record


def test_all_there_is_comes_to_who_asks_for_nothing() -> None:
    world = World()
    world.apply(put(1, key("a"), key("b", service="chat")))
    peer = DeltaPeer(world)
    assert sorted(names(*peer.ask(CDS))) == ["chat", "player"]
    assert names(*peer.ask(LDS)) == ["registry"]
    assert names(*peer.ask(RDS, ALL_ROUTES)) == [ALL_ROUTES]


def test_the_first_answer_comes_although_there_is_nothing() -> None:
    (told,) = DeltaPeer(World()).ask(CDS)
    assert not told.resources
    assert not told.removed_resources


def test_grpc_that_asks_for_nothing_wants_nothing() -> None:
    world = World()
    world.apply(put(1, key("a")))
    peer = DeltaPeer(world, agent="gRPC Java")
    assert peer.ask(CDS) == []
    assert peer.ask(LDS) == []


def test_a_new_service_is_led_to_once_its_cluster_is_taken() -> None:
    world = World()
    peer = DeltaPeer(world)
    for kind, wanted in ((CDS, ()), (LDS, ()), (RDS, (ALL_ROUTES,))):
        peer.ask(kind, *wanted)
        peer.ack(kind)
    world.apply(put(1, key("a")))
    assert names(*peer.take()) == ["player"]
    assert names(*peer.ask(EDS, "player")) == ["player"]
    assert names(*peer.ack(EDS)) == []
    assert names(*peer.ack(CDS)) == [ALL_ROUTES]


def test_a_cluster_leaves_after_the_routes_without_it_are_taken() -> None:
    world = World()
    world.apply(put(1, key("a"), version="1"))
    world.apply(put(2, key("b"), version="2"))
    split(world, 3, "1", "2")
    peer = following_all(world)
    split(world, 4, "1")
    assert names(*peer.take()) == [ALL_ROUTES]
    assert [list(told.removed_resources) for told in peer.ack(RDS)] == [["player#version=2"]]


def test_a_cluster_to_which_no_route_led_leaves_at_once() -> None:
    world = World()
    world.apply(put(1, key("a"), version="1"))
    split(world, 2, "1", "2")
    peer = following_all(world)
    split(world, 3, "1")
    assert [list(told.removed_resources) for told in peer.take()] == [["player#version=2"]]


def following_all(world: World) -> DeltaPeer:
    """A client that has all clusters, and the routes to them."""
    peer = DeltaPeer(world)
    assert sorted(names(*peer.ask(CDS))) == ["player", "player#version=1", "player#version=2"]
    peer.ack(CDS)
    peer.ask(RDS, ALL_ROUTES)
    assert peer.ack(RDS) == []
    return peer


def split(world: World, revision: int, *versions: str) -> None:
    """A policy comes, and every stream hears of it."""
    policy = policies.Policy(
        namespace="default",
        service="player",
        split=[policies.Part(weight=100 // len(versions), version=version) for version in versions],
    )
    world.apply(Delta(revision, puts=(setting_record(key_of("default", "player"), revision, value_of(policy)),)))
    world.policy_changed(("default", "player"))


@pytest.mark.parametrize("is_delta", [True, False])
def test_routes_are_told_after_all_the_clusters_that_come_in_parts(
    is_delta: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "PART_COUNT", 1)
    world = World()
    world.apply(put(1, *(key("a", service=name) for name in ("one", "two", "three"))))
    peer = DeltaPeer(world) if is_delta else Peer(world, "envoy")
    told = [it.type_url for it in peer.ask(CDS)]
    told += [it.type_url for it in peer.ask(RDS, ALL_ROUTES)]
    while more := peer.ack(CDS) if told[-1] == CDS.url else []:
        told += [it.type_url for it in more]
    assert told == [CDS.url] * (3 if is_delta else 1) + [RDS.url]


def test_what_is_gone_since_the_last_stream_is_told() -> None:
    world = World()
    world.apply(put(1, key("a")))
    (told,) = DeltaPeer(world).ask(CDS, have={"gone": "0123456789abcdef", "other": "what?"})
    assert names(told) == ["player"]
    assert sorted(told.removed_resources) == ["gone", "other"]


def test_what_is_there_still_is_not_told_to_who_asks_for_all() -> None:
    world = World()
    world.apply(put(1, key("a")))
    ((cluster,),) = [it.resources for it in DeltaPeer(world).ask(CDS)]
    (told,) = DeltaPeer(world).ask(CDS, have={"player": cluster.version})
    assert names(told) == []


def test_versions_are_the_same_on_another_server() -> None:
    first, second = World(), World()
    first.apply(put(1, key("a"), key("b")))
    second.apply(put(1, key("b")))
    second.apply(put(2, key("a")))
    versions = [
        [
            it.version
            for kind in (CDS, EDS, LDS, RDS)
            for told in DeltaPeer(world).ask(kind, "player")
            for it in told.resources
        ]
        for world in (first, second)
    ]
    assert len(versions[0]) == 4
    assert versions[0] == versions[1]


def test_a_name_that_is_dropped_while_all_is_wanted_is_told_anew() -> None:
    world = World()
    world.apply(put(1, key("a")))
    peer = DeltaPeer(world)
    peer.ask(CDS, "*", "player")
    peer.ack(CDS)
    assert names(*peer.ask(CDS, drop=("player",))) == ["player"]
    peer.ack(CDS)
    assert peer.ask(CDS, drop=("nobody",)) == []


def test_a_name_of_no_service_is_gone_at_once_and_said_why() -> None:
    (told,) = DeltaPeer(World()).ask(EDS, "no service!")
    assert told.removed_resources == ["no service!"]
    assert [it.error_detail.code for it in told.resource_errors] == [5]


def test_a_changed_cluster_is_followed_by_its_endpoints() -> None:
    world = World()
    world.apply(put(1, key("a")))
    peer = DeltaPeer(world)
    peer.ask(CDS)
    peer.ack(CDS)
    peer.ask(EDS, "player")
    peer.ack(EDS)
    policy = policies.Policy(namespace="default", service="player", balancing=policies.Policy.LEAST_REQUEST)
    world.apply(Delta(2, puts=(setting_record(key_of("default", "player"), 2, value_of(policy)),)))
    world.policy_changed(("default", "player"))
    assert [told.type_url for told in peer.take()] == [CDS.url, EDS.url]


def test_a_server_that_began_without_anything_takes_nothing_away() -> None:
    world = World()
    world.resources.is_warming = True
    peer = DeltaPeer(world)
    assert peer.ask(CDS, have={"player": "0123456789abcdef"}) == []
    assert peer.ask(EDS, "player", have={"player": "0123456789abcdef"}) == []
    world.apply(put(1, key("a")))
    assert [(told.type_url, names(told)) for told in peer.take()] == [(EDS.url, ["player"])]
    world.resources.is_warming = False
    peer.session.warmed()
    assert [(told.type_url, names(told)) for told in peer.take()] == [(CDS.url, ["player"])]


def test_who_had_nothing_is_answered_while_the_server_warms_up() -> None:
    world = World()
    world.resources.is_warming = True
    assert names(*DeltaPeer(world).ask(EDS, "player")) == ["player"]


def test_services_that_left_long_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    monkeypatch.setattr(resources, "GONE_LIMIT", 1)
    world.apply(put(1, key("a", service="one"), key("a", service="two")))
    peer = DeltaPeer(world)
    peer.ask(CDS)
    peer.ack(CDS)
    world.apply(gone(2, key("a", service="one"), key("a", service="two")))
    assert peer.take() == []
    world.forget()
    assert [list(told.removed_resources) for told in peer.take()] == [["one"]]


@pytest.mark.parametrize("is_asked_for", [False, True])
def test_a_service_that_is_forgotten_leaves_no_part_behind(is_asked_for: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "GONE_LIMIT", 0)
    world = World()
    world.apply(put(1, key("a"), version="1"))
    world.apply(put(2, key("b"), version="2"))
    split(world, 3, "1", "2")
    if is_asked_for:
        DeltaPeer(world, agent="gRPC Go").ask(EDS, "player")
    peer = following_all(world)
    world.apply(gone(4, key("a"), key("b")))
    world.forget()
    assert [told.type_url for told in peer.take()] == [RDS.url]
    (told,) = peer.ack(RDS)
    assert sorted(told.removed_resources) == ["player", "player#version=1", "player#version=2"]


class Half:
    """Who may read `player`, and nothing else."""

    grants = ("read default/player",)

    def may(self, right: str, namespace: str, service: str, /) -> bool:
        return (namespace, service) == ("default", "player")

    may_some = may


def test_nobody_is_told_of_what_is_not_his_to_see() -> None:
    world = World()
    world.apply(put(1, key("a"), key("b", service="secret")))
    peer = DeltaPeer(world, rights=Half())
    assert names(*peer.ask(CDS)) == ["player"]
    (routes,) = peer.ask(RDS, ALL_ROUTES)
    assert b"secret" not in routes.SerializeToString()
    (told,) = peer.ask(EDS, "secret")
    assert names(told) == []
    assert [it.error_detail.code for it in told.resource_errors] == [7]
