"""The view beside a naive model: whatever the store tells, both hold the same, and the log is true."""

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.catalog import Catalog, ghosts
from registry_server.changes import Change
from registry_server.model import Query, checksum
from registry_server.records import Cause, Deleted, Delta, Key, Kind, Record, Snapshot
from tests.support.core import record, setting_record

NAMES = st.builds(
    Key,
    st.sampled_from(["default", "prod"]),
    st.sampled_from(["player", "match"]),
    st.sampled_from("abcd"),
    st.just(Kind.INSTANCE),
)
# Few addresses, so that they collide.
FIELDS = st.fixed_dictionaries(
    {
        "host": st.sampled_from(["10.0.0.1", "10.0.0.2"]),
        "port": st.sampled_from([1, 1, 2, 2, 3, 3, 0]),  # with port 0 it is no instance, and changes none
        "status": st.sampled_from([pb.ACTIVE, pb.ACTIVE, pb.DRAINING]),
        "weight": st.integers(0, 1),
        "generation": st.integers(1, 5),
    }
)
LEASES = st.sampled_from(["l1", "l2", "l3"])
# Settings have the names of instances, and are none.
SETTINGS = st.builds(Key._replace, NAMES, kind=st.sampled_from([Kind.POLICY, Kind.REPLICA]))
SETS = st.dictionaries(SETTINGS, st.one_of(st.none(), st.binary(max_size=2)), max_size=2)
PUTS = st.lists(st.tuples(NAMES, FIELDS, LEASES), max_size=4, unique_by=lambda put: put[0])
QUERIES = [
    Query("default"),
    Query("default", frozenset({"player"})),
    Query("prod", frozenset({"player", "match", "nobody"})),
    Query("nowhere"),
    Query(""),
    Query("", frozenset({"player"})),
]


class Model:
    """What the view shows, in the fewest words: records by key, and the later of two at one address."""

    def __init__(self) -> None:
        self.records: dict[Key, Record] = {}
        self.departed: dict[Key, int] = {}

    def put(self, new: Record) -> None:
        if parsed(new).port == 0:
            return
        for key, old in list(self.records.items()):
            if key != new.key and key[:2] == new.key[:2] and address(old) == address(new):
                self.remove(key)
        self.departed.pop(new.key, None)
        self.records[new.key] = new

    def remove(self, key: Key) -> None:
        if key in self.records:
            self.departed[key] = parsed(self.records.pop(key)).generation

    def load(self, records: tuple[Record, ...], kept: set[Key]) -> None:
        for key in set(self.records) - {it.key for it in records} - kept:
            self.remove(key)
        for it in sorted(records, key=lambda it: it.revision):
            self.put(it)

    def latest(self, key: Key) -> int:
        """The generation of who has the id, or had it last."""
        return parsed(self.records[key]).generation if key in self.records else self.departed[key]

    def of(self, namespace: str, service: str) -> list[Record]:
        return [self.records[key] for key in sorted(self.records) if key[:2] == (namespace, service)]


def parsed(it: Record) -> pb.Instance:
    return pb.Instance.FromString(it.value)


def address(it: Record) -> tuple[str, int]:
    instance = parsed(it)
    return instance.host, instance.port


def state_of(catalog: Catalog, query: Query) -> dict[Key, int]:
    return {entry.key: entry.revision for entry in catalog.select(query)}


