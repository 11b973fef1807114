"""What one xDS stream is told: nothing twice, nothing that was rejected, and all that is asked for."""

import pytest

from registry_server.errors import LimitExceeded
from registry_server.xds import resources, session
from registry_server.xds.names import ALL_ROUTES
from registry_server.xds.session import MAX_NAMES, MAX_UNKNOWN
from tests.support.ads_session import CDS, EDS, ENVOY, LDS, RDS, DeltaPeer, Peer, World, endpoints, read
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


@pytest.mark.parametrize("addresses", [["10.0.0.1"], []])
def test_the_first_answer_waits_for_hosts_that_are_names(addresses: list[str]) -> None:
    world = World()
    world.apply(put(1, key("a"), host="one.example", port=80))
    first, second = Peer(world), Peer(world)
    assert first.ask(EDS, "player", "chat") != []
    assert first.ack(EDS) == []
    assert second.ask(EDS, "player", version_info="0123456789abcdef") == []
    world.moved(*world.hosts.found("one.example", addresses, 1.0)[0])
    for peer in (first, second):
        assert endpoints(*peer.take()) == {"player": [(f"{it}:80", 100) for it in addresses]}
        assert peer.ack(EDS) == []
    assert endpoints(*Peer(world).ask(EDS, "player")) == {"player": [(f"{it}:80", 100) for it in addresses]}


def test_the_first_answer_waits_for_all_names_and_for_no_longer_than_there_is_patience() -> None:
    world = World()
    world.apply(put(1, key("a"), host="one.example", port=80))
    world.apply(put(2, key("b"), host="two.example", port=80))
    peer = Peer(world)
    assert peer.ask(EDS, "player") == []
    world.moved(*world.hosts.found("one.example", ["10.0.0.1"], 1.0)[0])
    assert peer.take() == []
    assert world.hosts.take_awaited() == [("default", "player")]
    assert world.hosts.give_up(("default", "player"))
    world.moved(("default", "player"))
    assert endpoints(*peer.take()) == {"player": [("10.0.0.1:80", 100)]}
    assert not world.hosts.give_up(("default", "player"))


def test_who_was_answered_waits_for_no_name() -> None:
    world = World()
    world.apply(put(1, key("a"), host="10.0.0.1", port=80))
    peer = Peer(world)
    peer.ask(EDS, "player")
    peer.ack(EDS)
    world.apply(put(2, key("b"), host="one.example", port=80))
    world.apply(put(3, key("c"), host="10.0.0.3", port=80))
    assert endpoints(*peer.take()) == {"player": [("10.0.0.1:80", 100), ("10.0.0.3:80", 100)]}


def test_a_name_that_nobody_waits_for_any_more_holds_up_nothing() -> None:
    world = World()
    world.apply(put(1, key("a"), host="one.example", port=80))
    peer = Peer(world)
    assert peer.ask(EDS, "player") == []
    world.apply(put(2, key("a"), host="10.0.0.1", port=80))
    assert endpoints(*peer.take()) == {"player": [("10.0.0.1:80", 100)]}
    peer.session.close()
    assert not world.hosts.is_awaited(("default", "player"))


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


@pytest.mark.parametrize("is_acknowledged", [True, False])
def test_who_wants_nothing_of_a_type_may_begin_with_it_as_on_a_new_stream(is_acknowledged: bool) -> None:
    """Older clients of Java and Node forget the nonce then, and would wait for ever."""
    world = World()
    world.apply(put(1, key("a"), key("b", service="chat"), host="10.0.0.1"))
    peer = Peer(world)
    peer.ask(EDS, "player")
    if is_acknowledged:
        peer.ack(EDS)
        assert peer.ask(EDS) == []
    peer.nonce.clear()
    if not is_acknowledged:
        assert peer.ask(EDS) == []
    assert [list(endpoints(told)) for told in peer.ask(EDS, "chat", "player")] == [["chat", "player"]]
    assert peer.ack(EDS) == []


def test_names_that_are_asked_for_twice_before_the_answer_are_told_once() -> None:
    world = World()
    peer = Peer(world)
    peer.ask(EDS, "player")
    nonce = peer.nonce.pop(EDS)
    assert peer.ask(EDS, "player", "chat") == []
    peer.nonce[EDS] = nonce
    assert [list(endpoints(told)) for told in peer.ack(EDS)] == [["chat"]]
    assert peer.ack(EDS) == []


@pytest.mark.parametrize("then", [["*"], ["*", "third"]])
def test_what_is_one_of_all_there_is_stays_when_it_is_named_no_more(then: list[str]) -> None:
    world = World()
    world.apply(put(1, key("a"), key("b", service="chat"), key("c", service="third")))
    peer = Peer(world, ENVOY)
    peer.ask(CDS, "*", "player", "nobody")
    peer.ack(CDS)
    (told,) = peer.ask(CDS, *then)
    assert sorted(it.name for it in read(told)) == ["chat", "player", "third"]
    assert peer.ack(CDS) == []


def test_whoever_asks_for_all_there_is_gets_it_as_envoy_does() -> None:
    """A proxy may be made of Envoy and call itself something else, and be back with a name first."""
    world = World()
    world.apply(put(1, key("a")))
    peer = Peer(world, "somebody's proxy")
    peer.ask(EDS, "player")
    (told,) = peer.ask(LDS)
    assert [it.address.socket_address.address for it in read(told)] == ["127.0.0.1"]


def test_a_stream_may_not_want_names_without_end() -> None:
    peer = Peer(World())
    peer.ask(EDS, *(f"service-{number}" for number in range(MAX_UNKNOWN)))
    with pytest.raises(LimitExceeded):
        peer.ask(EDS, *(f"service-{number}" for number in range(MAX_UNKNOWN + 1)))


