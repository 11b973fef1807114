"""Writes that wait together: who is told what, without an etcd."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from registry_server.records import Commit, Key, Put
from registry_server.stores.base import Conflict, NoSuchLease, StoreAway
from registry_server.stores.etcd import writes
from registry_server.stores.etcd.writes import Writes


def commit(name: str) -> Commit:
    return Commit((Put(Key("n", "s", name), b"", "1", 0),))


def names(commits: Sequence[Commit]) -> list[str]:
    return [it.puts[0].key.id for it in commits]


class Etcd:
    """Answers when it is let, or fails."""

    def __init__(self) -> None:
        self.sent: list[list[str]] = []
        self.may_answer = asyncio.Event()
        self.error: Exception | None = None

    async def send(self, commits: Sequence[Commit]) -> Sequence[int | Conflict]:
        self.sent.append(names(commits))
        if "bad" in names(commits):
            raise NoSuchLease("bad")
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return [7] * len(commits)


@asynccontextmanager
async def running(etcd: Etcd) -> AsyncIterator[Writes]:
    it = Writes(etcd.send)
    task = asyncio.create_task(it.run())
    try:
        yield it
    finally:
        task.cancel()
        await asyncio.wait([task])


async def begun(it: Writes, *some: str) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(it.commit(commit(name))) for name in some]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


async def test_alone_it_goes_at_once_and_those_that_come_meanwhile_go_together() -> None:
    async with running(etcd := Etcd()) as it:
        tasks = await begun(it, "a")
        assert etcd.sent == [["a"]]
        tasks += await begun(it, *"dcb")
        assert etcd.sent == [["a"]]
        etcd.may_answer.set()
        assert await asyncio.gather(*tasks) == [7] * 4
        assert etcd.sent == [["a"], ["b", "c", "d"]]


async def test_one_that_is_refused_is_found_and_takes_nothing_from_the_others() -> None:
    async with running(etcd := Etcd()) as it:
        etcd.may_answer.set()
        outcomes = await asyncio.gather(*await begun(it, "a", "bad", "c", "d"), return_exceptions=True)
    assert [7 if outcome == 7 else type(outcome) for outcome in outcomes] == [7, NoSuchLease, 7, 7]


async def test_who_waits_behind_a_failure_is_not_kept_waiting_for_another() -> None:
    async with running(etcd := Etcd()) as it:
        on_its_way = await begun(it, "a")
        waiting = await begun(it, "c", "d")
        etcd.error = StoreAway("no answer")
        etcd.may_answer.set()
        for outcome in await asyncio.gather(*on_its_way, *waiting, return_exceptions=True):
            assert isinstance(outcome, StoreAway)
        assert etcd.sent == [["a"]]
        etcd.error = None
        assert await it.commit(commit("e")) == 7


async def test_a_writer_who_goes_takes_along_what_is_not_on_its_way() -> None:
    async with running(etcd := Etcd()) as it:
        first, gone, last = [task for name in "abc" for task in await begun(it, name)]
        first.cancel()
        gone.cancel()
        etcd.may_answer.set()
        assert await last == 7
        assert etcd.sent == [["a"], ["c"]]


async def test_nobody_waits_for_a_link_that_is_closed() -> None:
    async with running(Etcd()) as it:
        tasks = [task for name in "abc" for task in await begun(it, name)]
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(outcome, StoreAway)
    with pytest.raises(StoreAway):
        await it.commit(commit("d"))


async def test_so_many_wait_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writes, "MAX_WAITING", 2)
    async with running(Etcd()) as it:
        tasks = [task for name in "abc" for task in await begun(it, name)]
        with pytest.raises(StoreAway, match="too many"):
            await it.commit(commit("e"))
    assert all(isinstance(it, StoreAway) for it in await asyncio.gather(*tasks, return_exceptions=True))
