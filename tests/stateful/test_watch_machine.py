"""A watch that a client folds by the words of registry.proto equals List at the same revision, always."""

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server import catalog as catalogs
from registry_server.hub import STALL_S
from registry_server.records import Away, Back, Cause, Deleted, Delta, Key, Kind, Progress, Record, Snapshot
from tests.support.core import Core, Watcher, record, settle

NAMES = st.builds(
    Key,
    st.sampled_from(["default", "default", "prod"]),
    st.sampled_from(["player", "match"]),
    st.sampled_from("abcd"),
    st.just(Kind.INSTANCE),
)
FIELDS = st.fixed_dictionaries(
    {
        "host": st.sampled_from(["10.0.0.1", "10.0.0.2"]),
        "port": st.integers(1, 4),
        "status": st.sampled_from([pb.ACTIVE, pb.ACTIVE, pb.DRAINING]),
        "weight": st.integers(0, 1),
        "tags": st.sampled_from([[], ["x"], ["x", "y"]]),
        "version": st.sampled_from(["1", "2"]),
        "ttl": st.just({"seconds": 10}),
    }
)
PUTS = st.lists(st.tuples(NAMES, FIELDS), min_size=1, max_size=4, unique_by=lambda put: put[0])
QUESTIONS: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [
        {"services": ["player"]},
        {"services": ["player", "match", "nobody"]},
        {},
        {"namespace": "prod"},
        {"namespace": "nowhere"},
        {"all_namespaces": True},
        {"all_namespaces": True, "services": ["player"]},
        {"services": ["player"], "filter": pb.Filter(tags=["x"])},
        {"services": ["match"], "filter": pb.Filter(routable_only=True)},
        {"filter": pb.Filter(version="2", statuses=[pb.ACTIVE])},
    ]
)


