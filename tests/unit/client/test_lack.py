"""Why nobody is meant, in words."""

from dataclasses import replace

from registry_client import Health, Instance, Status
from registry_client.lack import why_none

PLAYER = Instance("player", "10.0.0.5", 8001, id="p1")


def test_nobody_registered() -> None:
    assert why_none("player", (), filtered=True) == "no instance of player is registered"
    assert why_none("player", (), filtered=False) == "no instance of player is registered"


def test_those_that_are_are_counted_by_what_speaks_against_them() -> None:
    registered = (
        replace(PLAYER, status=Status.DRAINING),
        replace(PLAYER, status=Status.DRAINING, health=Health.CRITICAL),
        replace(PLAYER, status=Status.DOWN),
        replace(PLAYER, health=Health.CRITICAL),
        replace(PLAYER, health=Health.UNHEALTHY),
        replace(PLAYER, weight=0),
    )
    who, told = "no instance of player gets traffic", "1 critical, 1 down, 2 draining, 1 of weight 0, 1 unhealthy"
    assert why_none("player", registered, filtered=False) == f"{who}: of 6 registered, {told}"


def test_a_filter_speaks_against_those_that_nothing_else_does() -> None:
    registered = (PLAYER, PLAYER, replace(PLAYER, status=Status.DOWN))
    assert why_none("player", registered, filtered=True) == (
        "no instance of player is meant: of 3 registered, 1 down, 2 not matching the filter"
    )
