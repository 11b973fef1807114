"""Endpoints as xDS says them: what every client takes, and the shares that each kind makes of it."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_api.registry.xds.v1 import resources_pb2 as xds
from registry_server.model import Entry
from registry_server.xds import flaws
from registry_server.xds.endpoints import MAX_CLASSES, MAX_SUM, Assignment, Spot, Spots, assignment
from registry_server.xds.kinds import numeric
from tests.support.core import key, record

HERE = ("eu", "eu-1", "")
places = st.tuples(st.sampled_from(["", "eu", "us"]), st.sampled_from(["", "eu-1", "eu-2"]), st.sampled_from(["", "x"]))
weights = st.one_of(st.integers(1, 5), st.integers(1, 1_000_000))


@st.composite
def spots(draw: st.DrawFn) -> list[Spot]:
    found = draw(st.lists(st.tuples(weights, places), max_size=100))
    return [Spot(f"10.0.{at // 256}.{at % 256}", 1 + at, weight, place) for at, (weight, place) in enumerate(found)]


def read(found: Assignment) -> xds.ClusterLoadAssignment:
    return xds.ClusterLoadAssignment.FromString(found.encoded)


def spot(number: int, weight: int = 1, place: tuple[str, str, str] = ("", "", "")) -> Spot:
    return Spot(f"10.0.{number // 256}.{number % 256}", 80, weight, place)


@given(spots(), places, st.booleans())
def test_every_client_takes_it(found: list[Spot], near: tuple[str, str, str], in_one: bool) -> None:
    it = read(assignment("player", found, near, in_one=in_one))
    assert list(flaws.of_assignment(it)) == []
    assert it.cluster_name == "player"
    told = [(point.endpoint.address.socket_address) for locality in it.endpoints for point in locality.lb_endpoints]
    assert sorted((at.address, at.port_value) for at in told) == sorted(it[:2] for it in found)


@given(spots())
def test_shares_follow_the_weights_by_locality_and_by_endpoint(found: list[Spot]) -> None:
    it = read(assignment("player", found))
    wanted = {spot[:2]: Fraction(spot.weight, sum(it.weight for it in found)) for spot in found}
    in_all = sum(locality.load_balancing_weight.value for locality in it.endpoints)
    for locality in it.endpoints:
        alike = len({point.load_balancing_weight.value for point in locality.lb_endpoints}) == 1
        for point in locality.lb_endpoints:
            at = point.endpoint.address.socket_address
            assert Fraction(point.load_balancing_weight.value, in_all) == wanted[at.address, at.port_value]
            if alike:
                share = Fraction(locality.load_balancing_weight.value, in_all * len(locality.lb_endpoints))
                assert share == wanted[at.address, at.port_value]


def test_weights_are_put_together_where_there_are_too_many() -> None:
    it = read(assignment("player", [spot(number, 1 + number * 7) for number in range(1_000)]))
    assert len(it.endpoints) <= MAX_CLASSES
    for locality in it.endpoints:
        found = [point.load_balancing_weight.value for point in locality.lb_endpoints]
        assert sum(found) == locality.load_balancing_weight.value
        assert max(found) <= 1.2 * min(found) + 8


def test_weights_that_add_up_to_too_much_are_made_smaller() -> None:
    it = read(assignment("player", [spot(number, 1_000_000) for number in range(5_000)]))
    assert sum(locality.load_balancing_weight.value for locality in it.endpoints) <= MAX_SUM
    assert list(flaws.of_assignment(it)) == []


def test_what_is_nearer_has_priority_without_a_gap() -> None:
    found = [spot(1, place=("us", "us-1", "")), spot(2, place=("eu", "eu-1", "")), spot(3, place=("eu", "eu-2", ""))]
    assert ranks(found, HERE) == {"10.0.0.2": 0, "10.0.0.3": 1, "10.0.0.1": 2}
    assert ranks(found[:2], HERE) == {"10.0.0.2": 0, "10.0.0.1": 1}
    assert ranks(found, ("", "", "")) == {"10.0.0.1": 0, "10.0.0.2": 0, "10.0.0.3": 0}


def ranks(found: list[Spot], near: tuple[str, str, str]) -> dict[str, int]:
    return {
        point.endpoint.address.socket_address.address: locality.priority
        for locality in read(assignment("player", found, near)).endpoints
        for point in locality.lb_endpoints
    }


def test_hashing_has_one_locality_of_weight_one() -> None:
    (locality,) = read(assignment("player", [spot(1, 1), spot(2, 8)], in_one=True)).endpoints
    assert locality.load_balancing_weight.value == 1
    assert [point.load_balancing_weight.value for point in locality.lb_endpoints] == [1, 8]


def test_no_more_is_told_than_goes_in_a_message() -> None:
    network = "2001:db8:aaaa:bbbb:cccc:dddd:eeee"
    found = [Spot(f"{network}:{number:x}", 65535, 100, ("", "", "")) for number in range(60_000)]
    encoded = assignment("player", found)
    assert len(read(encoded).endpoints) == 1
    assert len(encoded) < flaws.MAX_RESOURCE_BYTES


def entry(id_: str, **fields: object) -> Entry:
    return Entry.of(record(key(id_), 1, **fields))


def test_only_the_routable_and_each_address_once() -> None:
    entries = [
        entry("a", host="10.0.0.1", port=1),
        entry("b", host="10.0.0.2", port=1, status=1),
        entry("c", host="10.0.0.3", port=1, health=2),
        entry("d", host="10.0.0.4", port=1, weight=7),
        entry("e", host="2001:DB8::1", port=1),
        entry("f", host="2001:db8:0::1", port=1),
        entry("g", host="::ffff:10.0.0.4", port=1),
        entry("h", host="unknown.example", port=1),
    ]
    found = Spots().of(entries, numeric)
    assert [(it.address, it.weight) for it in found] == [("10.0.0.1", 100), ("10.0.0.4", 7), ("2001:db8::1", 100)]


def test_an_address_of_ipv4_is_written_as_one() -> None:
    """Envoy connects to no other: it is one of IPv6 alone to it."""
    assert numeric("::FFFF:10.0.0.1") == "10.0.0.1"


@pytest.mark.parametrize("host", ["fe80::1%eth0", "host.example", "", "10.0.0", "010.0.0.1"])
def test_what_is_no_number(host: str) -> None:
    assert numeric(host) == ""
