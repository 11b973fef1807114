"""Several backends as one: which may be away, who is brought up to date, and which of several servers writes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_server.records import Away, Back, Commit, Key, Outcome, Put, Snapshot
from registry_server.stores import has_password, hidden, open_store
from registry_server.stores.backend import Check, ChecksFailed, Item
from registry_server.stores.base import BadStoreURL, Refused, StoreAway
from registry_server.stores.leased import Leased
from registry_server.stores.mirror import member as members
from registry_server.stores.mirror import tenure
from registry_server.stores.mirror.backend import MirrorBackend, Write
from registry_server.stores.mirror.state import (
    MIRROR,
    NOBODY,
    Ballot,
    Contents,
    Lot,
    Stand,
    Version,
    begun,
    held_of,
    lacking,
    packed,
    part_of,
    take,
)
from registry_server.stores.mirror.url import MirrorURL, mirror_url, open_mirror
from registry_server.testing import Running, running
from tests.support.backend import DictBackend, Link
from tests.support.waiting import eventually_async

TTL_S = 60.0


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenure, "BEAT_S", 0.1)
    monkeypatch.setattr(tenure, "GONE_S", 1.0)
    monkeypatch.setattr(members, "BACKOFF_MAX_S", 0.2)


def holds(backend: DictBackend) -> dict[str, bytes]:
    """The values in one backend, without those that only move on."""
    items = {name: item for item in backend.items.values() if (name := item.name) != MIRROR}
    return {name: item.value.partition(b"\n")[2] for name, item in items.items() if name != "beat"}


async def alike(backends: Sequence[DictBackend], *keys: Key) -> None:
    """All of them come to hold the same, and these records."""
    await eventually_async(lambda: len({str(sorted(holds(it).items())) for it in backends}) == 1, what="all alike")
    names = {name.rpartition("/")[2] for name in holds(backends[0]) if name.startswith("instances/")}
    assert names == {key.id for key in keys}


class Mirrored:
    """Some backends, and a link to each for every server."""

    def __init__(self, count: int, most: int = 1_000) -> None:
        self.backends = [DictBackend() for _ in range(count)]
        self._most = most

    def server(self, write: Write = Write.QUORUM) -> tuple[Leased, list[Link]]:
        links = [Link(backend, most=self._most) for backend in self.backends]
        return Leased(MirrorBackend({f"store {nth}": link for nth, link in enumerate(links)}, write)), links


@contextlib.asynccontextmanager
async def serving(mirrored: Mirrored, write: Write = Write.QUORUM) -> AsyncIterator[tuple[Running, list[Link]]]:
    store, links = mirrored.server(write)
    async with running(store) as run:
        yield run, links


async def held_by(run: Running, *names: str) -> tuple[str, list[Key]]:
    """A lease, and records under it."""
    lease = (await run.store.grant(TTL_S)).id
    keys = [run.key(name) for name in names]
    for key in keys:
        await run.put(key, lease)
    return lease, keys


# ---- one is away


async def test_one_of_three_may_be_away_and_comes_to_hold_what_it_missed() -> None:
    mirrored = Mirrored(3)
    async with serving(mirrored) as (run, links):
        lease, (one, two) = await held_by(run, "one", "two")
        for link in links:
            link.cut()
            three = run.key()
            await run.put(three, lease)
            await run.delete(one)
            await run.put(one, lease, value=b"anew", expect=0)
            link.mend()
            await alike(mirrored.backends, *run.seen.view)
        assert run.seen.of(Away) == []
        assert {one, two} < run.seen.view.keys()


@pytest.mark.parametrize("silent", [False, True], ids=["cut", "silent"])
async def test_too_few_are_an_outage_that_ends_with_nothing_lost(silent: bool) -> None:
    mirrored = Mirrored(3)
    async with serving(mirrored) as (run, links):
        lease, keys = await held_by(run, "one", "two")
        for link in links[:2]:
            if silent:
                link.answers.clear()
            else:
                link.cut()
        with pytest.raises(StoreAway):
            await run.store.commit(Commit(puts=(Put(run.key("lost"), b"", lease, 0),)))
        await run.seen.wait(lambda: run.seen.is_away, "the outage")
        links[0].mend()
        links[0].answers.set()
        await run.seen.wait(lambda: not run.seen.is_away, "the end of the outage")
        assert len(run.seen.of(Snapshot)) == 1
        assert len(run.seen.of(Back)) >= 1
        [renewal] = await run.store.keep_alive([lease])
        assert renewal.outcome is Outcome.RENEWED
        links[1].mend()
        links[1].answers.set()
        await run.put(run.key("later"), lease)
        # Of what was not answered nobody knows; what was answered is there.
        assert {*keys, Key("default", "player", "later")} <= run.seen.view.keys()
        await alike(mirrored.backends, *run.seen.view)


async def test_what_is_far_behind_is_brought_up_to_date_in_steps_while_others_write() -> None:
    mirrored = Mirrored(3, most=20)
    async with serving(mirrored) as (run, links):
        lease, _ = await held_by(run, "first")
        links[2].cut()
        for number in range(150):
            await run.put(run.key(f"instance-{number}"), lease)
        links[2].mend()
        for number in range(50):
            await run.put(run.key(f"meanwhile-{number}"), lease)
        await alike(mirrored.backends, *run.seen.view)
        assert max(len(writes) for link in links for writes in link.transactions) <= 20


async def test_one_of_two_is_enough_where_any_is() -> None:
    mirrored = Mirrored(2)
    async with serving(mirrored, Write.ANY) as (run, links):
        lease, _ = await held_by(run, "one")
        for link, other in (links, reversed(links)):
            link.cut()
            await run.put(run.key(), lease)
            link.mend()
            await alike(mirrored.backends, *run.seen.view)
            other.cut()
            await run.put(run.key(), lease)
            other.mend()
            await alike(mirrored.backends, *run.seen.view)
        assert run.seen.of(Away) == []


async def test_both_of_two_are_needed_for_a_quorum() -> None:
    async with serving(Mirrored(2)) as (run, links):
        lease, _ = await held_by(run, "one")
        links[1].cut()
        with pytest.raises(StoreAway):
            await run.put(run.key(), lease)


async def test_what_was_written_to_one_alone_goes_to_the_other_when_that_one_is_lost() -> None:
    """The server is the only one that still knows it."""
    mirrored = Mirrored(2)
    async with serving(mirrored, Write.ANY) as (run, links):
        lease, _ = await held_by(run, "one")
        links[1].cut()
        await run.put(run.key("alone"), lease)
        links[0].cut()
        await run.seen.wait(lambda: run.seen.is_away, "the outage")
        links[1].mend()
        await run.seen.wait(lambda: not run.seen.is_away, "the end of the outage")
        await run.put(run.key("later"), lease)
        assert {key.id for key in run.seen.view} == {"one", "alone", "later"}
        links[0].mend()
        await alike(mirrored.backends, *run.seen.view)


async def test_orders_that_parted_become_one_without_a_ghost() -> None:
    """Where any is enough, a server may begin with a store that lacks what another one has."""
    mirrored = Mirrored(2)
    async with serving(mirrored, Write.ANY) as (run, links):
        lease, _ = await held_by(run, "one")
        links[1].cut()
        for _ in range(5):
            await run.put(run.key(), lease)
    store, links = mirrored.server(Write.ANY)
    links[0].cut()
    async with running(store) as run:
        assert {key.id for key in run.seen.view} == {"one"}
        await run.put(run.key("new"), lease)
        links[0].mend()
        await alike(mirrored.backends, *run.seen.view)
        assert {key.id for key in run.seen.view} == {"one", "new"}


async def test_a_server_that_starts_goes_on_from_the_furthest() -> None:
    mirrored = Mirrored(3)
    async with serving(mirrored) as (run, links):
        lease, _ = await held_by(run, "one")
        links[0].cut()
        await run.put(run.key("two"), lease)
        epoch, view = run.seen.epoch, dict(run.seen.view)
    store, links = mirrored.server()
    links[2].cut()
    async with running(store) as run:
        assert (run.seen.epoch, run.seen.view) == (epoch, view)
        links[2].mend()
        await alike(mirrored.backends, *view)


async def test_an_empty_store_in_place_of_a_lost_one_is_filled() -> None:
    mirrored = Mirrored(3)
    async with serving(mirrored) as (run, _):
        await held_by(run, "one", "two")
        epoch, view = run.seen.epoch, dict(run.seen.view)
    mirrored.backends[0] = DictBackend()
    async with serving(mirrored) as (run, _):
        assert (run.seen.epoch, run.seen.view) == (epoch, view)
        await alike(mirrored.backends, *view)


# ---- what others write


async def test_what_somebody_else_writes_into_one_of_them_is_put_back() -> None:
    mirrored = Mirrored(3)
    async with serving(mirrored) as (run, _):
        _, (one, two) = await held_by(run, "one", "two")
        name = f"instances/default/player/{two.id}"
        await mirrored.backends[0].transact([], {name: None, "instances/default/player/ghost": b"1 1\nx", "junk": b""})
        await alike(mirrored.backends, one, two)
        assert set(run.seen.view) == {one, two}
        assert run.seen.of(Away) == []


@pytest.mark.parametrize("value", [b"\xff no stand", None, b"9" * 18 + b"." + b"f" * 16 + b" + 1." + b"f" * 16 + b" 7"])
async def test_a_stand_that_somebody_broke_costs_nothing(value: bytes | None) -> None:
    mirrored = Mirrored(3)
    async with serving(mirrored) as (run, _):
        lease, keys = await held_by(run, "one", "two")
        await mirrored.backends[1].transact([], {MIRROR: value})
        await run.put(three := run.key("three"), lease)
        await alike(mirrored.backends, *keys, three)


async def test_the_greatest_stand_that_somebody_writes_is_an_outage_that_ends() -> None:
    mirrored = Mirrored(3)
    async with serving(mirrored) as (run, _):
        lease, keys = await held_by(run, "one", "two")
        stand = Stand(Ballot(10**15 - 1, "f" * 16), True, Version(Ballot(1, "f" * 16), 7))
        await mirrored.backends[1].transact([], {MIRROR: stand.value})
        await run.seen.wait(lambda: run.seen.is_away, "the outage")
        await run.seen.wait(lambda: not run.seen.is_away, "the end of the outage")
        await run.put(three := run.key("three"), lease)
        await alike(mirrored.backends, *keys, three)
        assert set(run.seen.view) == {*keys, three}


# ---- several servers


async def test_another_server_waits_and_takes_over_when_the_first_one_is_gone() -> None:
    mirrored = Mirrored(3)
    first, links = mirrored.server()
    second, _ = mirrored.server()
    standing_by = Running(second)
    async with running(first) as run:
        lease, keys = await held_by(run, "one", "two")
        with pytest.raises(AssertionError, match="a first event"):
            await standing_by.start(first_s=2.0)
        await standing_by.cancel()
        await run.put(three := run.key("three"), lease)
        for link in links:  # as if it had been killed
            link.answers.clear()
        await standing_by.start()
        assert set(standing_by.seen.view) == {*keys, three}
        assert standing_by.seen.epoch == run.seen.epoch
        await standing_by.put(standing_by.key("four"), lease)
        for link in links:  # it had only stood still
            link.answers.set()
        await run.seen.wait(lambda: run.seen.is_away, "it is no more at the head")
        with pytest.raises(StoreAway):
            await run.put(run.key("five"), lease)
        [renewal] = await standing_by.store.keep_alive([lease])
        assert renewal.outcome is Outcome.RENEWED
        await alike(mirrored.backends, *standing_by.seen.view)
        await standing_by.stop()
        await standing_by.store.aclose()
        await run.seen.wait(lambda: not run.seen.is_away, "it is at the head again")
        await run.put(run.key("six"), lease)
        assert {key.id for key in run.seen.view} == {"one", "two", "three", "four", "six"}


async def test_a_server_that_was_stopped_in_order_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenure, "GONE_S", 1_000.0)
    mirrored = Mirrored(3)
    for number in range(3):
        async with serving(mirrored) as (run, _):
            await run.put(run.setting(f"setting-{number}"), "")


@pytest.mark.parametrize("turns", range(6))
async def test_a_server_that_is_stopped_twice_leaves_nothing_at_work(turns: int) -> None:
    """Once more in the middle of its leaving, wherever that is."""
    before = asyncio.all_tasks()
    backends = {name: Link(DictBackend()) for name in "abc"}
    telling = asyncio.create_task(_tells(MirrorBackend(backends, Write.QUORUM)))
    await eventually_async(lambda: all(it.transactions for it in backends.values()))
    for link in backends.values():
        link.answers.clear()
    telling.cancel()
    for _ in range(turns):
        await asyncio.sleep(0)
    telling.cancel()
    await asyncio.wait([telling])
    await eventually_async(lambda: asyncio.all_tasks() == before, what="no task is left")


async def _tells(backend: MirrorBackend) -> None:
    async with contextlib.aclosing(backend.watch()) as changes:
        async for _ in changes:
            pass


async def test_of_servers_that_start_together_one_writes() -> None:
    mirrored = Mirrored(2)
    stores = [Running(mirrored.server()[0]) for _ in range(3)]
    started: list[Running] = []
    for run in stores:
        with contextlib.suppress(AssertionError):
            await run.start(first_s=1.5)
            started.append(run)
    assert len(started) == 1
    await started[0].put(started[0].setting(), "")
    for run in stores:
        await run.cancel()


async def test_what_is_too_large_for_any_of_them_is_refused() -> None:
    async with serving(Mirrored(2)) as (run, _):
        lease, _ = await held_by(run, "one")
        with pytest.raises(Refused):
            await run.store.commit(Commit(puts=(Put(run.key(), b"x" * 500_000, lease, 0),)))
        await run.put(run.key(), lease)


# ---- the core


def test_a_stand_comes_back_as_it_was() -> None:
    stand = Stand(Ballot(7, "0123456789abcdef"), True, Version(Ballot(3, "f" * 16), 12))
    assert Stand.read(stand.value) == stand
    for value in (b"", b"7", b"\xff", stand.value + b" ", stand.value[1:]):
        assert Stand.read(value) in (Stand(), stand._replace(promise=Ballot(0, "0123456789abcdef")))


NAMES = st.sampled_from("abcdef")
ITEMS = st.dictionaries(NAMES, st.tuples(st.binary(max_size=2), st.integers(2, 9)))


def state_of(items: dict[str, tuple[bytes, int]], version: Version) -> Contents:
    return Contents(version, {name: Item(name, value, revision, 1) for name, (value, revision) in items.items()})


@given(ITEMS, ITEMS, st.integers(1, 4))
def test_what_a_backend_lacks_makes_it_whole(
    had: dict[str, tuple[bytes, int]], has: dict[str, tuple[bytes, int]], most: int
) -> None:
    wanted = state_of(has, Version(NOBODY, 9))
    kept = state_of(had, Version(NOBODY, 9)).items.values()
    held, _, _ = held_of([Item(it.name, packed(it), 5, 5) for it in kept] + [Item("junk", b"not so", 5, 5)])
    steps = 0
    while names := lacking(held, wanted.items):
        steps += 1
        take(held, part_of(names, wanted.items, most, 100))
        assert steps < 20
    assert held == wanted.items


TERMS = st.tuples(st.integers(0, 3), st.integers(0, 9))


@given(st.lists(st.tuples(TERMS, ITEMS), min_size=1, max_size=4))
def test_who_begins_goes_on_from_the_furthest_and_gives_no_revision_twice(
    found: list[tuple[tuple[int, int], Any]],
) -> None:
    states = [state_of(items, Version(Ballot(term, "a" * 16), revision)) for (term, revision), items in found]
    ballot = Ballot(9, "b" * 16)
    state = begun(ballot, states)
    best = max(states, key=lambda it: it.version)
    assert {name: it.value for name, it in state.items.items()} == {name: it.value for name, it in best.items.items()}
    assert state.version.term == ballot
    given_out = max(it.version.revision for it in states)
    assert state.version.revision >= max(1, given_out)
    if given_out > best.version.revision:
        assert all(it.revision > given_out for it in state.items.values())


def test_a_lot_is_told_one_by_one_and_written_as_a_whole() -> None:
    state = Contents(Version(NOBODY, 5), {})
    lot = Lot(state)
    assert lot.transact([], {"a": b"1"}).revision == 6
    assert lot.transact([Check("a", 6)], {"a": b"2", "b": b""}).revision == 7
    with pytest.raises(ChecksFailed):
        lot.transact([Check("a", 6)], {"c": b""})
    assert not lot.is_full
    assert lot.transact([], {"b": None}).deletes == ("b",)
    assert lot.is_full
    assert lot.writes == {"a": b"7 6\n2", "b": None}
    assert state.items == {}
    lot.take_effect()
    assert (state.version.revision, state.items) == (8, {"a": Item("a", b"2", 7, 6)})


# ---- its URL


def test_urls() -> None:
    assert MirrorURL.parse("mirror:sqlite:/a|etcd://h") == (("sqlite:/a", "etcd://h"), Write.QUORUM)
    assert MirrorURL.parse("mirror:sqlite:/a|etcd://h?prefix=/x|?write=any") == (
        ("sqlite:/a", "etcd://h?prefix=/x"),
        Write.ANY,
    )
    for write in Write:
        assert MirrorURL.parse(mirror_url(["sqlite:/a", "etcd://h"], write)) == (("sqlite:/a", "etcd://h"), write)
    assert isinstance(open_store("mirror:sqlite:a|sqlite:b|?write=any"), Leased)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mirror:", "2 to 9"),
        ("mirror:sqlite:a", "2 to 9"),
        ("mirror:sqlite:a|sqlite:a", "twice"),
        ("mirror:sqlite:a|sqlite:b|?write=all", "write=quorum"),
        ("mirror:sqlite:a|sqlite:b|?reads=1", "write=quorum"),
        ("mirror:sqlite:a|memory:", "memory: can be no part"),
        ("mirror:sqlite:a|mirror:sqlite:b|sqlite:c", "no part of another"),
        ("mirror:sqlite:a|redis://h", "no such kind"),
        ("mirror:sqlite:a|sqlite:", "path of a file"),
        ("mirror:sqlite:a|etcd://user:hunter2@h:x", "port"),
    ],
)
def test_mistakes_are_named_and_no_password_is(url: str, says: str) -> None:
    with pytest.raises(BadStoreURL, match=says) as refused:
        open_store(url)
    assert "hunter2" not in str(refused.value)


def test_a_password_in_any_of_them_is_one() -> None:
    url = "mirror:sqlite:a|etcd://user:hunter2@h"
    assert has_password(url)
    assert "hunter2" not in hidden(url)
    assert not has_password("mirror:sqlite:a|etcd://h")


def test_stores_that_differ_by_their_secrets_alone_are_two() -> None:
    parts = ["consul://h?token=hunter2", "consul://h?token=hunter3"]
    named: list[str] = []
    backend = open_mirror(mirror_url(parts), lambda part: named.append(part) or DictBackend(), hidden)
    assert named == parts
    assert list(backend._backends) == ["consul://h?token=… (1)", "consul://h?token=… (2)"]
