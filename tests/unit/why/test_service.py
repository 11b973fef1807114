"""The answers of Diagnosis, over the core on a clock of the test's own."""

import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from registry_api.registry.v1 import why_pb2
from registry_server.access.grants import Grant, Grants
from registry_server.audience import Audience
from registry_server.errors import InvalidField
from registry_server.history.history import History
from registry_server.history.recorder import Recorder
from registry_server.policies.book import PolicyBook
from registry_server.records import Away, Back, Cause, Snapshot
from registry_server.rpc.table import Caller, Table
from registry_server.rpc.why import Clocks, DiagnosisService
from registry_server.why.past import Past
from registry_server.xds.making import ControlPlane
from tests.support.core import NOBODY, NOON, Core, Sink, gone, key, put, record
from tests.support.speed import here

T = TypeVar("T")
WATCH = "/registry.v1.Registry/Watch"
# A step may not take longer than that, in CPU time: much more than is promised, as the machine may be slow.
STEP_S = 0.1


class Told:
    """The core, and who asks it why."""

    def __init__(self, *records: Any, events: int = 0) -> None:
        self.core = Core()
        self.core.feed.emit(Snapshot("e1", 10, records))
        book = PolicyBook(self.core.catalog.settings)
        xds = ControlPlane(self.core.feed, book, self.core.hub)
        audience = Audience(lambda: NOON)
        self.table = audience.attended(Table(self.core.service.service()))
        clocks = Clocks(lambda: NOON, lambda: self.core.timeline.now)
        history = History(events, 3600)
        past = Past(history, self.core.catalog)
        self.core.feed.tell_too(Recorder(history, self.core.feed, lambda: NOON))
        self.service = DiagnosisService(self.core.feed, audience, book, xds, past, clocks)
        self.longest_s = 0.0

    def why(self, service: str = "player", id_: str = "", caller: Caller = NOBODY, **more: Any) -> why_pb2.WhyResponse:
        request = why_pb2.WhyRequest(service=service, id=id_, **more)
        return why_pb2.WhyResponse.FromString(self.drive(self.service.why(request, caller)))

    def drive(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine that waits for nothing but its turn; notes how long its steps take."""
        while True:
            began = time.thread_time()
            try:
                assert work.send(None) is None
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            finally:
                self.longest_s = max(self.longest_s, time.thread_time() - began)

    def watch(self, caller: Caller = NOBODY, **question: Any) -> Sink:
        sink: Any = Sink()
        method: Any = self.table.methods[WATCH]
        sink.subscription = method.join(pb.WatchRequest(**question), caller, sink)
        self.core.timeline.settle()
        return sink  # type: ignore[no-any-return]

    @staticmethod
    def written(sink: Any) -> None:
        sink.is_writing = False
        sink.subscription.free()


def about(answer: why_pb2.WhyResponse, what: str) -> str:
    (reason,) = (it for it in answer.reasons if it.about == what)
    return reason.text


def at(client: why_pb2.ToldClient) -> float:
    return client.told_at.ToNanoseconds() / 1e9


def read(*grants: str) -> Caller:
    return NOBODY._replace(identity="ann", rights=Grants(map(Grant.parse, grants)))


async def test_an_instance_that_is_well() -> None:
    told = Told(record(key(), 3))
    answer = told.why(id_="one")
    assert (answer.gets_traffic, answer.verdict) == (True, "player/one gets traffic")
    assert [it.instance.id for it in answer.instances] == ["one"]
    assert [it.about for it in answer.reasons][-1] == "clients"
    assert answer.header.revision == 10


async def test_another_namespace_is_named() -> None:
    told = Told(record(key(namespace="prod"), 3))
    assert told.why(namespace="prod").verdict.startswith("prod/player gets traffic")
    assert told.why(namespace="prod", id_="one").verdict == "prod/player/one gets traffic"
    assert told.why(namespace="prod", id_="two").verdict.startswith("prod/player/two gets none because it was never")
    assert told.why("chat", namespace="prod").verdict.startswith("prod/chat gets none because it was never")


@pytest.mark.parametrize(
    ("cause", "how"),
    [
        (Cause.EXPIRED, "left because its lease ran out"),
        (Cause.UNHEALTHY, "was removed because its checks failed for too long"),
        (Cause.REPLACED, "was replaced by another instance at its address"),
    ],
)
async def test_what_is_gone_is_told_with_its_cause(cause: Cause, how: str) -> None:
    told = Told(record(key("one"), 3), record(key("two"), 4))
    told.core.timeline.advance(100)
    told.core.feed.emit(gone(11, key("one"), cause=cause))
    answer = told.why(id_="one")
    assert (answer.gets_traffic, answer.verdict) == (False, f"player/one gets none because it {how}, at revision 11")
    assert (answer.left.key.id, answer.left.cause) == ("one", pb.Departure.Cause.Value(cause.name))
    told.core.feed.emit(gone(12, key("two")))
    assert told.why().verdict == (
        "player gets none because no instance is registered: the last one, two, was deregistered, at revision 12"
    )


async def test_what_the_history_remembers_is_told_with_its_time() -> None:
    told = Told(record(key("one"), 3), events=100)
    told.core.timeline.advance(100)
    told.core.feed.emit(put(11, key("one"), status=pb.DOWN, changed_by="ops", changed_from="10.0.0.9"))
    set_ = "set by ops from 10.0.0.9 at 2027-01-15T08:00:00Z (0.0 s ago)"
    answer = told.why(id_="one")
    assert answer.verdict == f"player/one gets none because its status is DOWN, {set_}"
    assert about(answer, "weight") == "its weight is 100"
    told.core.feed.emit(gone(12, key("one"), cause=Cause.EXPIRED))
    answer = told.why(id_="one")
    how = "left because its lease ran out at 2027-01-15T08:00:00Z (nobody renewed it for 15 s)"
    assert answer.verdict == f"player/one gets none because it {how}, at revision 12"
    assert (answer.left.at.seconds, answer.left.cause) == (NOON, pb.Departure.EXPIRED)
    told.core.catalog.log_of("default", "player").clear()  # type: ignore[attr-defined]
    assert told.why().verdict.startswith("player gets none because no instance is registered: the last one, one, left")


async def test_what_never_was_is_said_to_be_so() -> None:
    told = Told(record(key("one"), 3), record(key("x", "chat", "prod"), 4), record(key("y", "players", "prod"), 5))
    never = "it was never registered, as far as this server remembers"
    for asked, id_, shown, similar in (
        ("plaeyr", "", f"plaeyr gets none because {never}; did you mean player?", ["player"]),
        ("chat", "", f"chat gets none because {never}; did you mean prod/chat?", ["prod/chat"]),
        ("player", "ones", f"player/ones gets none because {never}; did you mean one?", ["one"]),
        ("player", "zzz", f"player/zzz gets none because {never}", []),
    ):
        answer = told.why(asked, id_)
        assert (answer.verdict, list(answer.similar), answer.gets_traffic) == (shown, similar, False)
    assert "nor was any other playe," in told.why("playe", "one").verdict
    assert list(told.why("playe", "one").similar) == ["player"]


async def test_an_address_in_place_of_an_id_is_told_whose_it_is() -> None:
    told = Told(record(key("one"), 3, host="10.0.0.5", port=8001), record(key("two"), 4, host="10.0.0.5", port=80))
    assert told.why(id_="10.0.0.5:8001").verdict.endswith("; did you mean one?")
    assert list(told.why(id_="10.0.0.5:8002").similar) == []


async def test_names_that_the_caller_may_not_read_are_not_told() -> None:
    told = Told(record(key("one"), 3), record(key("x", "plager", "prod"), 4), record(key("z", "plaier"), 4))
    assert list(told.why("plager", caller=read("read default/plager", "read default/plaier")).similar) == ["plaier"]


async def test_what_was_forgotten_but_for_its_name() -> None:
    told = Told(record(key("one"), 3))
    told.core.timeline.advance(100)
    told.core.feed.emit(gone(11, key("one")))
    told.core.catalog.log_of("default", "player").clear()  # type: ignore[attr-defined]
    assert told.why(id_="one").verdict == "player/one gets none because it has left, and how is not known any more"
    assert "no instance is registered any more" in told.why().verdict


async def test_what_the_store_has_and_is_no_instance() -> None:
    told = Told(record(key("one"), 3, host="not a host"))
    assert "what the store has under its name is no instance: host: must be" in told.why(id_="one").verdict


async def test_a_removal_that_waits_is_told() -> None:
    told = Told(record(key("one"), 3))
    told.core.feed.emit(Away("as the test says"))
    told.core.timeline.advance(4)
    answer = told.why(id_="one")
    assert about(answer, "store").startswith("the store has confirmed nothing for 4.0 s")
    assert answer.header.HasField("stale_for")
    assert "confirmed nothing" in about(told.why(id_="two"), "store"), "it may be there by now"
    told.core.feed.emit(gone(11, key("one"), cause=Cause.EXPIRED))
    assert "it is shown until that is back, as" in about(told.why(id_="one"), "guard")
    told.core.feed.emit(Back())
    answer = told.why(id_="one")
    assert answer.gets_traffic
    assert "it is shown for 15.0 s more, as its owner may be there" in about(answer, "guard")
    assert about(answer, "lease") == "its lease ran out while the store was ill"


async def test_a_renewal_is_told() -> None:
    told = Told(record(key("one"), 3, lease="l1"))
    told.core.feed.guard.store_renewed("l1", told.core.timeline.now + 15)
    told.core.timeline.advance(4)
    (found,) = told.why(id_="one").instances
    assert (found.lease_left.seconds, found.renewed_at.seconds) == (11, NOON - 4)
    told.core.timeline.advance(60)
    (found,) = told.why(id_="one").instances
    assert not found.HasField("lease_left"), "its owner has gone to another server"
    assert not found.HasField("renewed_at")


async def test_who_watches_is_told_and_when() -> None:
    told = Told(record(key("one"), 3))
    nobody = told.why(id_="one")
    assert (nobody.client_count, about(nobody, "clients")) == (
        0,
        "no client of this server asks for the service just now",
    )
    sinks = [
        told.watch(Caller("ipv4:10.0.0.9:1", identity="game"), services=["player"]),
        told.watch(Caller("ipv4:10.0.0.9:2"), filter=pb.Filter(version="7")),
    ]
    told.watch(services=["chat"])
    told.watch(services=["chat"], all_namespaces=True)
    for sink in sinks:
        told.written(sink)
    answer = told.why(id_="one")
    assert {(it.peer, it.identity, it.current, it.leaves_out, it.trouble) for it in answer.clients} == {
        ("ipv4:10.0.0.9:1", "game", True, False, ""),
        ("ipv4:10.0.0.9:2", "", True, True, ""),
    }
    assert {(it.kind, it.connected_at.seconds, it.told_at.seconds) for it in answer.clients} == {
        (why_pb2.ToldClient.WATCH, int(NOON), int(NOON))
    }
    told.core.timeline.advance(2)
    told.core.feed.emit(put(11, key("one"), weight=7))
    told.core.timeline.settle()
    slow, other = told.why(id_="one").clients
    assert (slow.peer, slow.current, slow.trouble) == ("ipv4:10.0.0.9:1", False, "")
    assert other.current
    assert at(other) == pytest.approx(NOON - 2, abs=0.5), "what does not concern it is not told it"
    told.core.timeline.advance(5)
    slow, _ = told.why(id_="one").clients
    assert slow.trouble.startswith("does not read what it was sent 5.")
    assert about(told.why(), "clients").endswith("1 not of its present state, 1 in trouble")
    told.written(sinks[0])
    assert all(it.current and not it.trouble for it in told.why().clients)


async def test_a_bookmark_is_no_news() -> None:
    told = Told(record(key("one"), 3))
    told.written(told.watch(services=["player"]))
    told.core.timeline.advance(4)
    told.core.hub.bookmark()
    told.core.timeline.settle()
    (client,) = told.why().clients
    assert at(client) == pytest.approx(NOON - 4, abs=0.5)
    assert client.trouble == ""


async def test_who_may_only_read_is_told_how_many_clients_there_are() -> None:
    told = Told(record(key("one"), 3))
    told.watch(services=["player"])
    assert len(told.why(caller=read("operate default/player")).clients) == 1
    answer = told.why(caller=read("read default/player"))
    assert (len(answer.clients), answer.client_count) == (0, 1)


async def test_no_more_than_a_hundred_clients_are_shown_those_in_need_first() -> None:
    told = Told(record(key("one"), 3))
    for number in range(150):
        sink = told.watch(Caller(f"ipv4:10.0.0.9:{number}"), services=["player"])
        if number != 149:
            told.written(sink)
    answer = told.why()
    assert (len(answer.clients), answer.client_count) == (100, 150)
    assert answer.clients[0].peer == "ipv4:10.0.0.9:149"


async def test_pages_are_all_there_is() -> None:
    told = Told(*(record(key(f"i{number:02}"), 3) for number in range(25)))
    found, token = list[str](), ""
    while True:
        answer = told.why(page_size=10, page_token=token)
        assert (answer.instance_count, answer.serving_count) == (25, 25)
        found += [it.instance.id for it in answer.instances]
        if not (token := answer.next_page_token):
            break
    assert found == [f"i{number:02}" for number in range(25)]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (why_pb2.WhyRequest(), "service"),
        (why_pb2.WhyRequest(service="a b"), "service"),
        (why_pb2.WhyRequest(service="a", namespace="/"), "namespace"),
        (why_pb2.WhyRequest(service="a", id="/"), "id"),
        (why_pb2.WhyRequest(service="a", page_size=-1), "page_size"),
        (why_pb2.WhyRequest(service="a", page_token="a/b"), "page_token"),
        (why_pb2.WhyRequest(service="a", filter=pb.Filter(healths=[77])), "filter.healths"),  # type: ignore[list-item]
    ],
)
async def test_what_makes_no_sense_is_refused(request_: why_pb2.WhyRequest, field: str) -> None:
    told = Told()
    with pytest.raises(InvalidField) as wrong:
        told.drive(told.service.why(request_, NOBODY))
    assert wrong.value.field == field


async def test_ten_thousand_instances_hold_nobody_up() -> None:
    told = Told(
        *(record(key(f"i{number}"), 3, version=str(number % 7)) for number in range(10_000)),
        *(record(key("one", f"service-{number}"), 3) for number in range(2_000)),
    )
    told.why()  # the first snapshot after a change is made once, for all who read
    told.longest_s = 0.0
    answer = told.why(page_size=10_000)
    assert (len(answer.instances) > 9_000, answer.instance_count) == (True, 10_000)
    told.why(id_="i77")
    told.why(id_="i77777")
    assert told.why("serviec-1711").similar[0] == "service-1711"
    assert told.longest_s < here(STEP_S)
