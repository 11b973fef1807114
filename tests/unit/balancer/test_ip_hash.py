"""ip_hash: an address is itself, however it is written."""

from random import Random

import pytest

from balancer.policies.base import Node, PickInfo
from balancer.policies.ip_hash import canonical
from tests.support.fleet import endpoints, key_of, pool_of


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ("10.0.0.1", "10.0.0.1:443"),
        ("10.0.0.1", "ipv4:10.0.0.1:50123"),
        ("10.0.0.1", b"10.0.0.1"),
        ("::1", "[::1]:443"),
        ("::1", "ipv6:[::1]:50123"),
        ("::1", "ipv6:%5B::1%5D:50123"),
        ("::1", "0:0:0:0:0:0:0:1"),
        ("2001:DB8::A", "[2001:db8:0::a]:1"),
    ],
)
def test_ways_to_write_an_address(one: str, same: str | bytes) -> None:
    assert canonical(one, None) == canonical(same, None)
    pool = pool_of("ip_hash", endpoints(100))
    assert pool.picker.pick(PickInfo(one), 0.0) is pool.picker.pick(PickInfo(same), 0.0)


@pytest.mark.parametrize(("one", "other"), [("10.0.0.1", "10.0.0.2"), ("::1", "::2"), ("10.0.0.1", "10.0.0.1.example")])
def test_others_are_others(one: str, other: str) -> None:
    assert canonical(one, None) != canonical(other, None)


def test_prefix_makes_a_network_one_key_as_in_nginx() -> None:
    pool = pool_of("ip_hash?prefix=24", endpoints(10))
    assert len({pool.picker.pick(PickInfo(f"10.1.2.{n}:99"), 0.0) for n in range(256)}) == 1
    assert len({pool.picker.pick(PickInfo(f"10.1.{n}.7"), 0.0) for n in range(256)}) == 10
    assert canonical("::1", 24) != canonical("::2", 24)


@pytest.mark.parametrize("odd", ["", "player-7", "300.1.1.1", b"\xff\xfe", "[::1", "1.2.3", "a:b:c"])
def test_what_is_no_address_is_a_key_all_the_same(odd: str | bytes) -> None:
    for spec in ("ip_hash", "ip_hash?prefix=24"):
        pool = pool_of(spec, endpoints(5))
        assert pool.picker.pick(PickInfo(odd), 0.0) is pool.picker.pick(PickInfo(odd), 0.0)


def test_clients_of_one_network_are_spread() -> None:
    pool, rng = pool_of("ip_hash", endpoints(5)), Random(1)
    assert len({pool.picker.pick(PickInfo(f"192.168.0.{n}"), 0.0) for n in range(100)}) == 5
    picks = [pool.picker.pick(PickInfo(key_of(rng)), 0.0) for _ in range(10_000)]  # more than are remembered
    assert all(isinstance(pick, Node) for pick in picks)
