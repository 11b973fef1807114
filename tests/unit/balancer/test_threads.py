"""Pickers are shared by threads, as synchronous channels do: nothing is lost or broken, also while the set changes."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from balancer.endpoints import Endpoint, Resolved
from balancer.policies.base import Node, PickInfo
from tests.support.fleet import POLICIES, endpoints, pool_of


@pytest.mark.parametrize("name", ["round_robin", "weighted_round_robin"])
def test_turns_are_exact_over_many_threads(name: str) -> None:
    given = tuple(Endpoint(f"h{n}:1", weight=1 + n % 3) for n in range(9))
    picker = pool_of(name, given).picker

    def work(_number: int) -> Counter[Endpoint]:
        picks = (picker.pick(PickInfo(), 0.0) for _ in range(1_800))
        return Counter(node.endpoint for node in picks if isinstance(node, Node))

    with ThreadPoolExecutor(8) as threads:
        counts = sum(threads.map(work, range(8)), Counter[Endpoint]())
    total = sum(endpoint.weight for endpoint in given)
    for endpoint in given:
        share = endpoint.weight / total if name == "weighted_round_robin" else 1 / len(given)
        assert counts[endpoint] == 8 * 1_800 * share


@pytest.mark.parametrize("name", POLICIES)
def test_picks_and_loads_while_the_set_changes(name: str) -> None:
    """One owner changes the pool, many threads use whatever picker is current: at the end nothing is in flight."""
    pool = pool_of(name.replace("maglev", "maglev&table_size=1009"), endpoints(6))
    pickers = [pool.picker]
    ended = False

    def work(number: int) -> int:
        calls = 0
        while not ended or calls == 0:
            node = pickers[0].pick(PickInfo(f"10.0.{number}.{calls % 256}"), 0.0)
            assert isinstance(node, Node)
            node.load.started(0.0)
            node.load.finished(0.0, 0.01)
            calls += 1
        return calls

    with ThreadPoolExecutor(4) as threads:
        results = [threads.submit(work, number) for number in range(4)]
        for step in range(100):
            given = tuple(Endpoint(f"10.0.0.{n}:80", weight=1 + (n + step) % 4) for n in range(1 + step % 6))
            pool.apply(Resolved(given), 0.0)
            pickers[0] = pool.picker
        ended = True
        assert all(result.result() > 0 for result in results)
    assert all(told.in_flight == 0 for told in pool.statistics(0.0).nodes)


@pytest.mark.parametrize("name", POLICIES)
def test_picker_that_was_replaced_goes_on_choosing(name: str) -> None:
    """A thread may still be at it: whatever became of the nodes meanwhile, it gets one of them and no exception."""
    before = endpoints(4, weight=2)
    pool = pool_of(name, before)
    picker = pool.picker
    pool.apply(Resolved(tuple(replace(endpoint, weight=0) for endpoint in before)), 1.0)
    pool.apply(Resolved(()), 2.0)
    picks = [picker.pick(PickInfo(f"10.0.0.{n}"), 2.0) for n in range(100)]
    assert {pick.endpoint.address for pick in picks if isinstance(pick, Node)} <= {e.address for e in before}
    assert all(isinstance(pick, Node) for pick in picks)
