"""What is said of one instance: the first thing that keeps traffic away is the verdict, and nothing is left out."""

from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from registry_api.registry.v1 import policies_pb2, why_pb2
from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.model import Entry, Query
from registry_server.records import Author, Cause, Key
from registry_server.why import reasons
from registry_server.why.past import LastLeft, Turned
from registry_server.why.reasons import Circumstances, Holding
from registry_server.why.sharing import Shares
from tests.support.core import NOON, key, record

FAILING = pb.CheckResult(
    name="http", health=pb.UNHEALTHY, output="HTTP status 503", failures=3, checked_at=Timestamp(seconds=int(NOON) - 90)
)


SINCE = "2027-01-15T07:58:30Z (1 min 30 s ago)"
RENEWED = Holding(12.0)


def entry(**fields: Any) -> Entry:
    return Entry.of(record(key(), 7, **fields))


def around(
    it: Entry,
    *,
    policy: policies_pb2.Policy | None = None,
    filter_: pb.Filter | None = None,
    holding: Holding = RENEWED,
    stale_for_s: float | None = None,
    flaw: str = "",
    unreachable: str = "",
) -> Circumstances:
    shares = Shares(policy, Query.of("default", ["player"], filter_))
    shares.look([it])
    return Circumstances(NOON, stale_for_s, shares, flaw, lambda _: holding, lambda _: unreachable)


def verdict(it: Entry, by: Circumstances) -> str:
    return reasons.verdict(reasons.of_instance(it.parse(), it, by))


def told(it: Entry, by: Circumstances) -> dict[str, tuple[str, str]]:
    """What is said about each thing, and what it means."""
    found = reasons.of_instance(it.parse(), it, by)
    return {reason.about: (why_pb2.Reason.Effect.Name(reason.effect), reason.text) for reason in found}


def test_one_that_is_well_gets_traffic() -> None:
    it = entry(registered_by="game", registered_at={"seconds": int(NOON) - 60})
    by = around(it)
    assert verdict(it, by) == "gets traffic"
    found = told(it, by)
    assert list(found) == ["registered", "lease", "status", "health", "weight", "guard", "policy"]
    assert {effect for effect, _ in found.values()} == {"PASSES"}
    assert "by game since 2027-01-15T07:59:00Z (1 min ago)" in found["registered"][1]
    assert found["lease"][1] == "it lives for 15 s, renewed 3.0 s ago, 12.0 s left"


@pytest.mark.parametrize(
    ("fields", "because"),
    [
        ({"status": pb.DRAINING}, "its status is DRAINING"),
        (
            {"status": pb.DRAINING, "leaves_at": {"seconds": int(NOON) + 30}},
            "its status is DRAINING: it is deregistered, and leaves in 30.0 s",
        ),
        ({"status": pb.DOWN, "weight": 0}, "its status is DOWN"),
        ({"health": pb.CRITICAL}, "its health is CRITICAL, as its owner or an operator says"),
        (
            {"health": pb.UNHEALTHY, "checks": [pb.HealthCheck(name="http")], "check_results": [FAILING]},
            f"its health is UNHEALTHY: its check http fails since {SINCE}, 3 times in a row: HTTP status 503",
        ),
        ({"weight": 0}, "its weight is 0"),
    ],
)
def test_what_keeps_traffic_away_is_the_verdict(fields: dict[str, Any], because: str) -> None:
    it = entry(**fields)
    assert verdict(it, around(it)) == f"gets none because {because}"


def test_what_a_check_says_begins_no_line() -> None:
    result = pb.CheckResult(name="http", health=pb.UNHEALTHY, output="oh\nno" * 1_000)
    it = entry(health=pb.UNHEALTHY, checks=[pb.HealthCheck(name="http")], check_results=[result])
    said = verdict(it, around(it))
    assert said.startswith("gets none because its health is UNHEALTHY: its check http fails: oh no")
    assert said.isprintable()
    assert len(said) < 1_100


@pytest.mark.parametrize(
    ("filter_", "because"),
    [
        (pb.Filter(tags=["eu", "vip"]), "it lacks the tag vip"),
        (pb.Filter(metadata={"map": "dust"}), "its metadata has not map=dust"),
        (pb.Filter(version="2.0"), "its version is 1.0, and not 2.0"),
        (pb.Filter(locality=pb.Locality(region="us")), "it is in eu/a"),
        (pb.Filter(statuses=[pb.DRAINING]), "its status is ACTIVE"),
        (pb.Filter(healths=[pb.HEALTHY]), "its health is UNKNOWN"),
    ],
)
def test_the_filter_says_why_it_leaves_it_out(filter_: pb.Filter, because: str) -> None:
    it = entry(tags=["eu"], version="1.0", locality=pb.Locality(region="eu", zone="a"))
    assert verdict(it, around(it, filter_=filter_)).endswith(f"leaves it out: {because}")


def test_the_filter_that_means_it_is_said_to() -> None:
    it = entry(tags=["eu"])
    assert told(it, around(it, filter_=pb.Filter(tags=["eu"])))["filter"] == ("PASSES", "the filter means it")


def split(*parts: policies_pb2.Part) -> policies_pb2.Policy:
    return policies_pb2.Policy(service="player", split=parts)


def test_the_part_of_a_split_is_told() -> None:
    it = entry(version="2.0")
    part = policies_pb2.Part(version="2.0", weight=10)
    effect, text = told(it, around(it, policy=split(part)))["policy"]
    assert (effect, text) == (
        "PASSES",
        "its part of the split, version=2.0, has 10 of 10 shares; not for rust clients, which know no split",
    )


