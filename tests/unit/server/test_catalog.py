"""The view: what it holds after any event of the store, how far back it remembers, and what a change costs."""

from typing import Any

import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server import catalog as catalogs
from registry_server import drafts
from registry_server.catalog import Catalog, ghosts
from registry_server.changes import Change
from registry_server.model import Entry, Owner, Query
from registry_server.records import Cause, Delete, Deleted, Delta, Key, Kind, Record, Snapshot
from tests.support.core import gone, key, loaded, put, record, setting, setting_record

ONE, TWO, THREE = key("one"), key("two"), key("three")
PLAYER = Query("default", frozenset({"player"}))
HOST: dict[str, Any] = {"host": "10.9.9.9", "port": 7}


def ids(catalog: Catalog, service: str = "player") -> list[str]:
    return [entry.key.id for entry in catalog.of_service("default", service)]


def story(changes: list[Change]) -> list[tuple[str, bool, bool, Cause | None]]:
    return [(it.key.id, it.before is not None, it.after is not None, it.cause) for it in changes]


# ---- reading


def test_instances_come_in_the_order_of_service_and_id() -> None:
    catalog = loaded(*(record(key(id_, service), 5) for service in ("z", "a") for id_ in ("b", "c", "a")))
    found = [(entry.key.service, entry.key.id) for entry in catalog.select(Query("default"))]
    assert found == [("a", "a"), ("a", "b"), ("a", "c"), ("z", "a"), ("z", "b"), ("z", "c")]


def test_namespaces_are_apart() -> None:
    catalog = loaded(record(ONE, 5), record(key("one", namespace="other"), 5, **HOST))
    assert catalog.namespaces() == ("default", "other")
    assert [entry.key.namespace for entry in catalog.select(Query("other"))] == ["other"]
    assert catalog.services("third") == ()


def test_revisions_stand_in_the_instance() -> None:
    catalog = loaded(record(ONE, 5, created=3))
    entry = catalog.get(ONE)
    assert entry is not None
    shown = pb.Instance.FromString(entry.encoded)
    assert (shown.revision, shown.create_revision) == (5, 3)


def test_snapshot_of_a_service_is_made_once_per_change() -> None:
    catalog = loaded(record(ONE, 5))
    first = catalog.of_service("default", "player")
    assert catalog.of_service("default", "player") is first
    blocks = catalog.blocks(PLAYER)
    assert catalog.blocks(PLAYER) is blocks
    catalog.apply(put(11, TWO))
    assert ids(catalog) == ["one", "two"]
    assert [entry.key.id for entry in first] == ["one"]


def test_counts() -> None:
    catalog = loaded(record(ONE, 5), record(TWO, 5, status=pb.DRAINING), record(THREE, 5, weight=0))
    assert catalog.count("default", "player") == (3, 1)
    catalog.apply(put(11, TWO))
    assert catalog.count("default", "player") == (3, 2)
    catalog.apply(gone(12, ONE, TWO, THREE))
    assert catalog.count("default", "player") == (0, 0)
    assert catalog.services("default") == ()
    assert catalog.count("default", "unknown") == (0, 0)


@pytest.mark.parametrize(
    ("fields", "is_routable"),
    [
        ({}, True),
        ({"health": pb.HEALTHY}, True),
        ({"health": pb.UNHEALTHY}, False),
        ({"health": pb.CRITICAL}, False),
        ({"status": pb.DRAINING}, False),
        ({"status": pb.DOWN}, False),
        ({"weight": 0}, False),
        ({"weight": 1}, True),
    ],
)
def test_routable(fields: dict[str, Any], is_routable: bool) -> None:
    assert Entry.of(record(ONE, 5, **fields)).routable is is_routable


# ---- leases


def test_what_a_lease_holds_follows_the_records() -> None:
    catalog = loaded(record(ONE, 5, lease="a"), record(TWO, 6, lease="a"))
    assert catalog.of_lease("a") == (ONE, TWO)
    catalog.apply(put(11, ONE, lease="b"))
    assert (catalog.of_lease("a"), catalog.of_lease("b")) == ((TWO,), (ONE,))
    catalog.apply(gone(12, TWO))
    assert catalog.of_lease("a") == ()


# ---- an address belongs to one instance


