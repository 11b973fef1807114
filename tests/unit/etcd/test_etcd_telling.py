"""CORE of the etcd store: what etcd's answers add up to, however it cuts them up and whatever somebody else wrote."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_api.registry.etcd.v3 import etcd_pb2 as etcd
from registry_server.records import Cause, Deleted, Delta, Key, Progress, Record
from registry_server.stores.epoch import OrderLost
from registry_server.stores.etcd.leases import LeaseIds
from registry_server.stores.etcd.telling import SLICE, Loading, Reading, Telling
from registry_server.stores.etcd.wire import Layout, Vouched
from registry_server.stores.pace import Pace
from registry_server.stores.teller import Told

LAYOUT = Layout.below("/registry")
SECRET = b"s" * 32
LEASES = LeaseIds(SECRET)
LEASE = LEASES.number(15, 5)


def reading() -> Reading:
    return Reading(LAYOUT, LEASES, Pace(), lambda key, why: None)


def telling_from(revision: int) -> Telling:
    return Telling(reading(), Told("e", revision), SECRET)


# ---- changes


def put(key: bytes, revision: int, value: bytes = b"", created: int = 1, lease: int = LEASE) -> etcd.Event:
    kv = etcd.KeyValue(key=key, value=value, mod_revision=revision, create_revision=created, lease=lease)
    return etcd.Event(type=etcd.Event.PUT, kv=kv)


def delete(key: bytes, revision: int) -> etcd.Event:
    return etcd.Event(type=etcd.Event.DELETE, kv=etcd.KeyValue(key=key, mod_revision=revision))


def name(number: int) -> bytes:
    return LAYOUT.record(Key("n", "s", str(number)))


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[list[etcd.Event]], list[Delta]]:
    """Revisions as etcd has them, and what they mean."""
    revisions, deltas, revision = [], [], 10
    for size, cause in draw(st.lists(st.tuples(st.integers(1, 5), st.sampled_from([None, *Cause])), max_size=8)):
        revision += draw(st.integers(1, 3))
        kinds = draw(st.lists(st.booleans(), min_size=size, max_size=size))
        events = [(delete if gone else put)(name(number), revision) for number, gone in enumerate(kinds)]
        if cause is not None:
            events.insert(draw(st.integers(0, size)), put(LAYOUT.cause, revision, cause.value.encode()))
        keys = [(Key("n", "s", str(number)), gone) for number, gone in enumerate(kinds)]
        puts = tuple(Record(key, b"", LEASES.id(LEASE), revision, 1) for key, gone in keys if not gone)
        deletes = tuple(Deleted(key, cause or Cause.EXPIRED) for key, gone in keys if gone)
        revisions.append(events)
        deltas.append(Delta(revision, puts, deletes))
    return revisions, deltas


@st.composite
def responses(draw: st.DrawFn, revisions: list[list[etcd.Event]]) -> list[etcd.WatchResponse]:
    """The same revisions as some server may send them: several in one response, a response in several fragments."""
    sent, batch = [], []
    for index, events in enumerate(revisions):
        batch += events
        if index == len(revisions) - 1 or draw(st.booleans()):
            while batch:
                size = draw(st.integers(1, len(batch)))
                sent.append(etcd.WatchResponse(events=batch[:size], fragment=size < len(batch)))
                batch = batch[size:]
    return sent


def fed(telling: Telling, response: etcd.WatchResponse) -> list[Delta | Progress]:
    """The events that a response completes."""
    return list(telling.feed(response))


@given(st.data())
def test_one_delta_for_each_revision_however_it_is_cut(data: st.DataObject) -> None:
    revisions, deltas = data.draw(histories())
    telling = telling_from(10)
    told = []
    for response in data.draw(responses(revisions)):
        told += fed(telling, response)
        assert telling.told.revision == (told[-1].revision if told else 10), "nothing counts as told before it is"
    assert told == deltas


@pytest.mark.parametrize("size", [1, SLICE, SLICE + 1, 777, 5000])
def test_what_expires_at_once_in_great_numbers_is_told_in_slices(size: int) -> None:
    """However etcd cuts it. All but the last come before the revision, so that nobody takes a part for the whole."""
    gone = [delete(name(number), 12) for number in range(3 * SLICE + 7)]
    events = [put(name(0), 11), *gone, put(name(1), 13)]
    telling, told = telling_from(10), list[Delta | Progress]()
    for start in range(0, len(events), size):
        response = etcd.WatchResponse(events=events[start : start + size], fragment=start + size < len(events))
        told += fed(telling, response)
    assert (told[0].revision, told[-1].revision, telling.told.revision) == (11, 13, 13)
    slices = [delta for delta in told[1:-1] if isinstance(delta, Delta)]
    assert [delta.revision for delta in slices] == [11] * (len(slices) - 1) + [12]
    assert max(len(delta.deletes) for delta in slices) <= SLICE
    assert {deleted.cause for delta in slices for deleted in delta.deletes} == {Cause.EXPIRED}
    assert [it.key.id for delta in slices for it in delta.deletes] == [f"{number}" for number in range(3 * SLICE + 7)]


def test_a_write_of_many_is_never_cut() -> None:
    telling = telling_from(10)
    events = [*(delete(name(number), 11) for number in range(100)), put(LAYOUT.cause, 11, b"deregistered")]
    assert fed(telling, etcd.WatchResponse(events=events[:60], fragment=True)) == []
    (delta,) = fed(telling, etcd.WatchResponse(events=events[60:]))
    assert isinstance(delta, Delta)
    assert ({it.cause for it in delta.deletes}, len(delta.deletes)) == ({Cause.DEREGISTERED}, 100)


def test_what_was_told_is_not_told_again() -> None:
    telling = telling_from(10)
    events = [put(name(1), 10), put(name(2), 11)]
    assert [delta.revision for delta in fed(telling, etcd.WatchResponse(events=events))] == [11]
    assert fed(telling, etcd.WatchResponse(events=events)) == []


def test_foreign_keys_are_progress() -> None:
    telling = telling_from(10)
    response = etcd.WatchResponse(events=[put(LAYOUT.root + b"note", 12), delete(LAYOUT.root + b"instances/x", 13)])
    assert fed(telling, response) == [Progress(12), Progress(13)]


def test_progress_never_goes_back() -> None:
    telling = telling_from(10)
    assert [telling.progress(revision) for revision in (0, 12, 11)] == [Progress(10), Progress(12), Progress(12)]


def test_cause_nobody_knows_was_asked_for() -> None:
    telling = telling_from(10)
    (delta,) = fed(telling, etcd.WatchResponse(events=[put(LAYOUT.cause, 11, b"\xff?"), delete(name(1), 11)]))
    assert delta == Delta(11, deletes=(Deleted(Key("n", "s", "1"), Cause.DEREGISTERED),))


@pytest.mark.parametrize("event", [put(LAYOUT.epoch, 12, b"other"), delete(LAYOUT.epoch, 12)], ids=["put", "delete"])
def test_a_new_epoch_ends_the_telling(event: etcd.Event) -> None:
    telling = telling_from(10)
    with pytest.raises(OrderLost):
        fed(telling, etcd.WatchResponse(events=[put(name(1), 11), event]))


@pytest.mark.parametrize(
    "event",
    [put(LAYOUT.secret, 12, b"other"), put(LAYOUT.secret, 12, bytes(32).hex().encode()), delete(LAYOUT.secret, 12)],
)
def test_another_secret_ends_the_telling(event: etcd.Event) -> None:
    with pytest.raises(OrderLost):
        fed(telling_from(10), etcd.WatchResponse(events=[event]))


def test_the_same_secret_written_again_is_progress() -> None:
    event = put(LAYOUT.secret, 12, SECRET.hex().encode())
    assert fed(telling_from(10), etcd.WatchResponse(events=[event])) == [Progress(12)]


def test_what_was_vouched_for_is_heard() -> None:
    telling = telling_from(10)
    assert fed(telling, etcd.WatchResponse(events=[put(LAYOUT.vouched, 12, b"hello")])) == [Progress(12)]
    assert telling.vouched_at == 0
    value = Vouched("0" * 16, 11).value
    assert fed(telling, etcd.WatchResponse(events=[put(LAYOUT.vouched, 13, value)])) == [Progress(13)]
    assert telling.vouched_at == 13


# ---- full sets


def test_full_set() -> None:
    loading = Loading(reading())
    loading.add([put(LAYOUT.cause, 3, b"drained").kv, put(LAYOUT.epoch, 2, b"0000000000070ce1 17").kv])
    loading.add([put(name(1), 9, b"v", created=4).kv])
    full = loading.snapshot(0xC1, 11, 13)
    assert (full.epoch, full.revision, full.fence, full.through) == ("c1.0000000000070ce1", 11, 17, 13)
    assert full.records == (Record(Key("n", "s", "1"), b"v", LEASES.id(LEASE), 9, 4),)


@pytest.mark.parametrize("kvs", [[], [put(LAYOUT.epoch, 2, b"hello").kv]], ids=["absent", "broken"])
def test_full_set_without_an_epoch_leads_nowhere(kvs: list[etcd.KeyValue]) -> None:
    loading = Loading(reading())
    loading.add(kvs)
    with pytest.raises(OrderLost):
        loading.snapshot(0xC1, 11, 13)


@pytest.mark.parametrize("lease", [0, 5, -1, 2**63 - 1, LeaseIds(b"another").number(15, 1)])
def test_a_record_under_no_lease_of_ours_has_none(lease: int) -> None:
    record = reading().record(put(name(1), 9, lease=lease).kv)
    assert record is not None
    assert record.lease_id == ""


# ---- keys that are not ours


def test_foreign_keys_are_noted_and_skipped() -> None:
    noted: list[bytes] = []
    strange = [LAYOUT.root + rest for rest in (b"note", b"instances/x", b"instances/a/b/\xff", b"instances/a/b/%41")]
    read = Reading(LAYOUT, LEASES, Pace(), lambda key, why: noted.append(key))
    telling = Telling(read, Told("e", 10), SECRET)
    events = [put(key, 12, b"hello") for key in strange]
    assert fed(telling, etcd.WatchResponse(events=[*events, put(name(1), 12)])) == [
        Delta(12, (Record(Key("n", "s", "1"), b"", LEASES.id(LEASE), 12, 1),))
    ]
    assert noted == strange
    assert fed(telling, etcd.WatchResponse(events=[delete(key, 13) for key in strange])) == [Progress(13)]


def test_records_show_the_shortest_time_to_live() -> None:
    pace = Pace()
    usual_s = pace.idle_s
    Reading(LAYOUT, LEASES, pace, lambda key, why: None).record(put(name(1), 9, lease=LEASES.number(2, 0)).kv)
    assert pace.idle_s < usual_s
