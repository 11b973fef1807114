"""What every store promises about writing records and telling of it."""

import asyncio
from itertools import pairwise

import pytest

from registry_server.records import Author, Cause, Commit, Delete, Deleted, Delta, Key, Put, Record, Snapshot
from registry_server.stores.base import Conflict, NoSuchLease
from registry_server.testing.recording import Running


class Commits:
    """Writing records, and what is told of it."""

    # ---- ResetFirst

    async def test_snapshot_first_and_empty(self, run: Running) -> None:
        first = run.seen.events[0]
        assert isinstance(first, Snapshot)
        assert first.epoch
        assert first.records == ()

    async def test_snapshot_has_all_that_is_there(self, run: Running) -> None:
        lease = await granted(run)
        for number in range(30):
            await run.put(run.key(), lease, value=b"%d" % number)
        await run.delete(run.key("instance-7"))
        epoch, view = run.seen.epoch, dict(run.seen.view)
        await run.stop()
        await run.start()
        first = run.seen.events[0]
        assert isinstance(first, Snapshot)
        assert first.epoch == epoch
        assert {record.key: record for record in first.records} == view
        assert await run.put(run.key("one-more"), lease) > first.revision

    async def test_commit_of_nothing_says_how_far_the_store_is_and_changes_nothing(self, run: Running) -> None:
        lease = await granted(run)
        revision = await run.put(run.key(), lease)
        told = len(run.seen.events)
        assert await run.store.commit(Commit()) >= revision
        before = await run.store.commit(Commit())
        later = await run.put(run.key("another"), lease)
        assert revision <= before < later <= await run.store.commit(Commit())
        assert [event for event in run.seen.events[told:] if isinstance(event, Delta) and event.revision != later] == []

    # ---- puts

    async def test_put_is_told_as_one_delta(self, run: Running) -> None:
        lease, key = await granted(run), run.key()
        revision = await run.put(key, lease, value=b"hello")
        record = Record(key, b"hello", lease, revision, create_revision=revision)
        assert run.seen.at(revision) == Delta(revision, puts=(record,))

    async def test_overwriting_keeps_the_create_revision(self, run: Running) -> None:
        lease, key = await granted(run), run.key()
        created = await run.put(key, lease, value=b"one")
        changed = await run.put(key, lease, value=b"two")
        assert changed > created
        assert run.seen.view[key] == Record(key, b"two", lease, changed, create_revision=created)

    async def test_a_key_that_left_is_created_anew(self, run: Running) -> None:
        lease, key = await granted(run), run.key()
        await run.put(key, lease)
        await run.delete(key)
        revision = await run.put(key, lease, expect=0)
        assert run.seen.view[key].create_revision == revision

    async def test_many_records_in_one_commit_are_one_delta(self, run: Running) -> None:
        lease = await granted(run)
        keys = [run.key() for _ in range(100)]
        revision = await run.commit(Commit(puts=tuple(Put(key, str(key).encode(), lease, 0) for key in keys)))
        delta = run.seen.at(revision)
        assert {record.key: record.value for record in delta.puts} == {key: str(key).encode() for key in keys}

    @pytest.mark.parametrize(
        "key",
        [
            Key("default", "spiel-dienst", "größe-✓-日本-🎲"),
            Key("a/b", "c%2Fd", "e%f/"),
            Key("default", "player", "a b\tc"),
            Key("ns", "player", "player"),
            Key("n" * 250, "s" * 250, "i" * 250),
        ],
        ids=["unicode", "slashes", "blanks", "alike", "long"],
    )
    async def test_names_come_back_as_they_were(self, run: Running, key: Key) -> None:
        lease = await granted(run)
        revision = await run.put(key, lease)
        assert [record.key for record in run.seen.at(revision).puts] == [key]
        await run.delete(key)
        assert run.seen.view == {}

    async def test_names_that_look_alike_are_different(self, run: Running) -> None:
        lease = await granted(run)
        keys = [
            Key("a", "b/c", "d"),
            Key("a/b", "c", "d"),
            Key("a", "b", "c/d"),
            Key("a", "b%2Fc", "d"),
            Key("A", "b/c", "d"),
        ]
        for key in keys:
            await run.put(key, lease, value=repr(key).encode(), expect=0)
        assert {key: record.value for key, record in run.seen.view.items()} == {key: repr(key).encode() for key in keys}

    @pytest.mark.parametrize("value", [b"", bytes(range(256)), "größe ✓ 🎲".encode(), b"x" * 100_000], ids=len)
    async def test_values_come_back_as_they_were(self, run: Running, value: bytes) -> None:
        lease, key = await granted(run), run.key()
        await run.put(key, lease, value=value)
        assert run.seen.view[key].value == value

    # ---- conflicts

    async def test_creating_what_is_there_conflicts(self, run: Running) -> None:
        lease, key = await granted(run), run.key()
        await run.put(key, lease, value=b"first")
        with pytest.raises(Conflict) as refused:
            await run.put(key, lease, value=b"second", expect=0)
        assert refused.value.keys == (key,)
        await nothing_changed(run, key, b"first")

    async def test_replacing_an_older_revision_conflicts(self, run: Running) -> None:
        lease, key = await granted(run), run.key()
        old = await run.put(key, lease, value=b"first")
        await run.put(key, lease, value=b"second")
        with pytest.raises(Conflict):
            await run.put(key, lease, value=b"third", expect=old)
        await nothing_changed(run, key, b"second")

    async def test_replacing_what_left_conflicts(self, run: Running) -> None:
        lease, key = await granted(run), run.key()
        old = await run.put(key, lease)
        await run.delete(key)
        for commit in (Commit(puts=(Put(key, b"", lease, old),)), Commit(deletes=(Delete(key, old),))):
            with pytest.raises(Conflict) as refused:
                await run.store.commit(commit)
            assert refused.value.keys == (key,)
        await nothing_changed(run)

    async def test_deleting_an_older_revision_conflicts(self, run: Running) -> None:
        lease, key = await granted(run), run.key()
        old = await run.put(key, lease, value=b"first")
        await run.put(key, lease, value=b"second")
        with pytest.raises(Conflict):
            await run.store.commit(Commit(deletes=(Delete(key, old),)))
        await nothing_changed(run, key, b"second")

    async def test_conflict_names_the_keys_that_differ_and_no_other(self, run: Running) -> None:
        lease = await granted(run)
        same, changed, gone, new = (run.key() for _ in range(4))
        revisions = {key: await run.put(key, lease) for key in (same, changed, gone)}
        await run.put(changed, lease)
        await run.delete(gone)
        with pytest.raises(Conflict) as refused:
            await run.store.commit(
                Commit(
                    puts=(Put(changed, b"", lease, revisions[changed]), Put(same, b"", lease, revisions[same])),
                    deletes=(Delete(gone, revisions[gone]),),
                )
            )
        assert set(refused.value.keys) == {changed, gone}
        assert new not in run.seen.view

    # ---- Atomic

    async def test_all_or_nothing(self, run: Running) -> None:
        lease, kept, other = await granted(run), run.key(), run.key()
        revision = await run.put(kept, lease, value=b"kept")
        with pytest.raises(Conflict):
            await run.store.commit(Commit(puts=(Put(other, b"", lease, 0), Put(kept, b"lost", lease, revision + 1000))))
        with pytest.raises(Conflict):
            await run.store.commit(Commit(puts=(Put(other, b"", lease, 5),), deletes=(Delete(kept, revision),)))
        with pytest.raises(NoSuchLease):
            await run.store.commit(
                Commit(puts=(Put(other, b"", lease, 0), Put(run.key(), b"", "0123456789abcdef", 0)), deletes=())
            )
        await nothing_changed(run, kept, b"kept")

    async def test_puts_and_deletes_of_a_commit_are_one_delta(self, run: Running) -> None:
        lease, old, new, both = await granted(run), run.key(), run.key(), run.key()
        for key in (old, both):
            await run.put(key, lease)
        view = dict(run.seen.view)
        puts = (Put(new, b"n", lease, 0), Put(both, b"b", lease, view[both].revision))
        revision = await run.commit(Commit(puts, (Delete(old, view[old].revision),), Cause.REPLACED))
        delta = run.seen.at(revision)
        assert delta.deletes == (Deleted(old, Cause.REPLACED),)
        assert {record.key for record in delta.puts} == {new, both}
        assert set(run.seen.view) == {new, both}

    @pytest.mark.parametrize("cause", Cause)
    async def test_causes(self, run: Running, cause: Cause) -> None:
        lease, one, two = await granted(run), run.key(), run.key()
        revisions = [await run.put(key, lease) for key in (one, two)]
        deletes = tuple(Delete(key, revision) for key, revision in zip((one, two), revisions, strict=True))
        revision = await run.commit(Commit(deletes=deletes, cause=cause))
        assert set(run.seen.at(revision).deletes) == {Deleted(one, cause), Deleted(two, cause)}

    async def test_cause_is_of_its_own_commit(self, run: Running) -> None:
        lease, one, two = await granted(run), run.key(), run.key()
        for key in (one, two):
            await run.put(key, lease)
        first = await run.commit(Commit(deletes=(Delete(one, run.seen.view[one].revision),), cause=Cause.DRAINED))
        second = await run.commit(Commit(deletes=(Delete(two, run.seen.view[two].revision),), cause=Cause.REPLACED))
        assert run.seen.at(first).deletes == (Deleted(one, Cause.DRAINED),)
        assert run.seen.at(second).deletes == (Deleted(two, Cause.REPLACED),)

    async def test_who_asked_is_told_with_each(self, run: Running) -> None:
        """However many commits of one moment share a revision, and whatever the names of their authors hold."""
        lease, keys = await granted(run), [run.key() for _ in range(4)]
        authors = [
            Author("ops", "10.0.0.7"),
            Author('a\tb\n{"ü"}', "::1", "its id, or so"),
            Author(peer="unix"),
            Author(),
        ]
        for key in keys:
            await run.put(key, lease)
        commits = [
            Commit(deletes=(Delete(key, run.seen.view[key].revision),), author=author)
            for key, author in zip(keys, authors, strict=True)
        ]
        await asyncio.gather(*map(run.commit, commits))
        told = {it.key: it for delta in run.seen.of(Delta) for it in delta.deletes}
        assert [told[key].author for key in keys] == authors

    @pytest.mark.parametrize(
        "lease", ["0123456789abcdef", "7fffffffffffffff", "0", "0000000000000000", "", "no lease", "ff" * 8]
    )
    async def test_unknown_lease(self, run: Running, lease: str) -> None:
        with pytest.raises(NoSuchLease):
            await run.put(run.key(), lease)
        await nothing_changed(run)

    # ---- Ordered, Complete

    async def test_every_commit_is_told_once_and_in_order(self, run: Running) -> None:
        lease = await granted(run)
        keys = [run.key() for _ in range(200)]
        revisions = await asyncio.gather(*(run.store.commit(Commit(puts=(Put(key, b"", lease, 0),))) for key in keys))
        await run.seen.wait_revision(max(revisions))
        deltas = run.seen.of(Delta)
        assert all(earlier.revision < later.revision for earlier, later in pairwise(deltas))
        # Commits of one moment may share a revision; each is told once, at the one that was returned.
        told = [(put.key, delta.revision) for delta in deltas for put in delta.puts]
        assert sorted(told) == sorted(zip(keys, revisions, strict=True))

    async def test_what_fails_takes_nothing_from_what_comes_with_it(self, run: Running) -> None:
        lease, ended = await granted(run), await granted(run)
        await run.store.release(ended)
        causes = {run.key(): cause for cause in Cause}
        for key in causes:
            await run.put(key, lease)
        good, old, lost, absent = [run.key() for _ in range(20)], run.key(), run.key(), run.key()
        commits = [Commit(puts=(Put(key, b"", lease, 0),)) for key in good]
        commits[3:3] = [Commit(puts=(Put(lost, b"", ended, 0),)), Commit(puts=(Put(old, b"", lease, 7),))]
        commits += [Commit((), (Delete(key, run.seen.view[key].revision),), cause) for key, cause in causes.items()]
        commits.append(Commit(deletes=(Delete(absent, 7),)))
        outcomes = await asyncio.gather(*map(run.store.commit, commits), return_exceptions=True)
        failed = {at: outcome for at, outcome in enumerate(outcomes) if not isinstance(outcome, int)}
        assert {at: type(outcome) for at, outcome in failed.items()} == {
            3: NoSuchLease,
            4: Conflict,
            len(commits) - 1: Conflict,
        }
        assert [it.keys for it in failed.values() if isinstance(it, Conflict)] == [(old,), (absent,)]
        await run.seen.wait_revision(max(outcome for outcome in outcomes if isinstance(outcome, int)))
        assert set(run.seen.view) == set(good)
        assert {it for delta in run.seen.of(Delta) for it in delta.deletes} == {Deleted(*it) for it in causes.items()}

    async def test_of_many_who_write_the_same_key_one_wins(self, run: Running) -> None:
        lease, key = await granted(run), run.key()
        for _ in range(5):
            expect = run.seen.view[key].revision if key in run.seen.view else 0
            values = [b"%d" % number for number in range(20)]
            attempts = [run.store.commit(Commit(puts=(Put(key, value, lease, expect),))) for value in values]
            outcomes = await asyncio.gather(*attempts, return_exceptions=True)
            ((winner, revision),) = [(at, outcome) for at, outcome in enumerate(outcomes) if isinstance(outcome, int)]
            assert all(isinstance(outcome, Conflict) for at, outcome in enumerate(outcomes) if at != winner)
            await run.seen.wait_revision(revision)
            assert run.seen.view[key].value == values[winner]

    async def test_no_increment_is_lost(self, run: Running) -> None:
        lease, key = await granted(run), run.key()
        await run.put(key, lease, value=b"0")

        async def increment() -> None:
            while True:
                record = run.seen.view[key]
                try:
                    await run.put(key, lease, value=b"%d" % (int(record.value) + 1), expect=record.revision)
                except Conflict:
                    await run.seen.wait_revision(record.revision + 1)
                else:
                    return

        await asyncio.gather(*(increment() for _ in range(20)))
        assert run.seen.view[key].value == b"20"

    # ---- the fence

    async def test_fence_and_revision_never_come_twice(self, run: Running) -> None:
        first = run.seen.of(Snapshot)[0]
        given_out = first.fence + await run.put(run.key(), await granted(run))
        await run.stop()
        await run.start()
        again = run.seen.of(Snapshot)[0]
        assert (again.epoch, again.fence) == (first.epoch, first.fence)
        assert again.fence + again.revision >= given_out
        assert first.through >= first.revision > 0


async def granted(run: Running) -> str:
    return (await run.store.grant(60)).id


async def nothing_changed(run: Running, key: Key | None = None, value: bytes = b"") -> None:
    """The next thing told is the next commit, and the view is what it was."""
    view, deltas = dict(run.seen.view), len(run.seen.of(Delta))
    marker = run.key("marker")
    await run.put(marker, await granted(run))
    assert len(run.seen.of(Delta)) == deltas + 1
    assert {key: record for key, record in run.seen.view.items() if key != marker} == view
    if key is not None:
        assert view[key].value == value
