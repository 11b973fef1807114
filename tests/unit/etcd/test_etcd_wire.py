"""CORE of the etcd store: names, and what watch responses add up to, however etcd cuts them up."""

import string
from typing import Any

import pytest
from aetcd.rpc import kv_pb2, rpc_pb2
from hypothesis import given
from hypothesis import strategies as st

from registry_server.stores.base import Cause, Commit, Delete, Deleted, Delta, Key, Progress, Put, Record
from registry_server.stores.etcd_wire import (
    EpochChanged,
    Layout,
    Telling,
    Told,
    asks_in_order,
    conflicts,
    lease_name,
    lease_number,
    snapshot,
    whole_seconds,
)

LAYOUT = Layout.below("/registry")
NAMES = st.text(alphabet=st.one_of(st.sampled_from("/%25F"), st.characters(exclude_categories=["Cs"])), max_size=8)
KEYS = st.builds(Key, NAMES, NAMES, NAMES)


# ---- names


@given(KEYS)
def test_key_comes_back(key: Key) -> None:
    assert LAYOUT.parse(LAYOUT.instance(key)) == key


@given(KEYS, KEYS)
def test_different_keys_have_different_names(one: Key, two: Key) -> None:
    assert (one == two) == (LAYOUT.instance(one) == LAYOUT.instance(two))


@given(KEYS)
def test_every_key_is_in_the_range(key: Key) -> None:
    for name in (LAYOUT.instance(key), LAYOUT.epoch, LAYOUT.cause):
        assert LAYOUT.root <= name < LAYOUT.end


@given(st.binary(max_size=30))
def test_any_bytes_are_a_key_of_ours_or_none(rest: bytes) -> None:
    for name in (LAYOUT.root + rest, LAYOUT.root + b"instances/" + rest):
        key = LAYOUT.parse(name)
        assert key is None or LAYOUT.instance(key) == name


def test_name_as_people_see_it() -> None:
    assert (
        LAYOUT.instance(Key("default", "player", "größe 1")) == "/registry/v1/instances/default/player/größe 1".encode()
    )
    assert LAYOUT.instance(Key("a/b", "50%", "")) == b"/registry/v1/instances/a%2Fb/50%25/"


@given(st.integers(1, 2**63 - 1))
def test_lease_comes_back(number: int) -> None:
    assert lease_number(lease_name(number)) == number


@given(st.text(alphabet=string.hexdigits + "x_+- ", max_size=20))
def test_a_lease_has_one_name(text: str) -> None:
    number = lease_number(text)
    assert number is None or (lease_name(number) == text and 0 < number < 2**63)


@given(st.floats(0, 10_000))
def test_ttl_is_rounded_up(ttl_s: float) -> None:
    assert max(ttl_s, 1) <= whole_seconds(ttl_s) < max(ttl_s, 1) + 1


# ---- commits


def test_conflicts_are_the_keys_that_differ() -> None:
    keys = [Key("n", "s", name) for name in "abcd"]
    commit = Commit(
        puts=(Put(keys[0], b"", "1", 0), Put(keys[1], b"", "1", 7)), deletes=(Delete(keys[2], 8), Delete(keys[3], 9))
    )
    found = [[], [kv_pb2.KeyValue(mod_revision=7)], [kv_pb2.KeyValue(mod_revision=9)], []]
    answers = [rpc_pb2.ResponseOp(response_range=rpc_pb2.RangeResponse(kvs=kvs)) for kvs in found]
    assert conflicts(commit, rpc_pb2.TxnResponse(responses=answers)) == [keys[2], keys[3]]


def test_commit_writes_its_cause_only_with_deletes() -> None:
    key = Key("n", "s", "i")
    for commit, keys in (
        (Commit(puts=(Put(key, b"", lease_name(5), 0),)), [LAYOUT.instance(key)]),
        (Commit(deletes=(Delete(key, 3),)), [LAYOUT.cause]),
    ):
        operations = LAYOUT.txn(commit).success
        assert [operation.request_put.key for operation in operations if operation.HasField("request_put")] == keys


# ---- what is told


def put(key: bytes, revision: int, value: bytes = b"", created: int = 1, lease: int = 5) -> Any:
    kv = kv_pb2.KeyValue(key=key, value=value, mod_revision=revision, create_revision=created, lease=lease)
    return kv_pb2.Event(type=kv_pb2.Event.PUT, kv=kv)


def delete(key: bytes, revision: int) -> Any:
    return kv_pb2.Event(type=kv_pb2.Event.DELETE, kv=kv_pb2.KeyValue(key=key, mod_revision=revision))


