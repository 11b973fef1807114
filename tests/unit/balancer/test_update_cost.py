"""A change of one endpoint among many costs Python work for one; the rest is pointers copied at C speed.

Counted in executed lines, which no busy machine can disturb. Comprehensions and generators count an event per element.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any

import pytest

from balancer.endpoints import Endpoint, Resolved
from tests.support.fleet import POLICIES, endpoints, pool_of

# Small sets are compared in full by least_connections, and made anew at each change.
IN_FULL = ("consistent_hash?table=maglev", "least_connections", "least_connections?choices=full")
INCREMENTAL = [name for name in POLICIES if name not in IN_FULL]


def lines(work: Callable[[], object]) -> int:
    """How many lines of Python `work` executes."""
    count = 0

    def trace(_frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def cost(name: str, size: int, change: Callable[[tuple[Endpoint, ...]], tuple[Endpoint, ...]]) -> int:
    given = endpoints(size)
    pool = pool_of(name, given)
    assert pool.picker

    resolution = Resolved(change(given))

    def work() -> None:
        pool.apply(resolution, 1.0)
        assert pool.picker

    return lines(work)


@pytest.mark.parametrize(
    "change",
    [
        lambda given: (*given[:9], replace(given[9], weight=5), *given[10:]),
        lambda given: (*given[:9], *given[10:]),
        lambda given: (*given, Endpoint("new:1")),
    ],
    ids=["weight", "leave", "join"],
)
@pytest.mark.parametrize("name", INCREMENTAL)
def test_one_of_many_costs_as_much_as_one_of_few(name: str, change: Any) -> None:
    """A ring of 30 nodes has shorter arcs than one of 3,000 to look through: a few lines more or less."""
    few, many = cost(name, 30, change), cost(name, 3_000, change)
    assert many <= 1.2 * few + 20


def test_counting_sees_a_loop() -> None:
    assert lines(lambda: [n for n in range(1_000)]) >= 1_000  # noqa: C416
    assert lines(lambda: list(range(1_000))) < 10
