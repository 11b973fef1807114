"""Ghosts and strays: what the store should not have is put right by whichever replica is first, and never forgotten."""

import math
from typing import Any

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.catalog import Catalog
from registry_server.mending import MAX_DELETES, Mending
from registry_server.model import Entry
from registry_server.records import Cause, Commit, Delete, Delta, Key, Put, Record
from tests.support.core import gone, key, loaded, put, record

ONE, TWO = key("one"), key("two")
TTL_S = 15
HOST: dict[str, Any] = {"host": "10.9.9.9", "port": 7}
NOW = 1000.0


class Replica:
    """A catalog, and what is to be mended."""

    def __init__(self, *keys: Key, lease: str = "lease", **fields: Any) -> None:
        self.now = NOW
        self.ill_at = -math.inf
        self.catalog: Catalog = loaded(*(record(it, 5, lease=lease, ttl={"seconds": TTL_S}, **fields) for it in keys))
        self.mending = Mending(lambda ttl_s: self.ill_at + ttl_s)

    def tell(self, delta: Delta) -> bool:
        deleted = [it.key for it in delta.deletes]
        has_more = self.mending.note(self.catalog.apply(delta), deleted, self.now)
        for flaw in self.catalog.take_new_flaws():
            self.mending.note_flaw(flaw, self.catalog.get(flaw.key), self.now)
        return has_more

    def former(self, name: Key) -> Entry:
        """What the catalog shows."""
        entry = self.catalog.get(name)
        assert entry is not None
        return entry

    def next(self) -> Commit | None:
        return self.mending.next(self.now)


def stray(revision: int, name: Key = ONE, **fields: Any) -> Delta:
    return put(revision, name, lease="", ttl={"seconds": TTL_S}, **fields)


# ---- strays


def test_record_that_lost_its_lease_is_put_back_as_it_was() -> None:
    here = Replica(ONE, lease="owner", metadata={"a": "b"})
    before = here.catalog.get(ONE)
    assert before is not None
    assert here.tell(stray(11, metadata={"a": "changed by hand"}))
    commit = here.next()
    assert commit is not None
    ((name, value, lease_id, expect),) = commit.puts
    assert (name, lease_id, expect) == (ONE, "owner", 11)
    restored, former = pb.Instance.FromString(value), before.parse()
    assert (restored.metadata["a"], restored.generation) == ("b", former.generation)
    assert (restored.revision, restored.create_revision) == (0, 0)


def test_event_of_the_mended_record_ends_it() -> None:
    here = Replica(ONE)
    here.tell(stray(11))
    commit = here.next()
    assert commit is not None
    here.mending.done(commit)
    assert here.next() is None
    here.tell(put(12, ONE))
    assert len(here.mending) == 0
    assert here.mending.next_due >= NOW + TTL_S
    here.now += 2 * TTL_S
    assert here.next() is None


def test_written_again_before_it_was_mended_it_goes_back_to_the_last_who_held_it() -> None:
    here = Replica(ONE, lease="owner")
    here.tell(stray(11))
    here.tell(stray(12))
    commit = here.next()
    assert commit is not None
    assert [(it.lease_id, it.expect) for it in commit.puts] == [("owner", 12)]


def test_without_a_living_holder_it_is_deleted_after_one_ttl() -> None:
    here = Replica(ONE)
    here.tell(stray(11))
    commit = here.next()
    assert commit is not None
    here.mending.failed(commit, (), here.now)  # there is no such lease
    assert here.next() is None
    assert here.mending.next_due == NOW + TTL_S
    here.now = NOW + TTL_S
    assert here.next() == Commit(deletes=(Delete(ONE, 11),), cause=Cause.EXPIRED)


def test_nobody_knows_its_holder() -> None:
    """It is in the first full set, or was never registered."""
    here = Replica()
    assert here.tell(stray(11))
    assert here.next() is None
    here.now += TTL_S
    assert here.next() == Commit(deletes=(Delete(ONE, 11),), cause=Cause.EXPIRED)


def test_time_in_which_its_owner_could_do_nothing_does_not_count() -> None:
    here = Replica()
    here.tell(stray(11))
    here.ill_at = NOW + 10
    here.now = NOW + TTL_S
    assert here.next() is None
    assert here.mending.next_due == NOW + 10 + TTL_S
    here.now = NOW + 10 + TTL_S
    assert here.next() is not None


def test_registered_again_it_is_no_stray() -> None:
    here = Replica()
    here.tell(stray(11))
    here.tell(put(12, ONE))
    here.now += 10 * TTL_S
    assert here.next() is None


def test_what_cannot_be_deleted_is_tried_again_after_another_ttl() -> None:
    here = Replica()
    here.tell(stray(11))
    here.now += TTL_S
    commit = here.next()
    assert commit is not None
    here.mending.failed(commit, [ONE], here.now)
    assert here.next() is None
    here.now += TTL_S
    assert here.next() == commit


def test_deleted_it_is_not_deleted_again_before_the_event_comes() -> None:
    here = Replica()
    here.tell(stray(11))
    here.now += TTL_S
    commit = here.next()
    assert commit is not None
    here.mending.done(commit)
    assert here.next() is None
    assert len(here.mending) == 0