def test_address_taken_by_a_new_id_leaves_no_ghost() -> None:
    catalog = loaded(record(ONE, 5, **HOST))
    changes = catalog.apply(put(11, TWO, **HOST))
    assert story(changes) == [("one", True, False, Cause.REPLACED), ("two", False, True, None)]
    assert ids(catalog) == ["two"]
    holder = catalog.at_address("default", "player", (HOST["host"], HOST["port"]))
    assert holder is not None
    assert holder.key == TWO


def test_the_ghost_is_to_be_deleted_from_the_store() -> None:
    catalog = loaded(record(ONE, 5, **HOST))
    assert ghosts(catalog.apply(put(11, TWO, **HOST))) == (Delete(ONE, 5),)


def test_same_address_in_another_service_is_another_address() -> None:
    catalog = loaded(record(ONE, 5, **HOST))
    catalog.apply(put(11, key("two", "other"), **HOST))
    catalog.apply(put(12, key("two", namespace="other"), **HOST))
    assert ids(catalog) == ["one"]


def test_address_given_up_is_free() -> None:
    catalog = loaded(record(ONE, 5, **HOST))
    catalog.apply(put(11, ONE, host="10.9.9.8", port=7))
    assert catalog.at_address("default", "player", ("10.9.9.9", 7)) is None
    assert story(catalog.apply(put(12, TWO, **HOST))) == [("two", False, True, None)]


def test_instances_that_swap_addresses_both_stay() -> None:
    there: dict[str, Any] = {"host": "10.9.9.8", "port": 7}
    catalog = loaded(record(ONE, 5, **HOST), record(TWO, 6, **there))
    changes = catalog.apply(Delta(11, (record(ONE, 11, **there), record(TWO, 11, **HOST))))
    assert ids(catalog) == ["one", "two"]
    assert ghosts(changes) == ()


def test_of_two_records_with_one_address_the_later_stays() -> None:
    catalog = Catalog()
    changes = catalog.load(Snapshot("e1", 10, (record(TWO, 8, **HOST), record(ONE, 5, **HOST))))
    assert ids(catalog) == ["two"]
    assert ghosts(changes) == (Delete(ONE, 5),)


def test_full_set_that_still_has_the_ghost_does_not_bury_the_living() -> None:
    """Two replicas gave one address away, and the ghost's record could not be deleted yet when the set is told anew."""
    records = (record(ONE, 5, **HOST), record(TWO, 8, **HOST))
    catalog = loaded(*records)
    assert ids(catalog) == ["two"]
    changes = catalog.load(Snapshot("e1", 10, records))
    assert ids(catalog) == ["two"]
    assert ghosts(changes) == (Delete(ONE, 5),)


# ---- loading


def test_load_with_the_same_epoch_changes_what_differs_alone() -> None:
    catalog = loaded(record(ONE, 5), record(TWO, 6))
    changes = catalog.load(Snapshot("e1", 20, (record(ONE, 5), record(THREE, 15))))
    assert story(changes) == [("two", True, False, None), ("three", False, True, None)]
    assert {change.revision for change in changes} == {20}


def test_load_with_the_same_epoch_keeps_the_log() -> None:
    catalog = loaded(record(ONE, 5))
    seq = catalog.seq
    catalog.load(Snapshot("e1", 20, (record(ONE, 5), record(TWO, 15))))
    changes = catalog.changes(PLAYER, seq)
    assert changes is not None
    assert [change.key for change in changes] == [TWO]
    assert catalog.seq_at(PLAYER, 10) == seq


@pytest.mark.parametrize(("epoch", "revision"), [("e2", 30), ("e2", 3), ("e1", 9)])
def test_another_order_of_changes_starts_the_log_anew(epoch: str, revision: int) -> None:
    catalog = loaded(record(ONE, 5), record(TWO, 6))
    seq = catalog.seq
    catalog.load(Snapshot(epoch, revision, (record(ONE, 2), record(TWO, 3))))
    assert (catalog.epoch, catalog.revision) == (epoch, revision)
    assert catalog.changes(PLAYER, seq) is None
    assert catalog.changes(Query("default"), seq) is None
    assert catalog.changes(Query("default", frozenset({"nobody"})), seq) is None
    assert catalog.changes(Query("nobody"), seq) is None
    assert catalog.seq_at(PLAYER, revision) == catalog.seq
    assert catalog.seq_at(PLAYER, revision - 1) is None


def test_another_epoch_takes_records_whose_revision_is_the_same() -> None:
    catalog = loaded(record(ONE, 5, version="old"))
    catalog.load(Snapshot("e2", 10, (record(ONE, 5, version="new"),)))
    entry = catalog.get(ONE)
    assert entry is not None
    assert entry.parse().version == "new"


