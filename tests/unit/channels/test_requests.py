"""A request stream that another attempt may have to read again."""

import threading
from collections.abc import Iterator
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from balancer.threads.streams import KEPT_REQUESTS, Requests
from tests.support.waiting import eventually


def take(reader: Iterator[int], count: int) -> list[int]:
    return list(islice(reader, count))


@given(st.integers(0, 12), st.lists(st.integers(0, 12), max_size=4), st.integers(0, 12))
def test_the_last_attempt_gets_everything(size: int, earlier: list[int], committed_after: int) -> None:
    requests = Requests(iter(range(size)))
    for count in earlier:
        assert take(requests.reader(), count) == list(range(min(count, size)))
    last = requests.reader()
    seen = take(last, committed_after)
    requests.commit()
    assert seen + list(last) == list(range(size))


def test_commit_in_the_middle_of_what_was_kept() -> None:
    requests = Requests(iter(range(5)))
    first = requests.reader()
    assert [next(first), next(first), next(first)] == [0, 1, 2]
    second = requests.reader()
    assert next(second) == 0
    requests.commit()
    assert list(second) == [1, 2, 3, 4]
    assert list(first) == []


def test_keeps_no_more_than_its_limit() -> None:
    requests = Requests(iter(range(KEPT_REQUESTS + 10)))
    reader = requests.reader()
    for expected in range(KEPT_REQUESTS - 1):
        assert next(reader) == expected
    assert requests.again
    next(reader)
    assert not requests.again
    assert list(reader) == list(range(KEPT_REQUESTS, KEPT_REQUESTS + 10))


def test_reader_replaced_while_it_waits_leaves_the_request_to_its_successor() -> None:
    asked, go_on = threading.Event(), threading.Event()

    def source():  # type: ignore[no-untyped-def]
        yield 0
        asked.set()
        assert go_on.wait(10)
        yield 1

    requests = Requests(source())
    old = requests.reader()
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.extend(old))
    thread.start()
    assert asked.wait(10)
    new = requests.reader()
    go_on.set()
    thread.join(10)
    eventually(lambda: got == [0])
    assert list(new) == [0, 1]