@pytest.mark.parametrize("agent", ["gRPC Go", "envoy"])
def test_a_service_that_nobody_registered_counts_once_whatever_is_asked_of_it(agent: str) -> None:
    peer = Peer(World(), agent)
    wanted = [f"service-{number}" for number in range(MAX_UNKNOWN)]
    for kind in (LDS, RDS, CDS, EDS):
        peer.ask(kind, *wanted)
    with pytest.raises(LimitExceeded):
        peer.ask(LDS, *wanted, "one-more")


def test_names_that_are_wanted_no_more_do_not_count() -> None:
    world = World()
    world.apply(put(1, key("a")))
    peer = Peer(world)
    for number in range(3):
        for name in ("service", "no name! ", "player#version="):
            peer.ask(EDS, *(f"{name}-{number}-{it}" for it in range(MAX_UNKNOWN - 1)))
            assert peer.ask(EDS) == []
            assert not peer.session._unknown


def test_services_that_came_do_not_count() -> None:
    world = World()
    peer = Peer(world)
    wanted = [f"service-{number}" for number in range(MAX_UNKNOWN)]
    peer.ask(EDS, *wanted)
    world.apply(put(1, *(key("a", service=name) for name in wanted)))
    peer.ask(EDS, *wanted, "one-more")


def test_parts_that_there_never_were_count() -> None:
    world = World()
    world.apply(put(1, key("a")))
    peer = Peer(world)
    peer.ask(EDS, *(f"player#version={number}" for number in range(MAX_UNKNOWN)), "player")
    with pytest.raises(LimitExceeded):
        peer.ask(EDS, *(f"player#version={number}" for number in range(MAX_UNKNOWN + 1)), "player")


def test_one_name_a_million_times_is_refused_at_once() -> None:
    with pytest.raises(LimitExceeded):
        Peer(World()).ask(EDS, *["player"] * (MAX_NAMES + 1))
    with pytest.raises(LimitExceeded):
        DeltaPeer(World()).ask(EDS, *["player"] * (MAX_NAMES + 1))
    with pytest.raises(LimitExceeded):
        DeltaPeer(World()).ask(EDS, drop=("player",) * (MAX_NAMES + 1))


def test_a_server_that_knows_nobody_yet_refuses_nobody_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "MAX_STRANGERS", 2)
    world = World()
    world.resources.is_warming = True
    peer = Peer(world)
    wanted = [f"service-{number}" for number in range(MAX_UNKNOWN + 1)]
    assert peer.ask(EDS, *wanted, version_info="1") == []
    world.apply(put(1, *(key("a", service=name) for name in wanted)))
    world.resources.is_warming = False
    peer.session.warmed()
    assert len(endpoints(*peer.take())) == len(wanted)


def test_strangers_without_number_take_no_routes_from_envoy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "MAX_STRANGERS", 0)
    peer = Peer(World(), "envoy")
    assert len(peer.ask(RDS, ALL_ROUTES)) == 1


def test_all_streams_together_may_not_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "MAX_STRANGERS", 2)
    world = World()
    world.apply(put(1, key("a")))
    first, second = Peer(world), Peer(world)
    first.ask(EDS, "one", "two")
    with pytest.raises(LimitExceeded):
        second.ask(EDS, "three")
    second.session.close()
    third = Peer(world)
    assert len(third.ask(EDS, "player")) == 1
    first.session.close()
    assert endpoints(*third.ask(EDS, "player", "three")) == {"three": []}


def test_what_nobody_asks_for_any_more_is_not_kept() -> None:
    world = World()
    peer = Peer(world)
    for kind in (LDS, RDS, CDS, EDS):
        peer.ask(kind, "player", "no name!")
    peer.session.close()
    assert not world.index.of(("default", "player"))
    assert not world.resources._of
    assert not world.resources._wanted


def test_many_endpoints_are_told_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "PART_BYTES", 100)
    names_ = [f"service-{number}" for number in range(8)]
    peer = Peer(World())
    told: list[list[str]] = []
    answers = peer.ask(EDS, *names_)
    while answers:
        (answer,) = answers
        told.append(list(endpoints(answer)))
        answers = peer.ack(EDS)
    assert sorted(name for part in told for name in part) == names_
    assert len(told) > 2


def test_no_part_is_larger_than_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients refuse a message of 4 MiB, and ask again once a second."""
    world = World()
    names_ = [f"service-{number}" for number in range(8)]
    for number, name in enumerate(names_, 1):
        world.apply(put(number, *(key(f"{it}", service=name) for it in range(number))))
    monkeypatch.setattr(session, "PART_BYTES", 300)
    peer = Peer(world)
    told: list[list[str]] = []
    answers = peer.ask(EDS, *names_)
    while answers:
        (answer,) = answers
        assert len(answer.resources) == 1 or sum(len(it.value) for it in answer.resources) <= 300
        told.append(list(endpoints(answer)))
        answers = peer.ack(EDS)
    assert sorted(name for part in told for name in part) == names_
    assert max(map(len, told)) > 1


def test_very_many_resources_are_told_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "PART_COUNT", 3)
    peer = Peer(World())
    told = [peer.ask(EDS, *(f"service-{number}" for number in range(8)))]
    while told[-1]:
        told.append(peer.ack(EDS))
    assert [len(endpoints(*answers)) for answers in told[:-1]] == [3, 3, 2]


def test_a_client_of_an_earlier_version_of_the_names_is_told_no_more_than_it_wants() -> None:
    world = World()
    world.apply(put(1, key("a")))
    peer = Peer(world)
    peer.ask(CDS, "player", "chat")
    peer.ack(CDS)
    assert peer.ask(CDS, "player") == []
    world.apply(put(2, key("a", service="chat")))
    assert peer.take() == []
