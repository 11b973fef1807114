"""The numbers of calls that went two ways to the same instances."""

from dataclasses import replace

import pytest

from balancer import ConnectivityState, NodeStatistics, PoolStatistics
from registry_client.bridge.sums import together

NODE = NodeStatistics("h1:1", ConnectivityState.READY, 1.0, 0, 0, 0, 0.0, 0.0, None)
POOL = PoolStatistics("round_robin", ConnectivityState.READY, (), 1, 1, False, "")


def pool(*nodes: NodeStatistics, last_pick: str = "") -> PoolStatistics:
    return replace(POOL, nodes=nodes, last_pick=last_pick)


def test_counts_are_added_and_latencies_weighed() -> None:
    one = replace(NODE, calls=3, failures=1, in_flight=1, latency_s=0.1, error_rate=0.5)
    other = replace(NODE, calls=1, failures=1, in_flight=2, latency_s=0.5, error_rate=0.1, ejected_since=7.0)
    [node] = together(pool(one), pool(other)).nodes
    assert (node.calls, node.failures, node.in_flight, node.ejected_since) == (4, 2, 3, 7.0)
    assert (node.latency_s, node.error_rate) == (pytest.approx(0.2), pytest.approx(0.4))


def test_whom_one_of_them_knows() -> None:
    here, there = replace(NODE, address="h2:1", calls=1), replace(NODE, address="h3:1", calls=2)
    assert together(pool(NODE, here), pool(there, last_pick="by turns")).nodes == (NODE, here, there)
    assert together(pool(NODE), pool(NODE, last_pick="by turns")).last_pick == "by turns"
    assert together(pool(NODE), None) == pool(NODE)
