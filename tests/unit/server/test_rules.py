"""What a write changes, given what is there: take-over, generations, addresses, drains, updates."""

from typing import Any

import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.catalog import Catalog
from registry_server.errors import Contended, InvalidField, NotFound, OwnershipLost, PermissionDenied
from registry_server.model import Entry
from registry_server.records import Cause, Commit, Delete, Delta, Key, Lease, Put, Record
from registry_server.rpc.validate import changed_instance
from registry_server.rules import Leaving, Rules
from registry_server.writer import Claimant
from tests.support.core import NOON, gone, key, loaded, record

ONE, TWO = key("one"), key("two")
HOST: dict[str, Any] = {"host": "10.9.9.9", "port": 7}
NEW = Lease("new", 30.0)
FENCE = 1000


def rules(catalog: Catalog, lingering: frozenset[Key] = frozenset()) -> Rules:
    return Rules(catalog, lingering, lambda: NOON + 0.25)


def wanted(name: Key = ONE, **fields: Any) -> pb.Instance:
    filled = {**HOST, "weight": 100, **fields}
    return pb.Instance(namespace=name.namespace, service=name.service, id=name.id, **filled)


def stored(commit: Commit) -> pb.Instance:
    """The one instance that is put."""
    (put,) = commit.puts
    return pb.Instance.FromString(put.value)


def shown(commit: Commit, revision: int = 11) -> pb.Instance:
    """The one instance that is put, as it is seen when that is done at a revision."""
    (put,) = commit.puts
    return Entry.of(Record(put.key, put.value, put.lease_id, revision, revision), FENCE).parse()


# ---- register


def test_new_instance() -> None:
    plan = rules(loaded(fence=FENCE)).register(wanted(), NEW)
    (put,) = plan.commit.puts
    assert (put.key, put.lease_id, put.expect) == (ONE, "new", 0)
    assert plan.commit.deletes == ()
    assert plan.bereft == frozenset()
    it = stored(plan.commit)
    assert shown(plan.commit).generation == FENCE + 11
    assert it.ttl.seconds == 30
    assert (it.registered_at.seconds, it.registered_at.nanos) == (int(NOON), 250_000_000)


def test_take_over_has_a_higher_generation_and_bereaves_the_old_lease() -> None:
    catalog = loaded(record(ONE, 5, lease="old", generation=4, **HOST), fence=FENCE)
    plan = rules(catalog).register(wanted(), NEW)
    assert shown(plan.commit).generation == FENCE + 11
    assert plan.commit.puts[0].expect == 5
    assert plan.bereft == {"old"}


@pytest.mark.parametrize("claim", [0, 3, 4])
def test_who_gives_the_lease_that_holds_it_is_the_owner_and_keeps_generation_and_time(claim: int) -> None:
    catalog = loaded(record(ONE, 5, lease="new", generation=4, registered_at={"seconds": 77}, **HOST), fence=FENCE)
    plan = rules(catalog).register(wanted(generation=claim, registered_at={"seconds": 5}, weight=7), NEW)
    it = shown(plan.commit)
    assert (it.generation, it.registered_at.seconds, it.weight) == (4, 77, 7)
    assert plan.bereft == frozenset()


CHECKS = [pb.HealthCheck(name="web", http=pb.HealthCheck.Http()), pb.HealthCheck(name="port")]
FOUND = [pb.CheckResult(name="web", health=pb.UNHEALTHY), pb.CheckResult(name="port", health=pb.HEALTHY)]


def test_what_checks_found_is_not_overwritten_by_the_owner() -> None:
    checked = {"checks": CHECKS, "check_results": FOUND, "health": pb.UNHEALTHY, **HOST}
    catalog = loaded(record(ONE, 5, lease="new", **checked))
    it = stored(rules(catalog).register(wanted(checks=CHECKS[:1], health=pb.HEALTHY, weight=7), NEW).commit)
    assert (it.health, it.weight, list(it.checks), list(it.check_results)) == (
        pb.UNHEALTHY, 7, CHECKS[:1], FOUND[:1],
    )  # fmt: skip
    it = stored(rules(catalog).register(wanted(health=pb.HEALTHY), NEW).commit)
    assert (it.health, list(it.check_results)) == (pb.HEALTHY, []), "nobody checks any more"
    it = stored(rules(catalog).register(wanted(checks=CHECKS), Lease("other", 30.0)).commit)
    assert (it.health, list(it.check_results)) == (pb.UNKNOWN, []), "of another owner"