class CatalogMachine(RuleBasedStateMachine):
    """Deltas, full sets of the same and of other orders, removals that the store knows nothing of."""

    log_limit = 6
    log_limit_in_all = 12

    def __init__(self) -> None:
        super().__init__()
        self.catalog = Catalog(log_limit=self.log_limit, log_limit_in_all=self.log_limit_in_all)
        self.changed: dict[tuple[str, ...], int] = {}
        self.model = Model()
        self.revision = 10
        self.epoch = 1
        self.remembered: list[tuple[int, dict[Query, dict[Key, int]]]] = []
        self.settings: dict[Key, Record] = {}
        self.told_settings: dict[Key, Record] = {}

    @initialize(puts=PUTS)
    def first_load(self, puts: list[tuple[Key, dict[str, Any], str]]) -> None:
        self.load(self.made(puts))

    # ---- what the store tells

    @rule(puts=PUTS, names=st.lists(NAMES, max_size=3, unique=True), cause=st.sampled_from(Cause), sets=SETS)
    def delta(
        self,
        puts: list[tuple[Key, dict[str, Any], str]],
        names: list[Key],
        cause: Cause,
        sets: dict[Key, bytes | None],
    ) -> None:
        self.revision += 1
        unset = tuple(Deleted(name, cause) for name, value in sets.items() if value is None)
        settings = {name: setting_record(name, self.revision, it) for name, it in sets.items() if it is not None}
        self.settings |= settings
        for deleted in unset:
            self.settings.pop(deleted.key, None)
        put_names = {name for name, _, _ in puts}
        deletes = tuple(Deleted(name, cause) for name in names if name not in put_names)
        records = tuple(record(name, self.revision, lease=lease, **fields) for name, fields, lease in puts)
        changes = self.catalog.apply(Delta(self.revision, (*settings.values(), *records), deletes + unset))
        for deleted in deletes:
            self.model.remove(deleted.key)
        for it in records:
            self.model.put(it)
        self.check_changes(changes)

    @rule(puts=PUTS, more=st.integers(0, 3))
    def told_anew(self, puts: list[tuple[Key, dict[str, Any], str]], more: int) -> None:
        """The connection was lost: some changed meanwhile, the others are told as they are."""
        self.revision += more + len(puts) * bool(more)
        current = [it for it in self.model.records.values() if more % 2 == 0 or hash(it.key.id) % 2]
        changed = self.made(puts) if more else ()
        names = {it.key for it in changed}
        self.load((*changed, *(it for it in current if it.key not in names)))

    @rule(puts=PUTS, keep=st.sets(NAMES), other_epoch=st.booleans())
    def another_order(self, puts: list[tuple[Key, dict[str, Any], str]], keep: set[Key], other_epoch: bool) -> None:
        """The store lost its memory, or went back to an earlier one."""
        if other_epoch or self.revision <= 10:
            self.epoch, self.revision = self.epoch + 1, 10
        else:
            self.revision = self.catalog.revision - 1
        self.load(self.made(puts), keep, forgets=True)

    @rule(names=st.lists(NAMES, max_size=3, unique=True))
    def let_go(self, names: list[Key]) -> None:
        """Removals that waited."""
        changes = self.catalog.remove(names, Cause.EXPIRED)
        assert [change.key for change in changes] == [name for name in names if name in self.model.records]
        self.check_changes(changes)
        for name in names:
            self.model.remove(name)

    @rule(by=st.integers(0, 5))
    def progress(self, by: int) -> None:
        self.revision += by
        self.catalog.progress(self.revision)

    @rule()
    def remember(self) -> None:
        """A reader that looks now, and asks later what changed since."""
        self.remembered.append((self.catalog.seq, {query: state_of(self.catalog, query) for query in QUERIES}))

    # ---- within

    def made(self, puts: list[tuple[Key, dict[str, Any], str]]) -> tuple[Record, ...]:
        """Records of the past few revisions, one each."""
        first = self.revision - len(puts) + 1
        return tuple(
            record(name, first + index, lease=lease, **fields) for index, (name, fields, lease) in enumerate(puts)
        )

    def load(self, records: tuple[Record, ...], keep: set[Key] = frozenset(), *, forgets: bool = False) -> None:  # type: ignore[assignment]
        if forgets:
            self.settings = {name: it for name, it in self.settings.items() if name.id in "ab"}
        snapshot = Snapshot(f"e{self.epoch}", self.revision, (*records, *self.settings.values()))
        is_new_order = not self.catalog.is_continued_by(snapshot)
        assert is_new_order or not forgets
        changes = self.catalog.load(snapshot, keep)
        self.model.load(records, set(keep))
        self.check_changes(changes)
        if is_new_order:
            assert all(self.catalog.changes(query, seq) is None for seq, _ in self.remembered for query in QUERIES)
            self.remembered.clear()
            self.changed.clear()

    def check_changes(self, changes: list[Change]) -> None:
        for change in changes:
            self.changed[change.key[:2]] = self.changed.get(change.key[:2], 0) + 1
        seqs = [change.seq for change in changes]
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs))) if seqs else True
        assert all((change.before or change.after) is not None for change in changes)
        # Whoever is to be deleted from the store is not in the view.
        assert all(self.catalog.get(ghost.key) is None for ghost in ghosts(changes))

    # ---- what must hold

    @invariant()
    def settings_are_what_was_set(self) -> None:
        for _, name, before, after in self.catalog.settings.take_changes():
            assert self.told_settings.pop(name, None) == before != after
            self.told_settings |= {name: after} if after else {}
        assert self.told_settings == self.settings
        assert {it.key: it for kind in Kind for it in self.catalog.settings.of(kind)} == self.settings
        assert all(self.catalog.get(name) is None for name in self.settings)

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        shown = {key: entry for key in iter(self.catalog.keys()) if (entry := self.catalog.get(key))}
        assert {key: (it.revision, it.lease_id) for key, it in shown.items()} == {
            key: (it.revision, it.lease_id) for key, it in self.model.records.items()
        }
        for key, entry in shown.items():
            expected = parsed(self.model.records[key])
            expected.revision = entry.revision
            expected.create_revision = self.model.records[key].create_revision
            assert entry.parse() == expected
            assert pb.Instance.FromString(entry.encoded) == expected

    @invariant()
    def indexes_agree(self) -> None:
        names = {key[:2] for key in self.model.records}
        assert self.catalog.namespaces() == tuple(sorted({namespace for namespace, _ in names}))
        for namespace in ("default", "prod", "nowhere"):
            services = sorted(s for n, s in names if n == namespace)
            assert self.catalog.services(namespace) == tuple(services)
            instances = sum(key.namespace == namespace for key in self.model.records)
            assert self.catalog.size_of(namespace) == (len(services), instances)
            for service in ("player", "match"):
                records = self.model.of(namespace, service)
                entries = self.catalog.of_service(namespace, service)
                assert [entry.key for entry in entries] == [it.key for it in records]
                assert self.catalog.count(namespace, service) == (len(entries), sum(it.routable for it in entries))
                for it in records:
                    found = self.catalog.at_address(namespace, service, address(it))
                    assert found is not None
                    assert found.key == it.key
        for lease in ("l1", "l2", "l3"):
            held = {it.key for it in self.model.records.values() if it.lease_id == lease}
            assert set(self.catalog.of_lease(lease)) == held
            assert len(self.catalog.of_lease(lease)) == len(held)

    @invariant()
    def departed_are_remembered(self) -> None:
        for key in {*self.model.departed, *self.model.records}:
            owner = self.catalog.last_owner(key)
            assert owner is not None
            assert owner.generation == self.model.latest(key)

    @invariant()
    def log_leads_from_what_was_to_what_is(self) -> None:
        assert self.catalog.statistics().log <= self.log_limit_in_all
        for seq, states in self.remembered:
            for query in QUERIES:
                changes = self.catalog.changes(query, seq)
                if changes is None:
                    continue
                state = dict(states[query])
                for change in changes:
                    assert (state.get(change.key)) == (change.before.revision if change.before else None)
                    if change.after is None:
                        del state[change.key]
                    else:
                        state[change.key] = change.after.revision
                assert state == state_of(self.catalog, query)
                assert [change.seq for change in changes] == sorted(change.seq for change in changes)

    @invariant()
    def a_quiet_service_keeps_its_history(self) -> None:
        """Its share of what is known in all, at the least, whatever the others do."""
        share = min(self.log_limit, self.log_limit_in_all // 4)  # of four services
        for name, count in self.changed.items():
            service = self.catalog._services.get(name)
            assert service is not None
            assert min(count, share) <= len(service.log) <= self.log_limit

    @invariant()
    def snapshots_are_what_is_there(self) -> None:
        for query in QUERIES:
            entries = [entry for block in self.catalog.blocks(query) for entry in block.entries]
            assert entries == list(self.catalog.select(query))
            assert self.catalog.checksum(query) == checksum(entries)

    @invariant()
    def revisions_lead_to_places(self) -> None:
        """Everything after the place is newer than the revision, and nothing before it is."""
        for query in QUERIES:
            for revision in range(max(0, self.catalog.revision - 8), self.catalog.revision + 2):
                seq = self.catalog.seq_at(query, revision)
                if seq is None:
                    continue
                assert revision <= self.catalog.revision
                newer = self.catalog.changes(query, seq)
                assert newer is not None
                assert all(change.revision > revision for change in newer)
                known = self.catalog.changes(query, self.catalog.known_since(query))
                assert known is not None
                assert all(change.revision <= revision for change in known if change.seq <= seq)

    @invariant()
    def memory_is_bounded(self) -> None:
        occupied = {key[:2] for key in self.model.records}
        assert len(self.catalog._services) <= len(occupied) + self.log_limit_in_all
        assert len(self.catalog._all_logs._names) == len(self.catalog._services)
        assert set(self.catalog._gone) == set(self.catalog._services) - occupied
        recent = {(name, it.name) for name, space in self.catalog._namespaces.items() for it in space.recent}
        assert recent == set(self.catalog._services)
        assert set(self.catalog._recent) == set(self.catalog._services.values())


COMMON: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": False}


class TestCatalog(CatalogMachine.TestCase):  # type: ignore[misc,valid-type]
    settings = settings(max_examples=100, stateful_step_count=25, **COMMON)


class LongMemory(CatalogMachine):
    """Nothing is forgotten: every difference there was is still known."""

    log_limit = log_limit_in_all = 10_000

    @invariant()
    def nothing_is_forgotten(self) -> None:
        assert all(self.catalog.changes(query, seq) is not None for seq, _ in self.remembered for query in QUERIES[:2])


class TestCatalogWithALongMemory(LongMemory.TestCase):  # type: ignore[misc,valid-type]
    settings = settings(max_examples=40, stateful_step_count=25, **COMMON)
