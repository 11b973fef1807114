"""An outage is one line when it begins and one when it ends, and a store that flaps does not fill the log."""

import pytest

from registry_server.observe.outages import EVERY_S, LASTS_S, OutageLog


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def outages(said: list[str]) -> OutageLog:
    return OutageLog(said.append)


def test_one_line_when_it_begins_and_one_when_it_ends(outages: OutageLog, said: list[str]) -> None:
    outages.away("gone", 100.0)
    outages.look(150.0)
    outages.back(50.5, 150.0, 17)
    assert len(said) == 2
    assert said[0] == "the store is away: gone"
    assert said[1].startswith("the store is back after 50.5 s; 17 calls failed or were held meanwhile, and ")


def test_store_that_flaps_is_said_rarely(outages: OutageLog, said: list[str]) -> None:
    for number in range(60):
        outages.away("gone", 100.0 + number)
        outages.look(100.5 + number)
        outages.back(0.5, 100.5 + number)
    assert len(said) <= 2 * 60 / EVERY_S + 2
    assert any("more like this before" in line for line in said)


def test_outage_soon_after_another_is_said_when_it_lasts(outages: OutageLog, said: list[str]) -> None:
    outages.away("gone", 100.0)
    outages.back(1.0, 101.0)
    outages.away("gone again", 102.0)
    outages.look(102.0 + LASTS_S - 0.1)
    assert len(said) == 2
    outages.look(102.0 + LASTS_S)
    outages.look(102.0 + 2 * LASTS_S)
    outages.back(60.0, 162.0)
    assert [line.partition(" after")[0] for line in said[2:]] == [
        "the store is away: gone again (1 more like this before)",
        "the store is back",
    ]


def test_end_of_an_outage_that_was_not_said_is_not_said(outages: OutageLog, said: list[str]) -> None:
    outages.away("gone", 100.0)
    outages.back(1.0, 101.0)
    outages.away("gone", 102.0)
    outages.back(1.0, 103.0)
    outages.look(200.0)
    assert len(said) == 2


def test_illness_and_standstill_are_causes_of_their_own(outages: OutageLog, said: list[str]) -> None:
    outages.away("gone", 100.0)
    outages.ill("silent for 3 s", 100.0)
    outages.ill("silent for 3 s", 101.0)
    outages.stood_still(0.5, 102.0)
    outages.stood_still(60.0, 103.0)
    assert said[1:] == ["the store was ill: silent for 3 s", "this process stood still for 60.0 s"]
