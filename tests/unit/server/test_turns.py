"""Writers of the same thing take turns: in order, no two at a time, and nobody is left waiting by one who has gone."""

import asyncio
import itertools
import random

import pytest

from registry_server import turns as module
from registry_server.errors import Contended
from registry_server.turns import Turns

ONE, TWO, THREE = ("one",), ("two",), ("three",)


async def test_those_who_write_the_same_thing_come_in_order_and_others_do_not_wait() -> None:
    turns, order = Turns(), list[str]()

    async def write(name: str, *what: tuple[str, ...]) -> None:
        async with turns.of(what):
            order.append(f"{name} begins")
            await asyncio.sleep(0)
            order.append(f"{name} ends")

    await asyncio.gather(write("a", ONE), write("b", ONE), write("c", ONE), write("d", TWO))
    of_one = [it for it in order if not it.startswith("d")]
    assert of_one == ["a begins", "a ends", "b begins", "b ends", "c begins", "c ends"]
    assert order.index("d ends") < order.index("b begins")
    assert len(turns) == 0


async def test_turns_of_several_names_never_wait_for_each_other_in_a_circle() -> None:
    turns, rng, busy = Turns(), random.Random(7), set[tuple[str, ...]]()

    async def write() -> None:
        what = rng.choices([ONE, TWO, THREE], k=3)
        async with turns.of(what):
            assert not busy & set(what)
            busy.update(what)
            await asyncio.sleep(0)
            busy.difference_update(what)

    async with asyncio.timeout(10):
        await asyncio.gather(*(write() for _ in range(300)))
    assert len(turns) == 0


@pytest.mark.parametrize("which", range(5))
async def test_who_is_cancelled_passes_its_turn_on(which: int) -> None:
    """While it waits, in the very moment in which its turn comes, and while it has it."""
    for steps in range(8):
        turns, done = Turns(), list[int]()

        async def write(number: int, turns: Turns = turns, done: list[int] = done) -> None:
            async with turns.of([ONE]):
                await asyncio.sleep(0)
            done.append(number)

        tasks = [asyncio.create_task(write(number)) for number in range(5)]
        for _ in range(steps):
            await asyncio.sleep(0)
        was_done = tasks[which].done()
        tasks[which].cancel()
        async with asyncio.timeout(5):
            await asyncio.wait(tasks)
        assert done == [number for number in range(5) if number != which or was_done]
        assert len(turns) == 0


async def test_who_fails_passes_its_turn_on() -> None:
    turns = Turns()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            async with turns.of([ONE, TWO]):
                raise ZeroDivisionError
    assert len(turns) == 0


async def test_a_queue_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    turns, release = Turns(), asyncio.Event()

    async def hold() -> None:
        async with turns.of([ONE]):
            await release.wait()

    tasks = [asyncio.create_task(hold()) for _ in range(4)]
    await asyncio.sleep(0)
    with pytest.raises(Contended, match="one"):
        await hold()
    release.set()
    await asyncio.gather(*tasks)
    assert len(turns) == 0


async def test_a_wait_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAIT_S", 0.01)
    turns = Turns()
    async with turns.of([TWO]):
        for _ in itertools.repeat(None, 3):
            with pytest.raises(Contended):
                async with turns.of([ONE, TWO]):
                    raise AssertionError("it is somebody else's turn")
        async with turns.of([ONE]):
            assert len(turns) == 2
    assert len(turns) == 0


async def test_who_has_it_and_all_who_wait_are_cancelled_in_one_moment() -> None:
    """As the calls of a connection are that is lost."""
    turns = Turns()

    async def write() -> None:
        async with turns.of([ONE]):
            await asyncio.Event().wait()

    tasks = [asyncio.create_task(write()) for _ in range(5)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(end) for end in ends] == [asyncio.CancelledError] * 5
    assert len(turns) == 0
