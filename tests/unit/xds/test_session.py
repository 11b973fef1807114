"""What one xDS stream is told: nothing twice, nothing that was rejected, and all that is asked for."""

from tests.support.ads_session import CDS, EDS, LDS, RDS, Peer, World, endpoints, read
from tests.support.core import gone, key, put


def test_a_client_comes_from_a_name_to_endpoints() -> None:
    world = World()
    world.apply(put(1, key("a"), host="10.0.0.1", port=80, weight=3))
    peer = Peer(world)
    (listener,) = read(*peer.ask(LDS, "player"))
    assert listener.name == "player"
    (routes,) = read(*peer.ask(RDS, "player"))
    assert routes.virtual_hosts[0].routes[0].route.cluster == "player"
    (cluster,) = read(*peer.ask(CDS, "player"))
    assert cluster.eds_cluster_config.service_name == "player"
    assert endpoints(*peer.ask(EDS, "player")) == {"player": [("10.0.0.1:80", 3)]}
    assert [peer.ack(kind) for kind in (LDS, RDS, CDS, EDS)] == [[], [], [], []]


def test_a_service_that_nobody_registered_has_no_endpoint_and_then_one() -> None:
    world = World()
    peer = Peer(world)
    assert endpoints(*peer.ask(EDS, "player")) == {"player": []}
    peer.ack(EDS)
    world.apply(put(1, key("a"), host="10.0.0.1", port=80))
    assert endpoints(*peer.take()) == {"player": [("10.0.0.1:80", 100)]}


def test_the_last_instance_leaves_the_listener_there() -> None:
    world = World()
    world.apply(put(1, key("a"), host="10.0.0.1", port=80))
    peer = Peer(world)
    for kind in (LDS, RDS, CDS, EDS):
        peer.ask(kind, "player")
        peer.ack(kind)
    world.apply(gone(2, key("a")))
    (told,) = peer.take()
    assert endpoints(told) == {"player": []}


def test_what_changes_back_before_it_is_told_is_no_news() -> None:
    world = World()
    world.apply(put(1, key("a"), host="10.0.0.1", port=80))
    peer = Peer(world)
    peer.ask(EDS, "player")
    peer.ack(EDS)
    world.apply(put(2, key("b"), host="10.0.0.2", port=80))
    world.apply(gone(3, key("b")))
    assert peer.take() == []


def test_one_response_is_under_way_at_a_time() -> None:
    world = World()
    peer = Peer(world)
    peer.ask(EDS, "player")
    world.apply(put(1, key("a"), host="10.0.0.1", port=80))
    assert peer.take() == []
    assert endpoints(*peer.ack(EDS)) == {"player": [("10.0.0.1:80", 100)]}


def test_what_was_rejected_is_not_sent_again() -> None:
    world = World()
    peer = Peer(world)
    peer.ask(EDS, "player")
    assert peer.nack(EDS, "too green") == []
    assert peer.session.flows[EDS].rejection.reason == "too green"  # type: ignore[union-attr]
    assert peer.nack(EDS) == []
    world.apply(put(1, key("a"), host="10.0.0.1", port=80))
    assert len(peer.take()) == 1


def test_a_stale_request_is_not_answered_and_its_names_are_taken() -> None:
    world = World()
    peer = Peer(world)
    peer.ask(EDS, "player")
    peer.ack(EDS)
    assert peer.ask(EDS, "player", "chat", response_nonce="stale") == []
    assert endpoints(*peer.ask(EDS, "player", "chat")) == {"chat": []}


def test_who_comes_back_to_a_name_is_told_it_again() -> None:
    peer = Peer(World())
    peer.ask(EDS, "player")
    peer.ack(EDS)
    assert peer.ask(EDS) == []
    assert endpoints(*peer.ask(EDS, "player")) == {"player": []}