def test_what_is_kept_stays_though_the_set_lacks_it() -> None:
    catalog = loaded(record(ONE, 5), record(TWO, 6))
    changes = catalog.load(Snapshot("e2", 1, ()), keep={ONE})
    assert story(changes) == [("two", True, False, None)]
    assert ids(catalog) == ["one"]


def test_what_is_kept_yields_its_address_to_a_record_of_the_new_order() -> None:
    catalog = loaded(record(ONE, 500, **HOST), revision=500)
    catalog.load(Snapshot("e2", 3, (record(TWO, 2, **HOST),)), keep={ONE})
    assert ids(catalog) == ["two"]


# ---- deltas


def test_removing_what_is_not_there_is_no_change() -> None:
    catalog = loaded(record(ONE, 5))
    assert catalog.apply(gone(11, TWO)) == []
    assert catalog.remove([TWO], Cause.EXPIRED) == []
    assert catalog.revision == 11


def test_lease_of_a_draining_instance_that_runs_out_is_the_end_of_its_drain() -> None:
    """A drain has a time to leave; who only calls itself draining is kept alive by its owner."""
    draining = record(ONE, 5, status=pb.DRAINING, leaves_at={"seconds": 1})
    catalog = loaded(draining, record(TWO, 5, status=pb.DRAINING))
    (first, second) = catalog.apply(gone(11, ONE, TWO, cause=Cause.EXPIRED))
    assert (first.cause, second.cause) == (Cause.DRAINED, Cause.EXPIRED)


def test_progress_never_goes_back() -> None:
    catalog = loaded(revision=10)
    catalog.progress(15)
    catalog.progress(12)
    assert catalog.revision == 15


# ---- records that are no instances


def stray(name: Key, revision: int, value: bytes = b"hello") -> Record:
    return Record(name, value, "", revision, revision)


def flaws(catalog: Catalog) -> list[str]:
    return [str(flaw.key) for flaw in catalog.take_new_flaws()]


def test_record_that_is_no_instance_is_skipped_counted_and_told_once() -> None:
    catalog = Catalog()
    catalog.load(Snapshot("e1", 10, (record(ONE, 5), stray(TWO, 6))))
    assert (ids(catalog), catalog.flaws, flaws(catalog)) == (["one"], 1, ["default/player/two"])
    changes = catalog.apply(Delta(11, (stray(THREE, 11), record(key("four"), 11), stray(TWO, 11))))
    assert story(changes) == [("four", False, True, None)]
    assert (catalog.flaws, flaws(catalog)) == (2, ["default/player/three"])
    catalog.load(Snapshot("e1", 11, (record(ONE, 5), stray(TWO, 11), record(key("four"), 11))))
    assert (ids(catalog), catalog.flaws, flaws(catalog)) == (["four", "one"], 1, [])
    assert [catalog.revision_of(it) for it in (ONE, TWO, THREE)] == [5, 11, 0]
    catalog.apply(Delta(12, (record(TWO, 12),)))
    assert (ids(catalog), catalog.flaws, catalog.revision_of(TWO)) == (["four", "one", "two"], 0, 12)


def test_instance_overwritten_by_what_is_none_stays_and_is_told() -> None:
    catalog = loaded(record(ONE, 5), record(TWO, 5))
    for revision in (10, 11):
        assert catalog.apply(Delta(revision, (stray(ONE, revision),))) == []
        assert (ids(catalog), flaws(catalog)) == (["one", "two"], ["default/player/one"])
        assert catalog.revision_of(ONE) == revision
    assert ghosts(catalog.apply(Delta(12, (record(ONE, 12),)))) == ()
    assert (catalog.revision_of(ONE), catalog.flaws) == (12, 0)
    assert catalog.apply(gone(13, ONE))
    catalog.apply(Delta(14, (stray(ONE, 14),)))
    assert catalog.apply(gone(15, ONE)) == []
    assert (catalog.revision_of(ONE), catalog.flaws) == (0, 0)


def test_full_set_with_what_is_no_instance_in_an_instances_place() -> None:
    catalog = loaded(record(ONE, 5), record(TWO, 5))
    assert catalog.load(Snapshot("e1", 12, (stray(ONE, 11), record(TWO, 5)))) == []
    assert (ids(catalog), flaws(catalog), catalog.revision_of(ONE)) == (["one", "two"], ["default/player/one"], 11)


