"""Looking at many things in turn: at their pace, so many at once, and never twice at the same time."""

import asyncio
import contextlib
import random
import time
import weakref
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from registry_checks.looks import FEW, Looks
from tests.support.waiting import eventually_async, passed


class Thing:
    """Something to look at that takes its time, or fails."""

    now = 0
    most = 0

    def __init__(self, seen: Counter[str], name: str, interval_s: float = 0.01, takes_s: float = 0.0) -> None:
        self.interval_s = interval_s
        self.name = name
        self.fails = False
        self._takes_s = takes_s
        self._seen = seen

    async def look(self) -> None:
        Thing.now += 1
        Thing.most = max(Thing.most, Thing.now)
        try:
            await passed(self._takes_s)
            self._seen[self.name] += 1
            if self.fails:
                raise ValueError("a mistake")
        finally:
            Thing.now -= 1


@pytest.fixture
def seen() -> Counter[str]:
    Thing.now = Thing.most = 0
    return Counter()


@contextlib.asynccontextmanager
async def looking(most: int = 8) -> AsyncIterator[Looks]:
    looks = Looks(time.monotonic, random.Random(1), most)
    task = asyncio.create_task(looks.run())
    yield looks
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_each_at_its_pace(seen: Counter[str]) -> None:
    async with looking() as looks:
        looks.add(Thing(seen, "often", 0.02))
        looks.add(Thing(seen, "seldom", 0.2), delay_s=0.1)
        await eventually_async(lambda: seen["seldom"] >= 3)
        assert len(looks) == 2
        assert seen["often"] > 2 * seen["seldom"]


async def test_no_more_at_once_and_none_twice(seen: Counter[str]) -> None:
    async with looking(most=3) as looks:
        for number in range(10):
            looks.add(Thing(seen, f"{number}", 0.001, takes_s=0.01))
        await eventually_async(lambda: min(seen.values(), default=0) >= 2 and len(seen) == 10)
        assert Thing.most == 3
    async with looking(most=9) as looks:
        looks.add(Thing(seen, "slow", 0.001, takes_s=0.02))
        Thing.most = 0
        await eventually_async(lambda: seen["slow"] >= 3)
        assert Thing.most == 1


async def test_what_is_discarded_is_looked_at_no_more(seen: Counter[str]) -> None:
    async with looking() as looks:
        gone, here = Thing(seen, "gone"), Thing(seen, "here")
        looks.add(gone)
        looks.add(here)
        await eventually_async(lambda: seen["gone"] and seen["here"])
        looks.discard(gone)
        await eventually_async(lambda: not Thing.now)
        before = seen.copy()
        await eventually_async(lambda: seen["here"] > before["here"] + 3)
        assert seen["gone"] <= before["gone"] + 1


async def test_a_mistake_ends_nothing(seen: Counter[str], caplog: pytest.LogCaptureFixture) -> None:
    async with looking() as looks:
        wrong = Thing(seen, "wrong")
        wrong.fails = True
        looks.add(wrong)
        await eventually_async(lambda: seen["wrong"] > 2)
    assert "a look failed that never should" in caplog.text


async def test_what_is_discarded_before_its_look_begins_is_not_looked_at() -> None:
    """Two are due in the same instant, and the first ends the other."""
    looked: list[object] = []

    class Ender:
        interval_s = 60.0

        async def look(self) -> None:
            looked.append(self)
            for it in both:
                looks.discard(it)

    both = [Ender(), Ender()]
    async with looking() as looks:
        for it in both:
            looks.add(it, spread_s=0.0)
        await eventually_async(lambda: bool(looked))
        await passed(0.02)
    assert len(looked) == 1


async def test_what_is_discarded_is_not_held_until_its_time(seen: Counter[str]) -> None:
    """Owners who register again and again, with other checks each time, whose interval is an hour."""
    async with looking() as looks:
        looks.add(here := Thing(seen, "here", 0.01))
        gone = []
        for number in range(10 * FEW):
            thing = Thing(seen, f"gone {number}", 3600.0)
            gone.append(weakref.ref(thing))
            looks.add(thing)
            looks.discard(thing)
        del thing
        assert sum(ref() is not None for ref in gone) <= FEW + 3
        before = seen["here"]
        await eventually_async(lambda: seen["here"] > before)
        looks.discard(here)


async def test_what_a_clock_jumps_over_is_looked_at_in_its_order(seen: Counter[str]) -> None:
    """As if the time had passed: each look at its own time, and nobody's before that of another."""
    ahead_s, at = 0.0, list[tuple[str, float]]()
    looks = Looks(lambda: ahead_s, random.Random(1), 8, by_hand_s=0.01)

    class Timed(Thing):
        async def look(self) -> None:
            await asyncio.sleep(0)
            at.append((self.name, looks.now()))

    task = asyncio.create_task(looks.run())
    for name, interval_s in (("often", 5.0), ("seldom", 20.0)):
        looks.add(Timed(seen, name, interval_s), delay_s=interval_s, spread_s=0.0)
    ahead_s = 42.0
    await eventually_async(lambda: len(at) == 10)
    assert at[:4] == [("often", 5.0), ("often", 10.0), ("often", 15.0), ("seldom", 20.0)]
    assert at[-1] == ("often", 40.0)
    assert looks.now() == 42.0
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