def test_lease_of_what_the_store_has_let_go_of_proves_nothing() -> None:
    catalog = loaded(record(ONE, 5, lease="new", generation=4, **HOST), fence=FENCE)
    plan = rules(catalog, frozenset({ONE})).register(wanted(generation=4), NEW)
    assert shown(plan.commit).generation == FENCE + 11


def test_claim_of_the_latest_owner_keeps_the_time_and_has_a_new_generation() -> None:
    """Anybody can say that number, so it is no proof: two who say it must not have the same."""
    catalog = loaded(record(ONE, 5, lease="old", generation=4, **HOST), fence=FENCE)
    mine = wanted(generation=4, registered_at={"seconds": 77, "nanos": 5})
    it = shown(rules(catalog).register(mine, NEW).commit)
    assert (it.generation, it.registered_at.seconds, it.registered_at.nanos) == (FENCE + 11, 77, 5)


def test_claim_that_says_no_time_gets_the_time_of_now() -> None:
    it = shown(rules(loaded(fence=FENCE)).register(wanted(generation=4), NEW).commit)
    assert (it.generation, it.registered_at.seconds) == (FENCE + 11, int(NOON))


def test_new_owner_says_no_time() -> None:
    it = stored(rules(loaded()).register(wanted(registered_at={"seconds": 77}), NEW).commit)
    assert it.registered_at.seconds == int(NOON)


def test_owner_that_lost_its_id_is_told() -> None:
    catalog = loaded(record(ONE, 5, generation=4))
    with pytest.raises(OwnershipLost, match=r"default/player/one: generation 3 was taken over by generation 4"):
        rules(catalog).register(wanted(generation=3), NEW)


def test_owner_that_lost_its_id_is_told_also_when_the_new_owner_is_gone() -> None:
    catalog = loaded(record(ONE, 5, generation=4), fence=FENCE)
    catalog.apply(gone(11, ONE))
    with pytest.raises(OwnershipLost):
        rules(catalog).register(wanted(generation=3), NEW)
    for claim in (0, 4):
        assert shown(rules(catalog).register(wanted(generation=claim), NEW).commit, 12).generation == FENCE + 12


def test_owner_whose_registration_was_not_answered_is_no_other_owner() -> None:
    """It took place, under a generation that the owner never heard of: its next try is not refused."""
    since = {"seconds": 77, "nanos": 123_456_789}
    catalog = loaded(record(ONE, 9, lease="lost", generation=8, registered_at=since, **HOST), fence=FENCE)
    again = wanted(generation=4, registered_at=since)
    assert shown(rules(catalog).register(again, NEW).commit).generation == FENCE + 11
    others = [
        wanted(generation=4),
        wanted(generation=4, registered_at={"seconds": 77, "nanos": 123_456_788}),
        wanted(generation=4, registered_at=since, port=8),
        wanted(generation=4, registered_at=since, host="10.9.9.8"),
    ]
    for other in others:
        with pytest.raises(OwnershipLost):
            rules(catalog).register(other, NEW)
    catalog.apply(gone(12, ONE))
    assert shown(rules(catalog).register(again, NEW).commit, 13).generation == FENCE + 13


def test_owner_comes_back_to_a_registry_without_memory() -> None:
    assert shown(rules(loaded(fence=FENCE)).register(wanted(generation=9), NEW).commit).generation == FENCE + 11


@pytest.mark.parametrize("is_gone", [False, True])
def test_who_was_deregistered_with_a_drain_comes_back_without_a_claim_alone(is_gone: bool) -> None:
    since = {"seconds": 77}
    leaving = record(ONE, 5, lease="drain", generation=4, leaves_at={"seconds": 99}, registered_at=since, **HOST)
    catalog = loaded(leaving, fence=FENCE)
    if is_gone:
        catalog.apply(gone(11, ONE, cause=Cause.EXPIRED))
    for claim in (3, 4):
        with pytest.raises(OwnershipLost, match="it was deregistered"):
            rules(catalog).register(wanted(generation=claim, registered_at=since), NEW)
    it = shown(rules(catalog).register(wanted(), NEW).commit)
    assert (it.generation, it.HasField("leaves_at")) == (FENCE + 11, False)


