"""What is made of a draft is what is read from the record; and no draft outlives its write, nor serves another one."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.drafts import Draft, Drafts
from registry_server.errors import NotFound
from registry_server.model import Entry
from registry_server.records import Commit, Key, Lease, Record, Snapshot
from registry_server.rpc.validate import changed_instance, new_instance
from registry_server.rules import Plan, Rules
from registry_server.stores.base import NoSuchLease
from registry_server.stores.memory import MemoryStore
from tests.support.core import NOON, Core, key, loaded, record

ONE = key("one")
FENCE = 1_000
WORDS = st.text(max_size=4)
ASKED = st.builds(
    pb.Instance,
    namespace=st.sampled_from(["", "default", "other"]),
    service=st.just("player"),
    id=st.just("one"),
    host=st.sampled_from(["10.0.0.1", "FE80:0::7", "::ffff:10.0.0.1", "2001:DB8::1", "Game.example"]),
    port=st.integers(1, 65535),
    version=st.sampled_from(["", "1.4.2"]),
    weight=st.none() | st.integers(0, 9),
    tags=st.sets(st.text(min_size=1, max_size=3), max_size=3),
    metadata=st.dictionaries(st.text(min_size=1, max_size=2), WORDS, max_size=3) | st.just({"map": "x" * 5_000}),
    locality=st.none() | st.just({"zone": "a"}),
    status=st.integers(0, 2),
    health=st.integers(0, 3),
    generation=st.sampled_from([0, 5]),
    registered_at=st.none() | st.builds(dict, seconds=st.integers(0, 2**31), nanos=st.integers(0, 999_999_999)),
    checks=st.lists(st.just({"name": "a", "tcp": {}}), max_size=1),
)


def accepted(asked: pb.Instance) -> pb.Instance | None:
    try:
        return new_instance(asked, lambda: "one")
    except Exception:
        return None


def made_and_read(plan: Plan) -> tuple[Entry, Entry]:
    """The entry of what a plan puts: made of its draft, and read from what is stored."""
    (put,) = plan.commit.puts
    stored = Record(put.key, bytes(bytearray(put.value)), put.lease_id, 11, 7)
    drafts = Drafts()
    drafts.add(plan.drafts)
    return drafts.entry(stored, FENCE), Entry.of(stored, FENCE)


def assert_alike(made: Entry, read: Entry) -> None:
    """But for the order in which metadata are encoded, which means nothing."""
    assert made._replace(encoded=b"") == read._replace(encoded=b"")
    assert made.parse() == read.parse()


@given(ASKED, st.booleans())
def test_an_entry_of_a_draft_is_the_one_that_is_read_from_its_record(asked: pb.Instance, is_there: bool) -> None:
    wanted = accepted(asked)
    if wanted is None:
        return
    there = record(Key(wanted.namespace, "player", "one"), 5, lease="l", port=7, checks=[{"name": "a", "tcp": {}}])
    catalog = loaded(*([there] if is_there else []), fence=FENCE)
    rules = Rules(catalog, frozenset(), lambda: NOON)
    assert_alike(*made_and_read(rules.register(wanted, Lease("l", 15.0))))


@given(ASKED)
def test_the_same_of_what_is_changed(asked: pb.Instance) -> None:
    asked.namespace, paths = "", ("metadata", "tags", "weight", "version", "status")
    try:
        wanted, named = changed_instance(asked, paths)
    except Exception:
        return
    rules = Rules(loaded(record(ONE, 5, lease="l", host="10.0.0.1", port=7), fence=FENCE), frozenset(), lambda: NOON)
    assert_alike(*made_and_read(rules.update(wanted, named)))


def test_other_bytes_than_those_of_the_draft_are_read() -> None:
    """Somebody else wrote the key at the same time, or the store did not keep what it was given."""
    drafts = Drafts()
    drafts.add([Draft(ONE, b"mine", pb.Instance(host="10.0.0.9", port=9))])
    theirs = record(ONE, 5, host="10.0.0.1", port=7)
    assert drafts.entry(theirs, FENCE) == Entry.of(theirs, FENCE)


class Failing(MemoryStore):
    async def commit(self, commit: Commit) -> int:
        raise NoSuchLease("gone")


def core_of(store: MemoryStore) -> Core:
    made = Core(store)
    store._emit = made.feed.emit
    made.feed.emit(Snapshot("e1", 1, ()))
    return made


def wanted(**fields: Any) -> pb.Instance:
    return pb.Instance(namespace="default", service="player", id="one", host="10.0.0.1", port=7, weight=1, **fields)


async def test_no_draft_outlives_its_write() -> None:
    core = core_of(MemoryStore())
    await core.registrar.register(wanted(), 15.0, "")
    await asyncio.gather(*(core.registrar.update(wanted(version=f"{it}"), ["version"]) for it in range(5)))
    assert len(core.catalog.drafts) == 0
    failing = core_of(Failing())
    with pytest.raises(NotFound):
        await failing.registrar.register(wanted(), 15.0, "")
    assert len(failing.catalog.drafts) == 0