def test_revision_of_an_earlier_order_says_nothing_of_what_is_there_now() -> None:
    """Kept through a new epoch, and then registered again at what happens to be the same revision."""
    catalog = loaded(record(ONE, 5, weight=1))
    catalog.load(Snapshot("e2", 3, ()), keep=[ONE])
    catalog.load(Snapshot("e2", 5, (record(ONE, 5, weight=2),)))
    entry = catalog.get(ONE)
    assert entry is not None
    assert entry.parse().weight == 2


@pytest.mark.parametrize("comes_first", [True, False])
def test_record_without_a_lease_takes_no_address_from_one_that_has(comes_first: bool) -> None:
    copy = record(TWO, 4 if comes_first else 6, lease="", host="10.0.0.9", port=9)
    holder = record(ONE, 5, lease="lease", host="10.0.0.9", port=9)
    catalog = loaded(copy, holder)
    assert ids(catalog) == ["one"]
    assert catalog.revision_of(TWO) == (0 if comes_first else 6)
    catalog = loaded(holder)
    catalog.apply(Delta(11, (copy._replace(revision=11),)))
    assert (ids(catalog), flaws(catalog), catalog.revision_of(TWO)) == (["one"], ["default/player/two"], 11)


# ---- generations


def generation(catalog: Catalog, name: Key = ONE) -> int:
    """That of who has the id or had it last; 0 if that is not known."""
    owner = catalog.last_owner(name)
    return owner.generation if owner else 0


def test_owner_is_remembered_also_when_it_has_left() -> None:
    catalog = loaded(record(ONE, 5, generation=3, host="10.0.0.9", port=9, registered_at={"seconds": 7, "nanos": 5}))
    assert generation(catalog, TWO) == 0
    for _ in range(2):
        assert catalog.last_owner(ONE) == Owner(3, ("10.0.0.9", 9), 7_000_000_005, False)
        catalog.apply(gone(11, ONE))
    catalog.apply(put(12, ONE, generation=8, leaves_at={"seconds": 7}))
    catalog.apply(gone(13, ONE))
    owner = catalog.last_owner(ONE)
    assert owner is not None
    assert (owner.generation, owner.is_leaving) == (8, True)


def test_the_departed_are_remembered_within_a_limit_the_latest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogs, "DEPARTED_LIMIT", 2)
    catalog = loaded(*(record(key(id_), 5, generation=3) for id_ in "abc"))
    for number, id_ in enumerate("abc"):
        catalog.apply(gone(11 + number, key(id_)))
    assert [generation(catalog, key(id_)) for id_ in "abc"] == [0, 3, 3]


# ---- the log


def test_changes_come_oldest_first_also_of_several_services() -> None:
    catalog = loaded()
    seq = catalog.seq
    names = [key("1", "a"), key("2", "b"), key("3", "a"), key("4", "c"), key("5", "b")]
    for number, name in enumerate(names):
        catalog.apply(put(11 + number, name))
    both = catalog.changes(Query("default", frozenset("ab")), seq)
    every = catalog.changes(Query("default"), seq + 2)
    assert both is not None
    assert every is not None
    assert [change.key.id for change in both] == ["1", "2", "3", "5"]
    assert [change.key.id for change in every] == ["3", "4", "5"]


def test_log_reaches_back_to_its_floor_and_no_further() -> None:
    catalog = loaded(log_limit=4)
    start = catalog.seq
    for number in range(10):
        catalog.apply(put(11 + number, key(f"{number}")))
    assert catalog.statistics().log == 4
    for query in (PLAYER, Query("default")):
        assert catalog.changes(query, start + 5) is None
        changes = catalog.changes(query, start + 6)
        assert changes is not None
        assert [change.revision for change in changes] == [17, 18, 19, 20]
    assert catalog.seq_at(PLAYER, 15) is None
    assert catalog.seq_at(PLAYER, 16) == start + 6


def test_a_quiet_service_keeps_its_place_whatever_the_others_do() -> None:
    catalog = loaded(record(key("one", "quiet"), 5), log_limit=4)
    seq = catalog.seq
    for number in range(50):
        catalog.apply(put(11 + number, key(f"{number}")))
    assert catalog.changes(Query("default", frozenset({"quiet"})), seq) == []


