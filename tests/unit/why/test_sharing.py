"""What a traffic policy does with each instance of a service, against what xDS and channels are told of it."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from registry_api.registry.v1 import policies_pb2
from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.model import Entry, Query
from registry_server.policies.parts import split
from registry_server.why.sharing import LEFT_OUT, SHARELESS, UNFITTING, Shares
from tests.support.core import key, record

EVERYTHING = Query("default", frozenset({"player"}))


def entry(id_: str = "one", **fields: Any) -> Entry:
    return Entry.of(record(key(id_), 1, **fields))


def canary(*parts: tuple[str, int]) -> policies_pb2.Policy:
    return policies_pb2.Policy(
        service="player", split=[policies_pb2.Part(version=version, weight=weight) for version, weight in parts]
    )


def counted(policy: policies_pb2.Policy | None, *entries: Entry, query: Query = EVERYTHING) -> Shares:
    shares = Shares(policy, query)
    for it in entries:
        shares.look([it])
    return shares


def test_the_first_thing_that_speaks_against_an_instance_is_told() -> None:
    ill = entry("ill", status=pb.DRAINING, health=pb.UNHEALTHY, weight=0)
    entries = [
        entry("a"),
        ill,
        entry("b", status=pb.DOWN),
        entry("c", health=pb.UNHEALTHY),
        entry("d", health=pb.CRITICAL),
        entry("e", weight=0),
    ]
    shares = counted(None, *entries)
    assert shares.lack_of(ill) == "draining"
    assert shares.lacks() == {"": 1, "draining": 1, "down": 1, "unhealthy": 1, "critical": 1, "of weight 0": 1}
    assert shares.total == 6


def test_a_filter_leaves_out_what_it_does_not_mean() -> None:
    query = Query.of("default", ["player"], pb.Filter(tags=["eu"]))
    shares = counted(None, entry("a"), entry("b", tags=["eu"]), query=query)
    assert shares.lacks() == {"": 1, LEFT_OUT: 1}


def test_parts_share_what_is_there() -> None:
    one, two, three = entry("a", version="1"), entry("b", version="2"), entry("c", version="3")
    shares = counted(canary(("1", 90), ("2", 0)), one, two, three)
    assert [shares.lack_of(it) for it in (one, two, three)] == ["", SHARELESS, UNFITTING]
    assert shares.part_of(one) == ("version=1", 90, 90)
    assert shares.part_of(three) is None


def test_a_service_of_which_no_part_can_take_anything_is_whole() -> None:
    one = entry("a", version="3")
    shares = counted(canary(("1", 90), ("2", 10)), one)
    assert (shares.lack_of(one), shares.part_of(one)) == ("", None)


instances: st.SearchStrategy[dict[str, Any]] = st.builds(
    dict,
    version=st.sampled_from("123"),
    status=st.sampled_from(pb.Status.values()),
    health=st.sampled_from(pb.Health.values()),
    weight=st.sampled_from([0, 1, 7]),
)


@given(st.lists(instances, max_size=8), st.lists(st.tuples(st.sampled_from("1234"), st.integers(0, 3)), max_size=4))
def test_it_is_what_clients_are_told(found: list[dict[str, Any]], parts: list[tuple[str, int]]) -> None:
    policy = canary(*parts) if parts else None
    entries = [entry(f"i{number}", **fields) for number, fields in enumerate(found)]
    shares = counted(policy, *entries)
    told = {it.key.id for share in split(policy, entries) if share.weight for it in share.entries if it.routable}
    assert {it.key.id for it in entries if not shares.lack_of(it)} == told
    assert shares.lacks().get("", 0) == len(told)