def name(number: int) -> bytes:
    return LAYOUT.instance(Key("n", "s", str(number)))


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[list[Any]], list[Delta]]:
    """Revisions as etcd has them, and what they mean."""
    revisions, deltas, revision = [], [], 10
    for size, cause in draw(st.lists(st.tuples(st.integers(1, 5), st.sampled_from([None, *Cause])), max_size=8)):
        revision += draw(st.integers(1, 3))
        kinds = draw(st.lists(st.booleans(), min_size=size, max_size=size))
        events = [(delete if gone else put)(name(number), revision) for number, gone in enumerate(kinds)]
        if cause is not None:
            events.insert(draw(st.integers(0, size)), put(LAYOUT.cause, revision, cause.value.encode()))
        keys = [(Key("n", "s", str(number)), gone) for number, gone in enumerate(kinds)]
        puts = tuple(Record(key, b"", lease_name(5), revision, 1) for key, gone in keys if not gone)
        deletes = tuple(Deleted(key, cause or Cause.EXPIRED) for key, gone in keys if gone)
        revisions.append(events)
        deltas.append(Delta(revision, puts, deletes))
    return revisions, deltas


@st.composite
def responses(draw: st.DrawFn, revisions: list[list[Any]]) -> list[Any]:
    """The same revisions as some server may send them: several in one response, a response in several fragments."""
    sent, batch = [], []
    for index, events in enumerate(revisions):
        batch += events
        if index == len(revisions) - 1 or draw(st.booleans()):
            while batch:
                size = draw(st.integers(1, len(batch)))
                sent.append(rpc_pb2.WatchResponse(events=batch[:size], fragment=size < len(batch)))
                batch = batch[size:]
    return sent


@given(st.data())
def test_one_delta_for_each_revision_however_it_is_cut(data: st.DataObject) -> None:
    revisions, deltas = data.draw(histories())
    telling = Telling(LAYOUT, Told("e", 10))
    told = []
    for response in data.draw(responses(revisions)):
        told += telling.feed(response)
        assert telling.told.revision == (told[-1].revision if told else 10), "nothing counts as told before it is"
    assert told == deltas


def test_what_was_told_is_not_told_again() -> None:
    telling = Telling(LAYOUT, Told("e", 10))
    events = [put(name(1), 10), put(name(2), 11)]
    assert [delta.revision for delta in telling.feed(rpc_pb2.WatchResponse(events=events))] == [11]
    assert telling.feed(rpc_pb2.WatchResponse(events=events)) == []


def test_foreign_keys_are_progress() -> None:
    telling = Telling(LAYOUT, Told("e", 10))
    response = rpc_pb2.WatchResponse(events=[put(LAYOUT.root + b"note", 12), delete(LAYOUT.root + b"instances/x", 13)])
    assert telling.feed(response) == [Progress(12), Progress(13)]


def test_progress_never_goes_back() -> None:
    telling = Telling(LAYOUT, Told("e", 10))
    assert [telling.progress(revision) for revision in (0, 12, 11)] == [Progress(10), Progress(12), Progress(12)]


def test_cause_nobody_knows_was_asked_for() -> None:
    telling = Telling(LAYOUT, Told("e", 10))
    (delta,) = telling.feed(rpc_pb2.WatchResponse(events=[put(LAYOUT.cause, 11, b"\xff?"), delete(name(1), 11)]))
    assert delta == Delta(11, deletes=(Deleted(Key("n", "s", "1"), Cause.DEREGISTERED),))


@pytest.mark.parametrize("event", [put(LAYOUT.epoch, 12, b"other"), delete(LAYOUT.epoch, 12)], ids=["put", "delete"])
def test_a_new_epoch_ends_the_telling(event: Any) -> None:
    telling = Telling(LAYOUT, Told("e", 10))
    with pytest.raises(EpochChanged):
        telling.feed(rpc_pb2.WatchResponse(events=[put(name(1), 11), event]))


def test_snapshot() -> None:
    kvs = [
        put(LAYOUT.cause, 3, b"drained").kv,
        put(LAYOUT.epoch, 2, b"0000000000070ce1 17").kv,
        put(name(1), 9, b"v", created=4, lease=0xABC).kv,
        put(LAYOUT.root + b"note", 5).kv,
    ]
    full = snapshot(LAYOUT, 0xC1, 11, kvs)
    assert (full.epoch, full.revision, full.fence, full.through) == ("c1.0000000000070ce1", 11, 17, 11)
    assert full.records == (Record(Key("n", "s", "1"), b"v", "0000000000000abc", 9, 4),)
    with pytest.raises(EpochChanged):
        snapshot(LAYOUT, 0xC1, 11, kvs[2:])


@pytest.mark.parametrize(
    ("version", "in_order"),
    [
        ("3.3.27", False),
        ("3.4.24", False),
        ("3.4.25", True),
        ("3.4.30", True),
        ("3.5.0", False),
        ("3.5.1", False),
        ("3.5.7", False),
        ("3.5.8", True),
        ("3.5.21", True),
        ("3.6.0-rc.2", True),
        ("3.7.0", True),
        ("4.0.0", True),
        ("", False),
    ],
)
def test_versions_whose_progress_comes_in_order(version: str, in_order: bool) -> None:
    assert asks_in_order(version) is in_order
