"""The cores of the server's health checks: its door, what is known of a check, whose it is, when it doubts itself."""

import random
from collections import Counter
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import strategies as st

from registry_api.registry.v1 import registry_pb2 as pb
from registry_checks.ladder import Rung
from registry_server.catalog import Catalog, Count
from registry_server.errors import InvalidField
from registry_server.health import findings
from registry_server.health.book import Book
from registry_server.health.door import NO_CHECKS, Door
from registry_server.health.doubt import Cutoff, Evidence, is_cut_off
from registry_server.health.examined import Examined
from registry_server.health.sharing import prober_of
from registry_server.records import Cause, Deleted, Delta, Key, Record, Snapshot

KEY = Key("default", "player", "one")


def instance(**fields: Any) -> pb.Instance:
    wanted = {"namespace": "default", "service": "player", "id": "one", "host": "10.0.0.1", "port": 8001, **fields}
    return ParseDict(wanted, pb.Instance())


def settled(**fields: Any) -> pb.Instance:
    it = instance(**fields)
    Door(runs=True).check(it)
    return it


# ---- the door


def test_checks_that_nobody_would_carry_out_are_refused() -> None:
    with pytest.raises(InvalidField) as error:
        NO_CHECKS.check(instance(checks=[{"tcp": {}}]))
    assert error.value.field == "instance.checks"


def test_the_field_of_a_wrong_check_is_named() -> None:
    with pytest.raises(InvalidField) as error:
        Door(runs=True).check(instance(checks=[{"tcp": {}}, {"http": {"path": "x"}}]))
    assert error.value.field == "instance.checks[1].http.path"


def test_who_may_not_be_looked_at_is_refused_and_gets_no_rule() -> None:
    tcp = pb.HealthCheck(name="tcp", tcp=pb.HealthCheck.Tcp())
    door = Door(runs=True, refuses=lambda host: "not here" if host == "127.0.0.1" else "", book=Book({"*": [tcp]}))
    with pytest.raises(InvalidField, match=r"instance\.checks: not here"):
        door.check(instance(host="127.0.0.1", checks=[{"tcp": {}}]))
    door.check(reporting := instance(host="127.0.0.1", checks=[{"ttl": {}}]))
    door.check(here := instance(host="127.0.0.1"))
    door.check(there := instance())
    assert [len(it.checks) for it in (reporting, here, there)] == [1, 0, 1]


def test_the_nearest_rule_holds() -> None:
    names = ("*", "player", "default/player")
    rules = {name: [pb.HealthCheck(name=name, tcp=pb.HealthCheck.Tcp())] for name in names}
    for number, name in enumerate(reversed(names)):
        known = dict(list(rules.items())[: len(names) - number])
        Door(runs=True, book=Book(known)).check(it := instance())
        assert [check.name for check in it.checks] == [name]


# ---- what was found


def test_health_is_the_worst_of_all_checks() -> None:
    it = settled(checks=[{"name": "a", "tcp": {}}, {"name": "b", "tcp": {}}], health="UNHEALTHY")
    findings.take_in(it, [findings.result("a", Rung.HEALTHY, "fine", 5.0)])
    assert it.health == pb.UNHEALTHY, "b has not looked, and its owner said so"
    findings.take_in(it, [findings.result("b", Rung.HEALTHY, "fine", 5.0)])
    assert it.health == pb.HEALTHY
    findings.take_in(
        it, [findings.result("b", Rung.CRITICAL, "no", 6.0, 4), findings.result("x", Rung.CRITICAL, "", 6.0)]
    )
    assert (it.health, [(r.name, r.failures) for r in it.check_results]) == (pb.CRITICAL, [("a", 0), ("b", 4)])


def test_a_report_is_for_ttl_checks_alone() -> None:
    it = settled(checks=[{"tcp": {}}, {"ttl": {}}])
    assert findings.report(it, pb.UNHEALTHY, 5.0)
    assert (it.health, [r.name for r in it.check_results]) == (pb.UNHEALTHY, ["ttl"])
    assert not findings.report(settled(checks=[{"tcp": {}}]), pb.UNHEALTHY, 5.0)


def test_who_takes_over_goes_on_where_the_other_was() -> None:
    it = settled(checks=[{"tcp": {}, "failures": 3}])
    findings.take_in(it, [findings.result("tcp", Rung.UNHEALTHY, "no", 5.0, 3)])
    examined = Examined(KEY, it)
    [check] = examined.checks
    examined.resume(check, 100.0)
    assert (check.standing.rung, check.standing.since) == (Rung.UNHEALTHY, 100.0)
    for now in (101.0, 102.0):
        check.found(True, "fine", now)
    assert check.move(102.0, 7.0)
    [result] = examined.take_results()
    assert (result.name, result.health, result.output, result.failures) == ("tcp", pb.HEALTHY, "fine", 0)


