"""Generations beside a naive model: two servers whose views lag, restarts, departures that are forgotten, wiped stores.

Whatever happens, the owners of an id have numbers that grow in the order in which they had it, no two the same.
"""

import random
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server import fields
from registry_server.catalog import Catalog
from registry_server.errors import InvalidField, NotFound, OwnershipLost, Unavailable
from registry_server.feed import Feed
from registry_server.model import Entry
from registry_server.records import Lease, Snapshot, StoreEvent
from registry_server.registrar import Registrar
from registry_server.stores.memory import MemoryStore
from tests.support.core import NOON, key

IDS = st.sampled_from("ab")
SERVERS = st.integers(0, 1)
OWNERS = st.integers(0, 3)


T = TypeVar("T")


def carry_out(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing but its turn."""
    while True:
        try:
            assert work.send(None) is None
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


@dataclass
class Owner:
    """A process: what it was last told of the id it holds, and the lease it renews."""

    port: int
    told: dict[str, pb.Instance] = field(default_factory=dict)
    lease: dict[str, Lease] = field(default_factory=dict)


class Server:
    """The view of one server, and the events that it has not looked at yet."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.catalog = Catalog()
        self.catalog.load(snapshot)
        self.waiting: list[StoreEvent] = []

    def catch_up(self) -> None:
        for event in self.waiting:
            match event:
                case Snapshot():
                    self.catalog.load(event)
                case _:
                    self.catalog.apply(event)  # type: ignore[arg-type]
        self.waiting.clear()


class FenceMachine(RuleBasedStateMachine):
    """Owners and strangers register, leave, drain, die; servers lag and are restarted; the store is wiped."""

    @initialize()
    def begin(self) -> None:
        self.clock, self.wall_s = 1000.0, NOON
        self.owners = [Owner(7001 + number) for number in range(4)]
        # Who had each id, in the order of the store, with the number it was given.
        self.history: dict[str, list[tuple[int, int]]] = {"a": [], "b": []}
        self.epoch = 0
        self.open_store()

    def open_store(self) -> None:
        self.epoch += 1
        self.store = MemoryStore(lambda: self.clock, wall_clock=lambda: self.wall_s)
        self.store._emit = self.told
        self.servers: list[Server] = []
        self.servers = [Server(self.snapshot()) for _ in range(2)]

    def told(self, event: StoreEvent) -> None:
        for server in self.servers:
            server.waiting.append(event)

    def snapshot(self) -> Snapshot:
        store = self.store
        return Snapshot(f"e{self.epoch}", store._revision, tuple(store._records.values()), store._fence)

    # ---- writes, through a server whose view may lag

    def registrar(self, number: int) -> Registrar:
        """Carries one write out; a conflict makes the server look at what it has not seen."""
        server = self.servers[number]

        class Looks(Feed):
            async def reach(self, revision: int, timeout_s: float) -> bool:
                server.catch_up()
                return self.catalog.revision >= revision

        feed = Looks(self.store, server.catalog, (), lambda: self.clock)
        return Registrar(self.store, feed, lambda: self.wall_s, NoPause())

    def register(self, number: int, id_: str, owner: Owner, lease_id: str = "", **claim: Any) -> pb.Instance | None:
        port = owner.port + 100 * (id_ == "b")
        wanted = pb.Instance(namespace="default", service="player", id=id_, host="10.0.0.1", port=port, **claim)
        fields.settle(wanted)
        before = self.store._records.get(key(id_))
        try:
            entry, _, lease = carry_out(self.registrar(number).register(wanted, 30.0, lease_id))
        except (OwnershipLost, InvalidField, NotFound, Unavailable):
            assert self.store._records.get(key(id_)) == before
            raise
        owner.told[id_], owner.lease[id_] = entry.parse(), lease
        return entry.parse()

    @rule(number=SERVERS, id_=IDS, who=OWNERS)
    def new_owner(self, number: int, id_: str, who: int) -> None:
        self.register(number, id_, self.owners[who])
        self.note(id_, who)

    @rule(number=SERVERS, id_=IDS, who=OWNERS)
    def owner_comes_back(self, number: int, id_: str, who: int) -> None:
        """With what it was told; it may have been somebody else's since, or have been left by a lost answer."""
        told = self.owners[who].told.get(id_)
        if told is None:
            return
        current = self.current(id_)
        try:
            self.register(number, id_, self.owners[who], generation=told.generation, registered_at=told.registered_at)
        except OwnershipLost:
            had_since = [other for other, given in self.history[id_] if given > told.generation and other != who]
            assert had_since or self.was_drained(id_, current)
            return
        if current is not None:
            assert self.history[id_][-1][0] == who or current.owner.generation <= told.generation
        self.note(id_, who)

    @rule(number=SERVERS, id_=IDS, who=OWNERS)
    def owner_comes_back_and_is_not_answered(self, number: int, id_: str, who: int) -> None:
        told = self.owners[who].told.get(id_)
        self.owner_comes_back(number, id_, who)
        if told is not None:
            self.owners[who].told[id_] = told

    @rule(number=SERVERS, id_=IDS, who=OWNERS)
    def owner_with_its_lease(self, number: int, id_: str, who: int) -> None:
        owner = self.owners[who]
        lease = owner.lease.get(id_)
        holds = lease is not None and (record := self.store._records.get(key(id_))) and record.lease_id == lease.id
        if lease is None:
            return
        before = self.current(id_)
        try:
            after = self.register(number, id_, owner, lease_id=lease.id)
        except NotFound:
            assert not holds
            return
        if holds:
            assert before is not None
            assert after is not None
            assert after.generation == before.owner.generation
        self.note(id_, who)

    @rule(number=SERVERS, id_=IDS, ahead=st.sampled_from([1, 2, 1000, 2**50]))
    def stranger_makes_a_number_up(self, number: int, id_: str, ahead: int) -> None:
        made_up = self.store._fence + self.store._revision + ahead
        with pytest.raises(InvalidField, match="never given out"):
            self.register(number, id_, Owner(7999), generation=made_up)

    @rule(number=SERVERS, id_=IDS)
    def update(self, number: int, id_: str) -> None:
        before = self.current(id_)
        wanted = pb.Instance(namespace="default", service="player", id=id_, weight=5)
        try:
            carry_out(self.registrar(number).update(wanted, ["weight"]))
        except NotFound:
            return
        self.same_owner(id_, before)

    @rule(number=SERVERS, id_=IDS, drain_s=st.sampled_from([0.0, 5.0]))
    def leave(self, number: int, id_: str, drain_s: float) -> None:
        self.servers[number].catch_up()
        before = self.current(id_)
        if self.servers[number].catalog.get(key(id_)) is None:
            return
        carry_out(self.registrar(number).deregister(key(id_), 0, drain_s))
        if drain_s:
            self.same_owner(id_, before)

    @rule(number=SERVERS, id_=IDS, who=OWNERS)
    def owner_leaves_by_its_number(self, number: int, id_: str, who: int) -> None:
        told = self.owners[who].told.get(id_)
        before = self.current(id_)
        self.servers[number].catch_up()
        if told is None or before is None:
            return
        try:
            carry_out(self.registrar(number).deregister(key(id_), told.generation, 0.0))
        except OwnershipLost:
            assert self.current(id_) == before
            return
        assert before.owner.generation == told.generation

    # ---- what befalls them

    @rule(seconds=st.sampled_from([4.0, 6.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock, self.wall_s = self.clock + seconds, self.wall_s + seconds
        self.store.tick(self.clock)

    @rule(number=SERVERS)
    def catch_up(self, number: int) -> None:
        self.servers[number].catch_up()

    @rule(number=SERVERS)
    def server_is_started_anew(self, number: int) -> None:
        """It remembers nobody who has left."""
        self.servers[number] = Server(self.snapshot())

    @rule()
    def store_is_wiped(self) -> None:
        """And with it every server: nobody remembers anything."""
        self.wall_s += 1.0
        self.open_store()

    # ---- what must hold

    def current(self, id_: str) -> Entry | None:
        record = self.store._records.get(key(id_))
        return None if record is None else Entry.of(record, self.store._fence)

    def same_owner(self, id_: str, before: Entry | None) -> None:
        after = self.current(id_)
        assert (before and before.owner.generation) == (after and after.owner.generation)

    def was_drained(self, id_: str, current: Entry | None) -> bool:
        remembered = [server.catalog.last_owner(key(id_)) for server in self.servers]
        return any(owner is not None and owner.is_leaving for owner in remembered)

    def note(self, id_: str, who: int) -> None:
        entry = self.current(id_)
        assert entry is not None
        given = entry.owner.generation
        assert given == self.owners[who].told[id_].generation
        past = self.history[id_]
        if past and past[-1][1] == given:
            assert past[-1][0] == who, "two owners with one number"
        else:
            past.append((who, given))

    @invariant()
    def numbers_grow(self) -> None:
        for past in self.history.values():
            numbers = [given for _, given in past]
            assert numbers == sorted(set(numbers))

    @invariant()
    def servers_agree_when_they_have_seen_the_same(self) -> None:
        for server in self.servers:
            if not server.waiting:
                for id_ in "ab":
                    assert server.catalog.get(key(id_)) == self.current(id_)


class NoPause(random.Random):
    """Writers that collide wait for nothing here: they look first."""

    def uniform(self, a: float, b: float) -> float:
        return 0.0


class Forgetful(FenceMachine):
    """Thousands of other ids left meanwhile, so nobody remembers who had these."""

    @rule(number=SERVERS)
    def forgets_who_left(self, number: int) -> None:
        self.servers[number].catalog._departed.clear()


COMMON: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": False}


class TestFence(FenceMachine.TestCase):  # type: ignore[misc,valid-type]
    settings = settings(max_examples=80, stateful_step_count=40, **COMMON)


class TestFenceOfTheForgetful(Forgetful.TestCase):  # type: ignore[misc,valid-type]
    settings = settings(max_examples=50, stateful_step_count=40, **COMMON)