def test_nothing_the_caller_gives_is_changed() -> None:
    asked = wanted(generation=4)
    before = asked.SerializeToString(deterministic=True)
    rules(loaded(fence=FENCE)).register(asked, NEW)
    assert asked.SerializeToString(deterministic=True) == before


def test_what_is_in_the_place_but_no_instance_is_replaced() -> None:
    catalog = loaded(Record(ONE, b"hello", "", 7, 7), fence=FENCE)
    assert rules(catalog).register(wanted(), NEW).commit.puts[0].expect == 7


def test_register_on_its_own_lease_bereaves_nobody() -> None:
    catalog = loaded(record(ONE, 5, lease="new", **HOST))
    assert rules(catalog).register(wanted(), NEW).bereft == frozenset()


def test_address_is_taken_from_whoever_has_it() -> None:
    catalog = loaded(record(TWO, 5, lease="old", **HOST))
    plan = rules(catalog).register(wanted(ONE), NEW)
    assert plan.commit.deletes == (Delete(TWO, 5),)
    assert plan.commit.cause is Cause.REPLACED
    assert plan.bereft == {"old"}


def test_id_and_address_may_be_taken_from_two() -> None:
    catalog = loaded(record(ONE, 5, lease="a", host="10.1.1.1"), record(TWO, 6, lease="b", **HOST))
    plan = rules(catalog).register(wanted(ONE), NEW)
    assert (plan.commit.puts[0].expect, plan.commit.deletes) == (5, (Delete(TWO, 6),))
    assert plan.bereft == {"a", "b"}


# ---- whose it is


def claimant(identity: str, *, operates: bool = False) -> Claimant:
    return Claimant(identity, "ipv4:192.0.2.9:1", lambda namespace, service: operates)


def test_who_registers_is_written_down_and_nobody_says_so_himself() -> None:
    plan = rules(loaded()).register(wanted(registered_by="boss"), NEW, claimant("game"))
    assert stored(plan.commit).registered_by == "game"
    assert stored(rules(loaded()).register(wanted(registered_by="boss"), NEW).commit).registered_by == ""


GAMES = {"lease": "old", "registered_by": "game"}


@pytest.mark.parametrize("claim", [0, 3])
@pytest.mark.parametrize("there", [record(ONE, 5, **GAMES), record(TWO, 5, **GAMES, **HOST)], ids=["id", "address"])
def test_what_another_identity_registered_is_not_taken_over(there: Record, claim: int) -> None:
    """Neither its id nor its address; with a claim it is told that it is no owner (any more)."""
    with pytest.raises(OwnershipLost if claim else PermissionDenied, match="registered by 'game'") as refused:
        rules(loaded(there)).register(wanted(ONE, generation=claim), NEW, claimant("stranger"))
    assert str(there.key) in str(refused.value)


@pytest.mark.parametrize(
    ("by", "lease"),
    [
        (claimant("game"), NEW),
        (claimant("stranger", operates=True), NEW),
        (claimant("stranger"), Lease("old", 15.0)),
        (claimant("", operates=True), NEW),
    ],
    ids=["same identity", "may operate", "its lease", "no identities"],
)
def test_who_may_take_over(by: Claimant, lease: Lease) -> None:
    catalog = loaded(
        record(ONE, 5, lease="old", registered_by="game"), record(TWO, 6, lease="old", registered_by="game", **HOST)
    )
    plan = rules(catalog).register(wanted(ONE), lease, by)
    assert stored(plan.commit).registered_by == by.identity
    assert [it.key for it in plan.losers] == ([] if lease.id == "old" else [ONE, TWO])


def test_who_wants_it_only_where_nobody_has_it_takes_nothing_over() -> None:
    catalog = loaded(record(ONE, 5, lease="a", host="10.1.1.1"), record(TWO, 6, lease="b", **HOST))
    modest = Claimant(if_absent=True)
    for taken, by in ((wanted(ONE, port=9), "default/player/one"), (wanted(key("three")), "default/player/two")):
        with pytest.raises(OwnershipLost, match=f"{by} is at .*, and nothing was to be taken over"):
            rules(catalog).register(taken, NEW, modest)
    assert rules(catalog).register(wanted(ONE), Lease("a", 15.0), modest._replace(if_absent=False)).losers
    assert not rules(catalog).register(wanted(ONE, host="10.1.1.1"), Lease("a", 15.0), modest).losers
    assert not rules(catalog).register(wanted(key("three"), port=9), NEW, modest).losers
    mine = wanted(ONE, host="10.1.1.1", generation=catalog.get(ONE).owner.generation)  # type: ignore[union-attr]
    assert rules(catalog, frozenset({ONE})).register(mine, NEW, modest).losers  # of the lease that it had before


