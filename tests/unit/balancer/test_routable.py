"""No policy ever returns an unroutable endpoint while a routable one exists."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.endpoints import Endpoint, Resolved
from balancer.policies.base import Node, PickInfo
from balancer.pool.picker import Fail
from tests.support.fleet import POLICIES, pool_of

ENDPOINTS = st.lists(
    st.builds(
        Endpoint,
        address=st.integers(0, 15).map(lambda n: f"h{n}:1"),
        weight=st.integers(0, 3),
        priority=st.integers(0, 2),
        routable=st.booleans(),
    ),
    max_size=12,
)


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=40, deadline=None)
@given(sets=st.lists(ENDPOINTS, min_size=1, max_size=5), keys=st.lists(st.text(max_size=8), min_size=1, max_size=5))
def test_unroutable_only_when_nothing_is_routable(name: str, sets: list[list[Endpoint]], keys: list[str]) -> None:
    # A small table: a new one for every set would take a while.
    pool = pool_of(name.replace("maglev", "maglev&table_size=1009"), ())
    for now, current in enumerate(sets):
        pool.apply(Resolved(tuple(current)), float(now))
        first = {}  # of several with one address, the first counts
        for endpoint in current:
            first.setdefault(endpoint.address, endpoint)
        weighty = [endpoint for endpoint in first.values() if endpoint.weight > 0]
        allowed = [endpoint for endpoint in weighty if endpoint.routable] or weighty
        for key in keys:
            picked = pool.picker.pick(PickInfo(key), float(now))
            if allowed:
                assert isinstance(picked, Node)
                assert picked.endpoint in allowed
            else:
                assert isinstance(picked, Fail)