def test_what_the_owner_reports_counts_at_once() -> None:
    it = settled(checks=[{"ttl": {}}])
    examined = Examined(KEY, it)
    [check] = examined.checks
    examined.resume(check, 1.0)
    findings.report(it, pb.HEALTHY, 5.0)
    examined.seen(it, 2.0)
    assert (check.standing.rung, check.heard_at) == (Rung.HEALTHY, 2.0)
    examined.seen(it, 3.0)
    assert check.heard_at == 2.0, "the same report, seen again"
    for now in (4.0, 5.0, 6.0):
        check.found(False, "silent", now)
    assert check.move(6.0, 9.0)
    findings.take_in(it, examined.take_results())
    examined.seen(it, 7.0)
    assert (check.standing.rung, it.health) == (Rung.UNHEALTHY, pb.UNHEALTHY), "what it found itself is no report"


def test_another_registration_is_looked_at_anew() -> None:
    it = settled(checks=[{"tcp": {}}], generation=5)
    examined = Examined(KEY, it)
    assert examined.is_still(settled(checks=[{"tcp": {}}], generation=5, weight=7, health="HEALTHY"))
    assert not examined.is_still(settled(checks=[{"tcp": {}}], generation=6))
    assert not examined.is_still(settled(checks=[{"tcp": {}}], generation=5, port=8002))
    assert not examined.is_still(settled(checks=[{"tcp": {"port": 1}}], generation=5))


# ---- whose it is


@given(st.lists(st.text(min_size=1), min_size=2, max_size=6, unique=True), st.randoms(use_true_random=False))
def test_all_agree_and_one_that_goes_moves_its_own_alone(replicas: list[str], rng: random.Random) -> None:
    keys = [Key("default", "player", str(number)) for number in range(40)]
    before = [prober_of(key, replicas) for key in keys]
    shuffled = rng.sample(replicas, len(replicas))
    assert [prober_of(key, shuffled) for key in keys] == before
    gone = replicas[0]
    after = [prober_of(key, replicas[1:]) for key in keys]
    assert all(old in (new, gone) and new != gone for old, new in zip(before, after, strict=True))
    assert prober_of(keys[0], ()) == ""


def test_the_work_is_shared() -> None:
    shares = Counter(prober_of(Key("default", "player", str(number)), "abc") for number in range(3000))
    assert all(800 < share < 1200 for share in shares.values())


# ---- in doubt


def failing(was_well: bool = True, since: float = 10.0) -> Evidence:
    return Evidence(False, since + 1, was_well, since)


def passing(at: float) -> Evidence:
    return Evidence(True, at, True, at)


@pytest.mark.parametrize(
    ("seen", "lost"),
    [
        ([failing()] * 5 + [passing(9.0)] * 50, True),  # those passed before the trouble began
        ([failing()] * 5 + [passing(11.0)] * 5, False),
        ([failing()] * 5 + [passing(11.0)] * 4, True),
        ([failing()] * 4, False),  # too few to tell
        ([failing(was_well=False)] * 50, False),  # nothing new
        ([failing()] * 5 + [failing(was_well=False)] * 50, True),
        ([], False),
    ],
)
def test_cut_off(seen: list[Evidence], lost: bool) -> None:
    assert is_cut_off(seen, Cutoff(share=0.5, least=5), since=10.0) is lost


# ---- the numbers of a service

WRITES = st.lists(
    st.tuples(
        st.sampled_from("abcd"),
        st.sampled_from([None, *pb.Health.values()]),
        st.sampled_from(pb.Status.values()),
        st.integers(1, 5),
    ),
    max_size=40,
)


@given(WRITES)
def test_numbers_add_up_whatever_changes(writes: list[tuple[str, int | None, int, int]]) -> None:
    """Written, written over, taken over by address, deleted: as if everybody were counted anew."""
    catalog = Catalog()
    catalog.load(Snapshot("epoch", 1, ()))
    for revision, (name, health, status, port) in enumerate(writes, 2):
        key = Key("default", "player", name)
        if health is None:
            catalog.apply(Delta(revision, deletes=(Deleted(key, Cause.DEREGISTERED),)))
        else:
            value = pb.Instance(host="10.0.0.1", port=port, health=health, status=status)  # type: ignore[arg-type]
            catalog.apply(Delta(revision, (Record(key, value.SerializeToString(), "lease", revision, revision),)))
        there = catalog.of_service("default", "player")
        healths = Counter(entry.traits.health for entry in there)
        assert catalog.summary("default", "player") == Count(
            instances=len(there),
            routable=sum(entry.routable for entry in there),
            healthy=healths[pb.HEALTHY],
            unhealthy=healths[pb.UNHEALTHY],
            critical=healths[pb.CRITICAL],
            draining=sum(entry.traits.status == pb.DRAINING for entry in there),
        )