def test_what_nobody_registered_belongs_to_nobody() -> None:
    assert rules(loaded(record(ONE, 5, lease="old"))).register(wanted(ONE), NEW, claimant("game")).losers


def test_what_only_waits_to_be_removed_is_still_its_owners() -> None:
    """The store let go of it while it was ill: its owner may live."""
    catalog = loaded(record(ONE, 5, lease="old", registered_by="game"))
    with pytest.raises(PermissionDenied):
        rules(catalog, frozenset({ONE})).register(wanted(ONE), NEW, claimant("stranger"))


def test_whose_it_is_stays_whoever_writes_it_anew() -> None:
    catalog = loaded(record(ONE, 5, lease="old", registered_by="game", **HOST))
    assert stored(rules(catalog).update(wanted(weight=3), ["weight"]).commit).registered_by == "game"
    assert stored(rules(catalog).drain(Leaving((ONE,)), NEW, NOON).commit).registered_by == "game"


# ---- who was thrown out, and may be back


EARLY, LATE = {"registered_at": {"seconds": 70}}, {"registered_at": {"seconds": 80}}


def rival_of(catalog: Catalog, **claim: Any) -> list[tuple[str, int, bool]]:
    return [(it.key.id, it.generation, it.may_stay) for it in rules(catalog).rivals(wanted(generation=3, **claim))]


def test_who_had_an_id_before_may_be_back_over_who_has_it() -> None:
    """Whether he is, is found out by looking: at him, and at the other one."""
    catalog = loaded(record(ONE, 5, lease="new", generation=4, **LATE))
    assert rival_of(catalog, **EARLY) == [("one", 4, True)]
    assert rival_of(catalog, registered_at={"seconds": 81}) == []  # he came later
    assert rival_of(catalog) == []  # he does not say
    rivals = rules(catalog).rivals(wanted(generation=3, **EARLY))
    it = stored(rules(catalog).register(wanted(generation=3, **EARLY), Lease("mine", 30.0), over=rivals).commit)
    assert it.registered_at.seconds == 70  # so that whoever came later does not come back over him
    someone_else = [rivals[0]._replace(generation=9)]
    with pytest.raises(OwnershipLost):
        rules(catalog).register(wanted(generation=3, **EARLY), Lease("mine", 30.0), over=someone_else)


def test_whose_address_is_none_of_his_own_may_not_stay() -> None:
    catalog = loaded(record(TWO, 5, lease="b", generation=5, **EARLY, **HOST))
    catalog.apply(Delta(11, (record(ONE, 11, lease="c", generation=11, **LATE, **HOST),)))
    assert catalog.get(TWO) is None
    assert rival_of(catalog, host="10.1.1.1", **EARLY) == [("one", 11, False)]
    catalog.apply(Delta(12, (record(ONE, 12, lease="c", generation=12, **LATE, **HOST),)))
    assert rival_of(catalog, host="10.1.1.1", **EARLY) == [("one", 12, True)]


def test_who_left_holds_nobody_up_and_who_was_deregistered_stays_away() -> None:
    catalog = loaded(record(ONE, 5, lease="c", generation=5, **LATE))
    catalog.apply(gone(11, ONE, cause=Cause.REPLACED))
    assert rival_of(catalog, **EARLY) == [("one", 5, False)]
    leaving = loaded(record(ONE, 5, lease="c", generation=5, leaves_at={"seconds": 90}, **LATE))
    assert rival_of(leaving, **EARLY) == []


def test_an_address_goes_back_to_who_had_it_first_and_who_came_later_waits() -> None:
    catalog = loaded(record(TWO, 5, lease="c", generation=5, registered_at={"seconds": 75}, **HOST))
    first = wanted(generation=3, **EARLY)
    assert rival_of(catalog, **EARLY) == [("two", 5, False)]
    with pytest.raises(OwnershipLost, match="registered as default/player/two since"):
        rules(catalog).register(first, NEW)
    plan = rules(catalog).register(first, NEW, over=rules(catalog).rivals(first))
    assert plan.commit.deletes == (Delete(TWO, 5),)
    assert rival_of(catalog, **LATE) == []
    with pytest.raises(Contended, match=r"registered as default/player/two before; try again when that has left"):
        rules(catalog).register(wanted(generation=3, **LATE), NEW)
    assert rules(catalog).register(wanted(), NEW).losers  # who claims nothing is new, and takes over


