"""How many calls are begun in a turn: as many as take ten milliseconds, whatever one costs."""

import pytest

from registry_server.transport.http2.pacing import LEAST, MOST, Pacing


def after(cost_s: float, turns: int = 100) -> Pacing:
    pacing = Pacing()
    for _ in range(turns):
        pacing.next_turn()
        pacing.took(cost_s * pacing.room, pacing.room)
    pacing.next_turn()
    return pacing


@pytest.mark.parametrize(("cost_s", "room"), [(0.0001, 100), (0.001, 10), (1.0, LEAST), (0.0, MOST), (0.000001, MOST)])
def test_it_comes_to_what_a_turn_has_room_for(cost_s: float, room: int) -> None:
    assert abs(after(cost_s).room - room) <= 1


def test_what_gets_dearer_is_soon_found_out() -> None:
    pacing = after(0.0001)
    for _ in range(10):
        pacing.next_turn()
        pacing.took(0.005 * pacing.room, pacing.room)
    pacing.next_turn()
    assert pacing.room <= 5


def test_one_call_that_takes_long_says_little() -> None:
    pacing = after(0.0001)
    pacing.took(0.010, 1)
    pacing.next_turn()
    assert pacing.room >= 20