def test_strays_are_deleted_in_steps() -> None:
    names = [key(f"{number}") for number in range(MAX_DELETES + 1)]
    here = Replica()
    here.tell(stray(11)._replace(puts=tuple(record(it, 11, lease="") for it in names)))
    here.now += TTL_S
    deleted: list[Key] = []
    while (commit := here.next()) is not None:
        assert len(commit.deletes) <= MAX_DELETES
        deleted += [it.key for it in commit.deletes]
        here.mending.done(commit)
    assert sorted(deleted) == sorted(names)


def test_what_is_no_instance_any_more_is_put_back_as_it_was() -> None:
    """Over and over, and by the last whose lease is known."""
    here = Replica(ONE, lease="owner")
    for revision in (11, 12):
        here.tell(Delta(revision, (Record(ONE, b"hello", "", revision, 5),)))
        commit = here.next()
        assert commit is not None
        assert [(it.lease_id, it.expect) for it in commit.puts] == [("owner", revision)]
    assert pb.Instance.FromString(commit.puts[0].value).host == here.former(ONE).parse().host


def test_what_is_no_instance_any_more_is_deleted_after_one_ttl_when_its_holder_is_dead() -> None:
    here = Replica(ONE)
    here.tell(Delta(11, (Record(ONE, b"hello", "", 11, 5),)))
    commit = here.next()
    assert commit is not None
    here.mending.failed(commit, (), here.now)
    assert here.mending.next_due == NOW + TTL_S
    here.now += TTL_S
    assert here.next() == Commit(deletes=(Delete(ONE, 11),), cause=Cause.EXPIRED)


def test_what_never_was_an_instance_is_left_alone() -> None:
    here = Replica()
    here.tell(Delta(11, (Record(ONE, b"hello", "", 11, 11),)))
    here.now += 100 * TTL_S
    assert here.next() is None


def test_copy_without_a_lease_that_takes_no_address_is_deleted_after_one_ttl() -> None:
    here = Replica(ONE, **HOST)
    here.tell(stray(11, TWO, **HOST))
    assert list(here.catalog.keys()) == [ONE]
    assert here.next() is None
    here.now += TTL_S
    assert here.next() == Commit(deletes=(Delete(TWO, 11),), cause=Cause.EXPIRED)


# ---- ghosts


def test_ghost_is_deleted() -> None:
    here = Replica()
    here.tell(put(11, ONE, **HOST))
    assert not here.tell(put(12, ONE, **HOST))
    assert here.tell(put(13, TWO, **HOST))
    assert here.next() == Commit(deletes=(Delete(ONE, 12),), cause=Cause.REPLACED)


def test_what_the_store_deleted_itself_is_no_ghost() -> None:
    here = Replica()
    here.tell(put(11, ONE, **HOST))
    here.tell(put(12, TWO, **HOST)._replace(deletes=gone(12, ONE, cause=Cause.REPLACED).deletes))
    assert here.next() is None


def test_no_ghost_is_forgotten_however_many_there_are() -> None:
    names = [key(f"{number}") for number in range(3000)]
    here = Replica()
    here.tell(Delta(11, tuple(record(it, 11, host="10.1.1.1", port=place + 1) for place, it in enumerate(names))))
    for place in range(len(names)):
        here.tell(put(12 + place, key(f"new-{place}"), host="10.1.1.1", port=place + 1))
    deleted: set[Key] = set()
    while (commit := here.next()) is not None:
        assert commit.cause is Cause.REPLACED
        deleted |= {it.key for it in commit.deletes}
        here.mending.done(commit)
    assert deleted == set(names)


def test_one_that_changed_meanwhile_does_not_keep_the_others() -> None:
    here = Replica()
    here.tell(put(11, ONE, **HOST))
    here.tell(put(12, TWO, **HOST))
    here.tell(put(13, key("three"), **HOST))
    commit = here.next()
    assert commit is not None
    here.mending.failed(commit, [ONE], here.now)
    assert here.next() == Commit(deletes=(Delete(TWO, 12),), cause=Cause.REPLACED)


def test_ghost_that_comes_again_while_it_is_deleted_is_deleted_again() -> None:
    here = Replica()
    here.tell(put(11, ONE, **HOST))
    here.tell(put(12, TWO, **HOST))
    first = here.next()
    assert first is not None
    here.tell(put(13, ONE, **HOST))  # takes it back
    here.tell(put(14, TWO, **HOST))
    here.mending.done(first)
    assert here.next() is not None
    deletes = {it for commit in commits_of(here) for it in commit.deletes}
    assert deletes == {Delete(ONE, 13)}


def commits_of(here: Replica) -> list[Commit]:
    commits = []
    while (commit := here.next()) is not None:
        commits.append(commit)
        here.mending.done(commit)
    return commits


def test_put_comes_back_only_once() -> None:
    here = Replica(ONE)
    here.tell(stray(11))
    (commit,) = commits_of(here)
    assert isinstance(commit.puts[0], Put)