def test_nobody_says_that_he_was_there_before_whom_he_takes_the_id_from() -> None:
    """The generation is no secret: who claims by that of somebody who lives is a new owner, and from now on."""
    catalog = loaded(record(ONE, 5, lease="old", generation=4, **LATE))
    it = stored(rules(catalog).register(wanted(generation=4, **EARLY), NEW).commit)
    assert it.registered_at.seconds == int(NOON)
    assert stored(rules(catalog).register(wanted(generation=4, **LATE), NEW).commit).registered_at.seconds == 80


def test_address_in_another_service_is_left_alone() -> None:
    catalog = loaded(record(key("two", "other"), 5, **HOST))
    assert rules(catalog).register(wanted(), NEW).commit.deletes == ()


def test_register_of_what_the_store_has_let_go_of() -> None:
    """The view still shows it, its removal waits: for the store it is new."""
    catalog = loaded(record(ONE, 5, generation=4, **HOST), fence=FENCE)
    plan = rules(catalog, frozenset({ONE})).register(wanted(generation=4), NEW)
    assert plan.commit.puts[0].expect == 0
    assert shown(plan.commit).generation == FENCE + 11


def test_address_of_what_the_store_has_let_go_of() -> None:
    catalog = loaded(record(TWO, 5, **HOST))
    assert rules(catalog, frozenset({TWO})).register(wanted(ONE), NEW).commit.deletes == ()


# ---- deregister and drain


def test_deregister() -> None:
    catalog = loaded(record(ONE, 5, lease="a"), record(TWO, 6, lease="b"))
    plan = rules(catalog).deregister(Leaving([ONE, TWO, key("unknown")]))
    assert plan.commit == Commit((), (Delete(ONE, 5), Delete(TWO, 6)), Cause.DEREGISTERED)
    assert plan.bereft == {"a", "b"}


def test_drain_moves_to_a_lease_that_nobody_renews() -> None:
    catalog = loaded(record(ONE, 5, lease="a", generation=3, created=2, tags=["x"]))
    plan = rules(catalog).drain(Leaving([ONE]), Lease("drain", 7.5), NOON + 8.25)
    (put,) = plan.commit.puts
    assert (put.lease_id, put.expect) == ("drain", 5)
    assert plan.bereft == {"a"}
    it = stored(plan.commit)
    assert (it.status, it.generation, list(it.tags), it.ttl.ToMilliseconds()) == (pb.DRAINING, 3, ["x"], 7500)
    assert (it.revision, it.create_revision) == (0, 0)
    assert it.leaves_at.ToMilliseconds() == round(NOON * 1000) + 8250


def test_an_update_does_not_keep_back_who_leaves() -> None:
    catalog = loaded(record(ONE, 5, lease="drain", leaves_at={"seconds": 77}))
    (put,) = rules(catalog).update(wanted(weight=5), ["weight"]).commit.puts
    assert (put.lease_id, pb.Instance.FromString(put.value).leaves_at.seconds) == ("drain", 77)


def test_a_new_owner_does_not_leave_with_the_one_before() -> None:
    catalog = loaded(record(ONE, 5, lease="drain", leaves_at={"seconds": 77}))
    assert not stored(rules(catalog).register(wanted(), NEW).commit).HasField("leaves_at")


def test_leaving_names_what_it_leaves() -> None:
    """Whoever took the id over meanwhile stays, whether the other removes itself or lets itself drain."""
    catalog = loaded(record(ONE, 5, lease="a", generation=4))
    late, right = Leaving([ONE], generation=3), Leaving([ONE], generation=4)
    for leave in (lambda: rules(catalog).deregister(late), lambda: rules(catalog).drain(late, NEW, NOON)):
        with pytest.raises(OwnershipLost, match="default/player/one: it has generation 4, not 3"):
            leave()
    assert rules(catalog).deregister(right).commit.deletes == (Delete(ONE, 5),)
    assert [put.key for put in rules(catalog).drain(right, NEW, NOON).commit.puts] == [ONE]