class WatchMachine(RuleBasedStateMachine):
    """Two replicas of one store, readers that come, go, resume on either, and are slow; a store that has bad days."""

    watchers = Bundle("watchers")
    log_limit = catalogs.LOG_LIMIT

    def __init__(self) -> None:
        super().__init__()
        self.records: dict[Key, Record] = {}
        self.revision = 10
        self.highest = 0
        self.epoch = 1
        self.cores = (Core(), Core())
        for core in self.cores:
            core.catalog._all_logs._limit = self.log_limit
            core.catalog._all_logs._limit_in_all = 2 * self.log_limit
            core.feed._arm_hold = lambda: None  # type: ignore[method-assign]
        self.all: list[Watcher] = []

    @initialize()
    def load(self) -> None:
        self.tell(self.snapshot())

    # ---- the store

    @rule(puts=PUTS, names=st.lists(NAMES, max_size=2, unique=True), cause=st.sampled_from(Cause))
    def change(self, puts: list[tuple[Key, dict[str, Any]]], names: list[Key], cause: Cause) -> None:
        self.revision = self.next_revision()
        put_names = {name for name, _ in puts}
        deletes = tuple(Deleted(name, cause) for name in names if name in self.records and name not in put_names)
        records = tuple(record(name, self.revision, **fields) for name, fields in puts)
        for deleted in deletes:
            del self.records[deleted.key]
        self.records.update({it.key: it for it in records})
        self.tell(Delta(self.revision, records, deletes))

    @rule(by=st.integers(1, 3))
    def progress(self, by: int) -> None:
        self.revision = self.next_revision() + by
        self.tell(Progress(self.revision))

    @rule(which=st.sampled_from([0, 1]), puts=PUTS)
    def one_replica_reconnects(self, which: int, puts: list[tuple[Key, dict[str, Any]]]) -> None:
        """It missed a few changes and is told the full set; the other one followed."""
        for name, fields in puts:
            self.revision = self.next_revision()
            self.records[name] = record(name, self.revision, **fields)
            self.cores[1 - which].feed.emit(Delta(self.revision, (self.records[name],)))
        self.cores[which].feed.emit(self.snapshot())

    @rule()
    def outage(self) -> None:
        """Afterwards both hold removals back that come within one TTL."""
        self.tell(Away("gone"))
        self.tell(Back())

    @rule()
    def outage_that_was_lost_on_a_full_set(self) -> None:
        self.tell(Away("gone"))
        self.tell(self.snapshot())

    @rule(names=st.lists(NAMES, max_size=2, unique=True), is_outage=st.booleans())
    def store_forgets(self, names: list[Key], is_outage: bool) -> None:
        """A new epoch, without some of the records."""
        if is_outage:
            self.tell(Away("gone"))
        self.epoch, self.revision, self.highest = self.epoch + 1, 50, 0
        kept = [it for name, it in self.records.items() if name not in names]
        self.records = {
            it.key: it._replace(revision=10 + place, create_revision=10 + place) for place, it in enumerate(kept)
        }
        self.tell(self.snapshot())

    @rule(by=st.integers(1, 5))
    def store_goes_back(self, by: int) -> None:
        """The same epoch at an earlier revision: restored from a backup. It gives no revision out twice."""
        self.highest = max(self.highest, self.revision)
        self.revision = max(1, self.revision - by)
        self.records = {name: it for name, it in self.records.items() if it.revision <= self.revision}
        self.tell(self.snapshot())

    @rule()
    def what_waited_leaves(self) -> None:
        for core in self.cores:
            due = core.guard_due()
            core.feed._changed(core.catalog.remove(due, Cause.EXPIRED))

    # ---- readers

    @rule(target=watchers, question=QUESTIONS, which=st.sampled_from([0, 1]))
    def watch(self, question: dict[str, Any], which: int) -> Watcher:
        watcher = Watcher(self.cores[which], **question)
        self.all.append(watcher)
        return watcher

    @rule(watcher=watchers)
    def write(self, watcher: Watcher) -> None:
        watcher.write()

    @rule(watcher=watchers)
    def leave(self, watcher: Watcher) -> None:
        watcher.leave()

    @rule(watcher=watchers, which=st.sampled_from([0, 1]), keep=st.booleans())
    def come_back(self, watcher: Watcher, which: int, keep: bool) -> None:
        """With its token, or with nothing; on either replica."""
        watcher.leave()
        watcher.core = self.cores[which]
        watcher.join(resume=keep)

    # ---- time

    @rule(by=st.sampled_from([0.0, STALL_S / 10, STALL_S, 5.0, 100.0]))
    def time_passes(self, by: float) -> None:
        for core in self.cores:
            core.timeline.advance(by)

    @rule()
    def bookmark(self) -> None:
        for core in self.cores:
            core.hub.bookmark()

    @rule()
    def everybody_catches_up(self) -> None:
        for core in self.cores:
            settle(core, [it for it in self.all if it.core is core])

    @rule(data=st.data())
    def list_in_pages(self, data: st.DataObject) -> None:
        question = data.draw(QUESTIONS)
        services = question.get("services", [])
        if len(services) > 1:
            return
        asked = {**{name: it for name, it in question.items() if name != "services"}, "service": "".join(services)}
        core = data.draw(st.sampled_from(self.cores))
        whole, token = core.list(**asked), ""
        found: list[pb.Instance] = []
        for _ in range(50):
            page = core.list(**asked, page_size=data.draw(st.integers(1, 3)), page_token=token)
            assert page.checksum == whole.checksum
            found += page.instances
            token = page.next_page_token
            if not token:
                break
        assert found == list(whole.instances)

    # ---- what must hold

    @invariant()
    def watch_is_list(self) -> None:
        """For each reader that was told the latest there is."""
        for watcher in self.all:
            header = self.listed(watcher, "").header
            told = (watcher.fold.epoch, watcher.fold.revision, watcher.core.timeline.alarm)
            is_told = watcher.reader is not None and not watcher.sink.is_writing
            if is_told and told == (header.epoch, header.revision, None):
                self.check(watcher)

    def check(self, watcher: Watcher) -> None:
        services = watcher.question.get("services", []) or [""]
        answers = [self.listed(watcher, service) for service in services]
        expected = {Key(it.namespace, it.service, it.id): it for answer in answers for it in answer.instances}
        assert watcher.fold.is_whole
        assert watcher.fold.instances == expected

    def listed(self, watcher: Watcher, service: str) -> pb.ListResponse:
        asked = {name: it for name, it in watcher.question.items() if name != "services"}
        return watcher.core.list(service=service, **asked)

    def teardown(self) -> None:
        self.everybody_catches_up()
        for watcher in self.all:
            if watcher.reader is not None:
                assert (watcher.fold.epoch, watcher.core.timeline.alarm) == (f"e{self.epoch}", None)
                self.check(watcher)

    # ---- within

    def next_revision(self) -> int:
        return max(self.revision, self.highest) + 1

    def snapshot(self) -> Snapshot:
        return Snapshot(f"e{self.epoch}", self.revision, tuple(self.records.values()))

    def tell(self, event: Snapshot | Delta | Progress | Away | Back) -> None:
        for core in self.cores:
            core.feed.emit(event)


COMMON: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": False}


class TestWatch(WatchMachine.TestCase):  # type: ignore[misc,valid-type]
    settings = settings(max_examples=100, stateful_step_count=40, **COMMON)


class ShortMemory(WatchMachine):
    """Readers that come back find that what they missed is forgotten."""

    log_limit = 5


class TestWatchWithAShortMemory(ShortMemory.TestCase):  # type: ignore[misc,valid-type]
    settings = settings(max_examples=60, stateful_step_count=40, **COMMON)