def test_a_busy_service_costs_no_quiet_one_its_history() -> None:
    """Neither by its own limit nor by that for all: what is forgotten is what the busiest did."""
    catalog = loaded(log_limit=100, log_limit_in_all=20)
    quiet = Query("default", frozenset({"quiet"}))
    seq = catalog.seq
    for number in range(5):
        catalog.apply(put(11 + number, key("one", "quiet")))
    for number in range(500):
        catalog.apply(put(100 + number, key(f"{number % 9}", f"busy-{number % 2}")))
    assert 18 <= catalog.statistics().log <= 20
    changes = catalog.changes(quiet, seq)
    assert changes is not None
    assert [change.revision for change in changes] == [11, 12, 13, 14, 15]
    assert catalog.seq_at(quiet, 13) == changes[2].seq
    for busy in ("busy-0", "busy-1"):
        known = catalog.changes(Query("default", frozenset({busy})), catalog.seq - 12)
        assert known is not None
        assert len(known) == 6
        assert catalog.seq_at(Query("default", frozenset({busy})), 500) is None
    both = Query("default", frozenset({"quiet", "busy-0"}))
    assert catalog.changes(both, seq) is None
    assert catalog.changes(Query("default"), seq) is None
    latest = catalog.changes(Query("default"), catalog.seq - 12)
    assert latest is not None
    assert [change.revision for change in latest] == list(range(588, 600))


def test_history_of_a_namespace_is_that_of_its_services() -> None:
    catalog = loaded()
    places = [catalog.seq]
    for number in range(30):
        catalog.apply(put(11 + number, key("one", f"s{number % 7}")))
        places.append(catalog.seq)
    for number, place in enumerate(places):
        changes = catalog.changes(Query("default"), place)
        assert changes is not None
        assert [change.revision for change in changes] == list(range(11 + number, 41))
        assert catalog.seq_at(Query("default"), 10 + number) == place


def test_service_that_is_gone_and_forgotten_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogs, "GONE_LIMIT", 4)
    catalog = loaded()
    for number in range(100):
        name = key("one", f"s{number}", f"n{number}")
        catalog.apply(put(100 + 2 * number, name))
        catalog.apply(gone(101 + 2 * number, name))
    assert len(catalog._services) == len(catalog._namespaces) == len(catalog._gone) == 4
    assert len(catalog._all_logs._names) == 4
    assert catalog.statistics().log == 8
    assert catalog.statistics().services == 0
    assert catalog.namespaces() == ()
    assert len(list(catalog._recent)) == 4


@pytest.mark.parametrize("namespace", ["n", "default"])
def test_what_a_forgotten_service_did_is_not_taken_for_nothing(monkeypatch: pytest.MonkeyPatch, namespace: str) -> None:
    """Whether nobody knows it any more, or it is there again."""
    monkeypatch.setattr(catalogs, "GONE_LIMIT", 1)
    catalog = loaded(record(key("one", "other"), 5))
    before = catalog.seq
    catalog.apply(put(11, key("one", "first", namespace)))
    catalog.apply(gone(12, key("one", "first", namespace)))
    while_it_was_known = catalog.seq
    catalog.apply(put(13, key("one", "second", "default")))
    catalog.apply(gone(14, key("one", "second", "default")))
    assert (namespace, "first") not in catalog._services
    for _ in range(2):
        for query in (Query(namespace, frozenset({"first"})), Query(namespace)):
            assert catalog.changes(query, before) is None
            assert catalog.seq_at(query, 10) is None
            assert catalog.changes(query, while_it_was_known) is not None
            assert catalog.seq_at(query, 12) is not None
        catalog.apply(put(15, key("one", "first", namespace)))


def test_seq_at_is_the_place_after_which_everything_is_newer() -> None:
    catalog = loaded(record(ONE, 5))
    places = {10: catalog.seq}
    for revision in (12, 15):
        catalog.apply(put(revision, ONE, TWO))
        places[revision] = catalog.seq
    catalog.progress(20)
    assert [catalog.seq_at(PLAYER, revision) for revision in (10, 11, 12, 14, 15, 20)] == [
        places[10],
        places[10],
        places[12],
        places[12],
        places[15],
        places[15],
    ]
    assert catalog.seq_at(PLAYER, 21) is None


def test_seq_counts_removals_that_are_not_the_stores() -> None:
    catalog = loaded(record(ONE, 5))
    seq, revision = catalog.seq, catalog.revision
    (change,) = catalog.remove([ONE], Cause.EXPIRED)
    assert (change.seq, change.revision) == (seq + 1, revision)
    assert catalog.changes(PLAYER, seq) == [change]


# ---- settings