def test_leaving_with_a_lease_spares_what_it_holds_no_more() -> None:
    """Somebody took one of them over after it was asked what the lease holds."""
    catalog = loaded(record(ONE, 5, lease="a"), record(TWO, 6, lease="b"))
    who = Leaving([ONE, TWO], lease_id="a")
    plan = rules(catalog).deregister(who)
    assert (plan.commit.deletes, plan.bereft, plan.leaving) == ((Delete(ONE, 5),), {"a"}, (ONE,))
    plan = rules(catalog).drain(who, NEW, NOON)
    assert ([put.key for put in plan.commit.puts], plan.leaving) == ([ONE], (ONE,))


def test_the_view_itself_is_never_changed() -> None:
    catalog = loaded(record(ONE, 5, lease="a"))
    entry = catalog.get(ONE)
    assert entry is not None
    before = entry.parse().SerializeToString(deterministic=True)
    rules(catalog).drain(Leaving([ONE]), NEW, NOON)
    rules(catalog).update(wanted(weight=5), ["weight"])
    assert entry.parse().SerializeToString(deterministic=True) == before


# ---- update

FULL: dict[str, Any] = {
    "status": pb.DOWN,
    "weight": 7,
    "metadata": {"a": "b"},
    "tags": ["x", "y"],
    "version": "9",
    "health": pb.CRITICAL,
}


def value(it: pb.Instance, path: str) -> Any:
    found = getattr(it, path)
    return {"tags": list, "metadata": dict}.get(path, lambda it: it)(found)


@pytest.mark.parametrize("path", FULL)
def test_update_changes_what_is_named_alone(path: str) -> None:
    catalog = loaded(record(ONE, 5, lease="a", generation=3, version="1", locality={"zone": "z"}))
    before = catalog.get(ONE)
    assert before is not None
    plan = rules(catalog).update(wanted(**FULL), [path])
    (put,) = plan.commit.puts
    assert (put.lease_id, put.expect, plan.commit.deletes, plan.bereft) == ("a", 5, (), frozenset())
    expected = pb.Instance.FromString(record(ONE, 5, generation=3, version="1", locality={"zone": "z"}).value)
    it = stored(plan.commit)
    assert value(it, path) == FULL[path]
    for other in FULL:
        if other != path:
            assert value(it, other) == value(expected, other)
    assert (it.host, it.port, it.generation, it.locality.zone) == (expected.host, expected.port, 3, "z")


@pytest.mark.parametrize(
    ("path", "default"),
    [("status", pb.ACTIVE), ("weight", 100), ("metadata", {}), ("tags", []), ("version", "1.0.0"), ("health", 0)],
)
def test_named_field_that_is_not_set_gets_its_default(path: str, default: Any) -> None:
    catalog = loaded(record(ONE, 5, **FULL))
    request = pb.Instance(service="player", id="one")
    asked, paths = changed_instance(request, [path])
    assert value(stored(rules(catalog).update(asked, paths).commit), path) == default


def test_update_of_several() -> None:
    catalog = loaded(record(ONE, 5))
    it = stored(rules(catalog).update(wanted(**FULL), list(FULL)).commit)
    assert {path: value(it, path) for path in FULL} == FULL


def test_update_of_nobody() -> None:
    with pytest.raises(NotFound, match=r"no such instance: default/player/one"):
        rules(loaded()).update(wanted(), ["tags"])


def test_update_of_what_the_store_has_let_go_of() -> None:
    with pytest.raises(NotFound):
        rules(loaded(record(ONE, 5)), frozenset({ONE})).update(wanted(), ["tags"])


def test_update_cannot_grow_past_the_limit_in_two_steps() -> None:
    catalog = loaded(record(ONE, 5, tags=["t" * 10_000]))
    with pytest.raises(InvalidField, match=r"^instance.metadata: .* 16384 bytes, are 20001"):
        rules(catalog).update(wanted(metadata={"k": "v" * 10_000}), ["metadata"])
    both = wanted(tags=["x"], metadata={"k": "v" * 10_000})
    assert rules(catalog).update(both, ["tags", "metadata"]).commit.puts[0] == Put(
        ONE, stored(rules(catalog).update(both, ["tags", "metadata"]).commit).SerializeToString(), "lease", 5
    )
