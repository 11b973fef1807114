"""The hash ring: a function of the set alone, the same everywhere, cheap to change."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.endpoints import Endpoint, Resolved
from balancer.policies.base import Node, PickInfo
from balancer.policies.hashing import hash64
from balancer.policies.ring import POINTS_PER_ARC, points_of
from balancer.pool.pool import Pool
from tests.support.fleet import endpoints, key_of, pool_of

INFOS = [PickInfo(key_of(Random(n))) for n in range(300)]

HASH_OF_PLAYER_1 = 9632300654945193
POINTS_OF_10_0_0_1 = [1868090096852768817, 12645123724529899568, 2984334274161701539]
HOMES = [
    "10.0.0.4:80",
    "10.0.0.2:80",
    "10.0.0.0:80",
    "10.0.0.3:80",
    "10.0.0.4:80",
    "10.0.0.0:80",
    "10.0.0.2:80",
    "10.0.0.3:80",
    "10.0.0.2:80",
    "10.0.0.0:80",
]


def homes(pool: Pool) -> list[str]:
    picks = (pool.picker.pick(info, 0.0) for info in INFOS)
    return [node.endpoint.address for node in picks if isinstance(node, Node)]


@pytest.mark.parametrize("name", ["consistent_hash", "consistent_hash?table=maglev&table_size=1009", "ip_hash"])
@settings(max_examples=20, deadline=None)
@given(
    sets=st.lists(
        st.dictionaries(st.integers(0, 30), st.integers(1, 8), min_size=1, max_size=16), min_size=2, max_size=5
    ),
    seed=st.integers(0, 999),
)
def test_history_does_not_matter(name: str, sets: list[dict[int, int]], seed: int) -> None:
    """A client that saw the set change again and again, and one that starts now and hears of it in another order."""
    veteran = pool_of(name, ())
    for weights in sets:
        current = [Endpoint(f"h{n}:1", weight=weight) for n, weight in weights.items()]
        veteran.apply(Resolved(tuple(current)), 0.0)
        assert homes(veteran)
    Random(seed).shuffle(current)
    assert homes(veteran) == homes(pool_of(name, tuple(current)))


def test_hash_is_the_same_in_every_process() -> None:
    """Written down once: a change would move every key of every user at the next upgrade."""
    assert hash64(b"player-1") == HASH_OF_PLAYER_1
    assert list(points_of("10.0.0.1:80", 3)) == POINTS_OF_10_0_0_1


def test_homes_are_the_same_in_every_process() -> None:
    assert homes(pool_of("consistent_hash", endpoints(5)))[:10] == HOMES


def test_a_heavier_node_takes_keys_and_no_others_move() -> None:
    before = endpoints(10)
    pool = pool_of("consistent_hash", before)
    old = homes(pool)
    pool.apply(Resolved((replace(before[0], weight=3), *before[1:])), 1.0)
    changed = {new for was, new in zip(old, homes(pool), strict=True) if was != new}
    assert changed == {before[0].address}


def test_growing_by_one_takes_keys_only_for_the_new_one() -> None:
    pool = pool_of("consistent_hash", endpoints(10))
    old = homes(pool)
    pool.apply(Resolved(endpoints(11)), 1.0)
    changed = {new for was, new in zip(old, homes(pool), strict=True) if was != new}
    assert changed == {endpoints(11)[-1].address}


@pytest.mark.parametrize("name", ["consistent_hash", "ip_hash"])
@pytest.mark.parametrize("size", [3, 5, 10])
def test_one_that_leaves_had_hardly_more_than_its_share(name: str, size: int) -> None:
    """Over several fleets and whoever of them leaves: at most 1.2/n of the keys move."""
    infos = [PickInfo(f"player-{n}") for n in range(4_000)]
    for fleet in range(4):
        given_endpoints = tuple(Endpoint(f"10.{fleet}.0.{n}:8001") for n in range(size))
        pool = pool_of(name, given_endpoints)
        before = [pool.picker.pick(info, 0.0) for info in infos]
        for gone in range(size):
            rest = pool_of(name, (*given_endpoints[:gone], *given_endpoints[gone + 1 :]))
            after = [rest.picker.pick(info, 0.0) for info in infos]
            moved = sum(
                isinstance(was, Node) and isinstance(now, Node) and was.endpoint is not now.endpoint
                for was, now in zip(before, after, strict=True)
            )
            assert 0 < moved <= 1.2 / size * len(infos)


def test_hash_on_id_survives_a_move() -> None:
    """A process that comes back elsewhere under its id keeps its keys."""
    before = tuple(Endpoint(f"h{n}:1", id=f"shard-{n}") for n in range(5))
    after = (replace(before[0], address="elsewhere:1"), *before[1:])
    pool = pool_of("consistent_hash?hash_on=id", before)
    old = homes(pool)
    pool.apply(Resolved(after), 1.0)
    moved = {(was, new) for was, new in zip(old, homes(pool), strict=True) if was != new}
    assert moved == {("h0:1", "elsewhere:1")}


def test_without_a_key_calls_are_spread() -> None:
    pool = pool_of("consistent_hash", endpoints(5))
    assert len({pool.picker.pick(PickInfo(), 0.0) for _ in range(200)}) == 5


def test_text_and_bytes_of_it_are_the_same_key() -> None:
    pool = pool_of("consistent_hash", endpoints(50))
    assert pool.picker.pick(PickInfo("zoë"), 0.0) is pool.picker.pick(PickInfo("zoë".encode()), 0.0)


def test_excluded_node_is_passed_over_for_the_next_on_the_ring() -> None:
    """Two calls with the same key that fail at home go to the same second node."""
    pool = pool_of("consistent_hash", endpoints(5))
    home = pool.picker.pick(PickInfo("k"), 0.0)
    assert isinstance(home, Node)
    seconds = {pool.picker.pick(PickInfo("k", exclude=(home,)), 0.0) for _ in range(10)}
    assert len(seconds) == 1
    assert home not in seconds


def test_all_excluded_is_home_again() -> None:
    pool = pool_of("consistent_hash", endpoints(3))
    home = pool.picker.pick(PickInfo("k"), 0.0)
    assert pool.picker.pick(PickInfo("k", exclude=tuple(pool.members)), 0.0) is home


def test_ring_that_grew_node_by_node_is_cut_as_finely_as_a_new_one() -> None:
    """Work per change and per pick stays what it is for a fleet of that size."""
    pool = pool_of("consistent_hash", endpoints(1))
    for number in range(2, 200):
        pool.apply(Resolved(endpoints(number)), 0.0)
        assert homes(pool)
    ring = pool.picker._choose._table  # type: ignore[attr-defined]
    assert max(map(len, ring._arcs)) < 4 * POINTS_PER_ARC


@pytest.mark.parametrize("name", ["consistent_hash", "consistent_hash?table=maglev&table_size=1009"])
def test_weights_that_grow_one_by_one_end_where_a_new_table_is(name: str) -> None:
    """On the way what counts as the usual weight changes, and with it everybody's number of points."""
    given_endpoints = list(endpoints(12))
    pool = pool_of(name, tuple(given_endpoints))
    for number, endpoint in enumerate(given_endpoints):
        given_endpoints[number] = replace(endpoint, weight=4)
        pool.apply(Resolved(tuple(given_endpoints)), 0.0)
        assert homes(pool) == homes(pool_of(name, tuple(given_endpoints)))