def test_a_setting_is_in_no_answer_about_instances() -> None:
    one, two, other = setting("one"), setting("two"), setting("one", "other")
    catalog = loaded(record(ONE, 5), setting_record(one, 6, lease="lease"), setting_record(two, 7))
    seq, checksum = catalog.seq, catalog.checksum(PLAYER)
    assert catalog.apply(Delta(11, (setting_record(two, 11), setting_record(other, 11)))) == []
    assert ids(catalog) == ["one"]
    assert catalog.services("default") == ("player",)
    assert catalog.of_lease("lease") == (ONE,)
    assert (catalog.seq, catalog.checksum(PLAYER), catalog.revision) == (seq, checksum, 11)
    assert (catalog.get(one), catalog.revision_of(one), catalog.flaws) == (None, 0, 0)


def test_settings_are_found_by_kind_namespace_and_service() -> None:
    names = [setting("a"), setting("b", ""), setting("c", "other"), setting("", "", Kind.REPLICA)]
    settings = loaded(*(setting_record(name, 5) for name in names)).settings
    assert [it.key for it in settings.of(Kind.POLICY)] == names[:3]
    assert [it.key for it in settings.of(Kind.POLICY, "default", "")] == [names[1]]
    assert [it.key for it in settings.of(Kind.POLICY, service="player")] == [names[0]]
    assert [*settings.of(Kind.POLICY, "elsewhere")] == []
    assert [it.key for it in settings.of(Kind.REPLICA)] == [names[3]]
    assert len(settings) == 4


def test_what_is_set_again_in_a_full_set_is_told_if_it_changed() -> None:
    kept, changed, left, new = (setting(name) for name in ("kept", "changed", "left", "new"))
    catalog = loaded(*(setting_record(name, 5) for name in (kept, changed, left)))
    before = {name: catalog.settings.get(name) for name in (changed, left)}
    catalog.settings.take_changes()
    records = [setting_record(kept, 5), setting_record(changed, 12, b"other"), setting_record(new, 13)]
    catalog.load(Snapshot("e1", 13, tuple(records)))
    assert [*catalog.settings.take_changes()] == [
        (13, left, before[left], None),
        (13, changed, before[changed], records[1]),
        (13, new, None, records[2]),
    ]
    assert [*catalog.settings.take_changes()] == []


def test_the_end_of_an_instance_is_not_the_end_of_a_setting_of_its_name() -> None:
    catalog = loaded(record(ONE, 5), setting_record(setting("one"), 6))
    assert [change.key for change in catalog.apply(gone(11, ONE))] == [ONE]
    assert catalog.settings.get(setting("one")) is not None
    catalog.apply(put(12, ONE))
    assert catalog.apply(Delta(13, deletes=(Deleted(setting("one"), Cause.EXPIRED),))) == []
    assert (ids(catalog), len(catalog.settings)) == (["one"], 0)


# ---- what a change costs


class CountingDict(dict):  # type: ignore[type-arg]
    """Counts look-ups and walks."""

    looked_up = 0

    def __getitem__(self, name: object) -> object:
        self.looked_up += 1
        return super().__getitem__(name)

    def get(self, name: object, default: object = None) -> object:
        self.looked_up += 1
        return super().get(name, default)

    def __iter__(self) -> object:  # type: ignore[override]
        raise AssertionError("a change walks over all services")

    keys = values = items = __iter__  # type: ignore[assignment]


@pytest.mark.parametrize("others", [0, 10, 1000])
def test_work_per_change_is_independent_of_other_services(others: int) -> None:
    catalog = loaded(record(ONE, 5), *(record(key("one", f"s{number}"), 6) for number in range(others)))
    services = catalog._services = CountingDict(catalog._services)
    catalog.apply(put(11, ONE, TWO))
    catalog.apply(gone(12, TWO))
    list(catalog.select(PLAYER))
    assert services.looked_up <= 10


def test_one_change_encodes_one_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = loaded(*(record(key(f"{number}"), 6, port=number + 1) for number in range(1000)))
    encoded: list[Key] = []

    class Counting(Entry):
        @classmethod
        def of(cls, record: Record, fence: int = 0) -> Entry:
            entry = Entry.of(record, fence)
            encoded.append(entry.key)
            return entry

    monkeypatch.setattr(drafts, "Entry", Counting)
    catalog.apply(put(11, key("7"), port=8))
    for _ in range(100):
        list(catalog.select(PLAYER))
    assert encoded == [key("7")]
