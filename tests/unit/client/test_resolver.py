"""Views become what the balancer understands."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

import balancer
from registry_client.bridge.translate import Translator, endpoint_of
from registry_client.health import Health
from registry_client.instance import Instance, Locality, Status
from registry_client.view import Changes, View

PLAYER = Instance(
    "player", "10.0.0.5", 8001, id="p1", namespace="default", version="2.0.0", weight=3, tags=["eu"],
    metadata={"map": "dust"}, locality=Locality("eu", "eu-1", "a"),
)  # fmt: skip


def view_of(*instances: Instance, after: View | None = None, stale_for: float | None = None) -> View:
    """A view that follows another one."""
    before = dict(after.by_key) if after else {}
    by_key = {it.key: it for it in instances}
    changes = Changes(
        tuple(it for key, it in by_key.items() if key not in before),
        tuple(it for key, it in by_key.items() if key in before and before[key] != it),
        tuple(it for key, it in before.items() if key not in by_key),
    )
    return View(by_key, "e", 1, stale_for, changes)


def test_an_endpoint_has_all_that_the_instance_tells() -> None:
    assert endpoint_of(PLAYER) == balancer.Endpoint(
        "10.0.0.5:8001",
        weight=3,
        id="p1",
        version="2.0.0",
        locality=balancer.Locality("eu", "eu-1", "a"),
        tags=("eu",),
        metadata={"map": "dust"},
    )


def test_nothing_registered_is_absent_and_nobody_routable_is_empty() -> None:
    translator = Translator("player")
    first = view_of()
    assert isinstance(translator.resolution(first), balancer.Absent)
    second = view_of(replace(PLAYER, status=Status.DRAINING), after=first)
    assert translator.resolution(second) == balancer.Resolved(
        (), lack="no instance of player gets traffic: of 1 registered, 1 draining"
    )
    third = view_of(PLAYER, after=second, stale_for=4.0)
    assert translator.resolution(third) == balancer.Resolved((endpoint_of(PLAYER),), stale_for_s=4.0)
    assert isinstance(translator.resolution(view_of(after=third)), balancer.Absent)


def test_what_did_not_change_is_the_very_same_object() -> None:
    translator, other = Translator("player"), replace(PLAYER, id="p2", port=8002)
    first = view_of(PLAYER, other)
    before = translator.resolution(first)
    after = translator.resolution(view_of(PLAYER, replace(other, weight=9), after=first))
    assert isinstance(before, balancer.Resolved)
    assert isinstance(after, balancer.Resolved)
    assert before.endpoints[0] is after.endpoints[0]
    assert (before.endpoints[1].weight, after.endpoints[1].weight) == (3, 9)


STATES = st.builds(
    lambda name, status, health, weight: replace(
        PLAYER, id=name, port=8000 + ord(name), status=status, health=health, weight=weight
    ),
    st.sampled_from("abcd"),
    st.sampled_from(Status),
    st.sampled_from(Health),
    st.integers(0, 2),
)


@given(st.lists(st.lists(STATES, max_size=5, unique_by=lambda it: it.id), max_size=8))
def test_any_sequence_of_views_gives_exactly_the_routable_ones(history: list[list[Instance]]) -> None:
    translator, view = Translator("player"), None
    for instances in history:
        view = view_of(*instances, after=view)
        resolution = translator.resolution(view)
        expected = {endpoint_of(it) for it in instances if it.routable}
        found = set(resolution.endpoints) if isinstance(resolution, balancer.Resolved) else set()
        assert found == expected
        assert isinstance(resolution, balancer.Absent) == (not instances)
