"""Endpoints are values: checked when made, usable as keys."""

from dataclasses import replace
from math import nan

import pytest

from balancer.endpoints import Endpoint, Locality


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"address": ""}, "address"),
        ({"weight": -1}, "weight"),
        ({"weight": 1.5}, "weight"),
        ({"weight": nan}, "weight"),
        ({"weight": "3"}, "weight"),
        ({"priority": -1}, "priority"),
    ],
)
def test_mistakes_name_the_field(fields: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}:"):
        replace(Endpoint("10.0.0.1:80"), **fields)  # type: ignore[arg-type]


def test_endpoints_are_keys_in_spite_of_metadata() -> None:
    one, same = (Endpoint("a:1", metadata={"shard": "7"}) for _ in range(2))
    assert {one: 1}[same] == 1
    assert replace(one, metadata={"shard": "8"}) != one


@pytest.mark.parametrize(
    ("own", "other", "distance"),
    [
        (Locality("eu", "a"), Locality("eu", "a"), 0),
        (Locality("eu", "a", "rack-1"), Locality("eu", "a", "rack-2"), 0),
        (Locality("eu", "a"), Locality("eu", "b"), 1),
        (Locality("eu", "a"), Locality("eu"), 1),
        (Locality("eu"), Locality("eu"), 1),
        (Locality("eu", "a"), Locality("us", "a"), 2),
        (Locality(), Locality(), 2),
        (Locality("", "a"), Locality("", "a"), 0),
    ],
)
def test_distance(own: Locality, other: Locality, distance: int) -> None:
    assert own.distance(other) == distance
    assert other.distance(own) == distance
