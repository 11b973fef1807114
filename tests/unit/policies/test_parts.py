"""A service in the parts of its split: which instance is of which, and what each gets."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_api.registry.v1 import policies_pb2 as pb
from registry_api.registry.v1 import registry_pb2
from registry_server.model import Entry
from registry_server.policies.parts import REST, WHOLE, split
from registry_server.records import Key, Record

V1, V2 = pb.Part(version="1.0", weight=90), pb.Part(version="2.0", weight=10)


def entry(name: str, version: str = "1.0", tags: Iterable[str] = (), weight: int = 100) -> Entry:
    it = registry_pb2.Instance(host="10.0.0.1", port=80, version=version, tags=tags, weight=weight)
    return Entry.of(Record(Key("default", "player", name), it.SerializeToString(), "1", 1, 1))


def of(policy: pb.Policy | None, *entries: Entry) -> list[tuple[str, int, str]]:
    return [(it.name, it.weight, "".join(e.key.id for e in it.entries)) for it in split(policy, entries)]


def policy(*parts: pb.Part) -> pb.Policy:
    return pb.Policy(service="player", split=parts)


def test_without_a_split_the_service_is_one() -> None:
    entries = entry("a"), entry("b", "2.0")
    assert of(None, *entries) == of(policy(), *entries) == [(WHOLE, 1, "ab")]


def test_by_version() -> None:
    entries = entry("a"), entry("b", "2.0"), entry("c"), entry("d", "3.0")
    assert of(policy(V1, V2), *entries) == [("version=1.0", 90, "ac"), ("version=2.0", 10, "b")]


def test_by_tag_and_the_rest() -> None:
    entries = entry("a", tags=["canary", "x"]), entry("b"), entry("c", tags=["x"])
    parts = pb.Part(tag="canary", weight=1), pb.Part(tag="x", weight=2), pb.Part(weight=3)
    assert of(policy(*parts), *entries) == [("tag=canary", 1, "a"), ("tag=x", 2, "c"), (REST, 3, "b")]


def test_a_part_whose_instances_get_nothing_has_no_share() -> None:
    entries = entry("a"), entry("b", "2.0", weight=0)
    assert of(policy(V1, V2), *entries) == [("version=1.0", 90, "a"), ("version=2.0", 0, "b")]


@pytest.mark.parametrize("entries", [(), (entry("a", "3.0"),), (entry("a", weight=0), entry("b", "3.0"))])
def test_when_nobody_fits_the_service_is_whole(entries: tuple[Entry, ...]) -> None:
    assert of(policy(V1, V2), *entries) == [(WHOLE, 1, "".join(it.key.id for it in entries))]


def test_a_part_without_a_share_alone_takes_no_traffic() -> None:
    parts = pb.Part(version="1.0", weight=0), pb.Part(version="2.0", weight=5)
    assert of(policy(*parts), entry("a")) == [(WHOLE, 1, "a")]


@given(
    st.lists(st.sampled_from("1234")),
    st.lists(st.tuples(st.sampled_from("1234"), st.integers(0, 3)), unique_by=lambda it: it[0]),
)
def test_nobody_is_in_two_parts_and_somebody_gets_traffic(versions: list[str], parts: list[tuple[str, int]]) -> None:
    entries = [entry(f"i{number}", version) for number, version in enumerate(versions)]
    shares = split(policy(*(pb.Part(version=version, weight=weight) for version, weight in parts)), entries)
    told = [it for share in shares for it in share.entries]
    assert len(told) == len({it.key for it in told}) <= len(entries)
    assert any(share.weight for share in shares)
    if entries:
        assert any(share.weight and share.entries for share in shares)