def test_no_part_that_fits_is_no_traffic() -> None:
    it, other = entry(version="3.0"), Entry.of(record(key("two"), 8, version="1.0"))
    by = around(it, policy=split(policies_pb2.Part(version="1.0", weight=1)))
    by.shares.look([other])
    assert verdict(it, by).startswith("gets none because no part of the split fits it: its version")


def test_a_policy_of_one_instance_and_a_bad_one_are_warned_of() -> None:
    it = entry()
    alone = policies_pb2.Policy(balancing=policies_pb2.Policy.PICK_FIRST)
    assert told(it, around(it, policy=alone))["policy"][0] == "WARNS"
    assert told(it, around(it, flaw="its value is none"))["policy"] == (
        "WARNS",
        "its traffic policy is not followed: its value is none",
    )


@pytest.mark.parametrize(
    ("holding", "lease", "text"),
    [
        (Holding(3.0), "lease", "it lives for 15 s, renewed 12.0 s ago, 3.0 s left"),
        (
            Holding(-2.0),
            "lease",
            "it lives for 15 s, renewed 17.0 s ago by this server: since then on another one, or it is about to end",
        ),
        (Holding(shown_for_s=4.0), "lease", ""),
    ],
)
def test_a_lease_that_ends_is_warned_of(holding: Holding, lease: str, text: str) -> None:
    it = entry()
    found = told(it, around(it, holding=holding))
    assert found["lease"][0] == "WARNS"
    assert text in found["lease"][1]


def test_a_removal_that_waits_is_told() -> None:
    it = entry()
    found = told(it, around(it, holding=Holding(shown_for_s=4.0)))["guard"]
    assert found == ("WARNS", "the store has it no more; it is shown for 4.0 s more, as its owner may be there")
    by = around(it, holding=Holding(shown_for_s=float("inf")), stale_for_s=9.0)
    assert "until that is back" in told(it, by)["guard"][1]
    assert told(it, by)["store"][1].startswith("the store has confirmed nothing for 9.0 s")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"registered_at": {"seconds": int(NOON) - 2}}, "it lives for 15 s; no renewal came to this server yet"),
        ({"registered_at": {"seconds": int(NOON) - 200}}, "it lives for 15 s; its renewals do not come to this server"),
        ({"lease": ""}, "it has no lease: somebody wrote it into the store by hand"),
        ({"leaves_at": {"seconds": int(NOON)}}, "it is deregistered and leaves by itself: nothing is renewed"),
    ],
)
def test_a_lease_of_which_nothing_came_by_here(fields: dict[str, Any], text: str) -> None:
    it = entry(**fields)
    assert told(it, around(it, holding=Holding()))["lease"][1] == text


def test_a_host_without_an_address_is_told() -> None:
    it = entry()
    assert told(it, around(it, unreachable="its host x is a name without an address"))["xds"] == (
        "WARNS",
        "xDS clients are not told of it: its host x is a name without an address",
    )


def test_who_set_it_is_told() -> None:
    it = entry(status=pb.DOWN)
    turns = {"status": Turned(NOON - 5, Author("ops", "10.0.0.9")), "weight": None}
    found = reasons.of_instance(it.parse(), it, around(it), turns.get)
    said = "gets none because its status is DOWN, set by ops from 10.0.0.9 at 2027-01-15T07:59:55Z (5.0 s ago)"
    assert reasons.verdict(found) == said


NAME = Key("default", "player", "one")


@pytest.mark.parametrize(
    ("left", "text"),
    [
        (LastLeft(NAME, Cause.EXPIRED, 7), "left because its lease ran out"),
        (LastLeft(NAME, None, 7), "left, and why is not known"),
        (
            LastLeft(NAME, Cause.DEREGISTERED, 7, NOON, Author("ops", "10.0.0.9"), "as the test says", late=True),
            "was deregistered by ops from 10.0.0.9 at 2027-01-15T08:00:00Z or before (as the test says)",
        ),
    ],
)
def test_how_one_left(left: LastLeft, text: str) -> None:
    assert reasons.how_it_left(left) == text


def test_every_cause_has_its_words() -> None:
    assert all(reasons.how_it_left(LastLeft(NAME, cause, 1)) for cause in (None, *Cause))


def verdict_of(*entries: Entry) -> str:
    by = around(entries[0])
    by.shares.look(entries[1:])
    return reasons.service_verdict(by)


def test_a_service_is_told_in_a_line() -> None:
    one, two = entry(), Entry.of(record(key("two"), 8, status=pb.DRAINING))
    assert verdict_of(one) == "gets traffic: its one instance takes calls"
    assert verdict_of(one, one) == "gets traffic: all 2 instances take calls"
    assert verdict_of(one, two) == "gets traffic: 1 of 2 instances take calls; 1 draining"
    assert verdict_of(two) == "gets none because its one instance takes no calls: it is draining"
    assert verdict_of(two, two) == "gets none because none of its 2 instances takes calls: 2 draining"


@pytest.mark.parametrize(("count", "text"), [(1, "1 of 1 instance takes calls"), (2, "2 of 2 instances take calls")])
def test_what_is_registered_is_told_in_a_sentence(count: int, text: str) -> None:
    by = around(entry())
    by.shares.look([entry()] * (count - 1))
    assert next(it.text for it in reasons.of_service(by) if it.about == "registered") == text


def test_clients_are_counted() -> None:
    assert reasons.of_clients(0, 0, 0).effect == reasons.WARNS
    assert reasons.of_clients(3, 0, 0).text == "3 clients of this server are told of the service"
    assert reasons.of_clients(1, 1, 1).text.endswith("; 1 not of its present state, 1 in trouble")
