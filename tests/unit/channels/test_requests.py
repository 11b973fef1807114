"""The requests of a stream, which another attempt may have to be given again."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.aio.requests import Source as AioSource
from balancer.calls.replay import Replay
from balancer.threads.requests import Source
from tests.support.waiting import eventually, eventually_async

LIMIT = 1000


def requests(size: int) -> Iterator[object]:
    return iter([bytes([number]) for number in range(size)])


def take(reader: Iterator[object], count: int) -> list[int]:
    """As an attempt does: it encodes what it gets."""
    return [kept.encoded(None)[0] for kept in islice(reader, count)]  # type: ignore[attr-defined]


def rest(reader: Iterator[object]) -> list[int]:
    return take(reader, LIMIT)


@given(st.integers(0, 12), st.lists(st.integers(0, 12), max_size=4), st.integers(0, 12))
def test_the_last_attempt_gets_everything(size: int, earlier: list[int], committed_after: int) -> None:
    source = Source(requests(size), LIMIT)
    for count in earlier:
        assert take(source.reader(), count) == list(range(min(count, size)))
    last = source.reader()
    seen = take(last, committed_after)
    source.commit()
    assert seen + rest(last) == list(range(size))
    assert source.size <= 1, "a call that is committed keeps nothing"


def test_commit_in_the_middle_of_what_was_kept() -> None:
    source = Source(requests(5), LIMIT)
    first = source.reader()
    assert take(first, 3) == [0, 1, 2]
    second = source.reader()
    assert take(second, 1) == [0]
    source.commit()
    assert rest(second) == [1, 2, 3, 4]
    assert rest(first) == []


def test_keeps_no_more_than_its_limit() -> None:
    source = Source(requests(200), 100)
    reader = source.reader()
    for expected in range(100):
        assert take(reader, 1) == [expected]
    assert source.again
    assert take(reader, 1) == [100]
    assert not source.again
    assert rest(reader) == list(range(101, 200))
    assert source.size <= 1


def test_without_a_policy_only_a_first_request_that_waits_is_kept() -> None:
    source = Source(requests(5), None)
    assert take(source.reader(), 1) == [0]
    assert source.again, "no connection was there for it"
    second = source.reader()
    assert take(second, 2) == [0, 1]
    assert not source.again
    assert rest(second) == [2, 3, 4]
    assert source.size <= 1


def test_a_request_is_serialized_once() -> None:
    made: list[object] = []

    def serializer(request: object) -> bytes:
        made.append(request)
        return b"x" * 10

    replay = Replay(LIMIT)
    kept = replay.take("hello")
    assert kept.encoded(serializer) == kept.encoded(serializer) == b"x" * 10
    assert made == ["hello"]


def test_what_the_caller_raises_ends_every_attempt() -> None:
    def source() -> Iterator[object]:
        yield b"\0"
        raise OSError("disk")

    requests = Source(source(), LIMIT)
    for _ in range(2):
        reader = requests.reader()
        assert take(reader, 1) == [0]
        try:
            next(reader)
        except OSError as error:
            assert str(error) == "disk"  # noqa: PT017
        else:
            raise AssertionError("a truncated upload must not look whole")


def test_reader_replaced_while_it_waits_leaves_the_request_to_its_successor() -> None:
    asked, go_on = threading.Event(), threading.Event()

    def source() -> Iterator[object]:
        yield b"\0"
        asked.set()
        assert go_on.wait(10)
        yield b"\1"

    requests = Source(source(), LIMIT)
    old = requests.reader()
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.extend(rest(old)))
    thread.start()
    assert asked.wait(10)
    new = requests.reader()
    go_on.set()
    thread.join(10)
    eventually(lambda: got == [0])
    assert rest(new) == [0, 1]


async def test_what_a_replaced_attempt_waited_for_goes_to_its_successor() -> None:
    """Also when the successor has had a response meanwhile, so that nothing is kept any more."""
    due: asyncio.Queue[object] = asyncio.Queue()
    asked_for: list[int] = []

    async def asked() -> AsyncIterator[object]:
        for number in range(9):
            asked_for.append(number)
            if (request := await due.get()) is None:
                return
            yield request

    replay = Replay(LIMIT)
    source = AioSource(asked(), replay, keeps=True)
    first = source.reader()
    due.put_nowait(b"0")
    assert (await anext(first)).request == b"0"  # type: ignore[attr-defined]
    waiting = asyncio.ensure_future(anext(first))
    await eventually_async(lambda: asked_for == [0, 1])
    second = source.reader()
    replay.commit()
    for request in (b"1", b"2", None):
        due.put_nowait(request)
    assert [kept.request async for kept in second] == [b"0", b"1", b"2"]  # type: ignore[attr-defined]
    with pytest.raises(StopAsyncIteration):
        await waiting
    assert replay.size <= 1
