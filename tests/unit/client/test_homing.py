"""When a preferred registry that was left is gone back to."""

import pytest

from registry_client.homing import BEGUN_ANEW_S, MOST_S, RELAPSE_S, STEADY_S, Homing

HOME = "h1:7400"


def waited_s(homing: Homing, now: float, epoch: str = "e1", every_s: float = 1.0) -> float:
    """For how long it has to answer, from `now`, until it is gone back to."""
    at = now
    while not homing.answered(HOME, epoch, at):
        at += every_s
        assert at < now + 10 * MOST_S
    return at - now


@pytest.fixture
def homing() -> Homing:
    homing = Homing()
    homing.used(HOME, "e1")
    homing.left(100.0)
    return homing


def test_it_has_to_work_for_a_while(homing: Homing) -> None:
    assert waited_s(homing, 110.0) == STEADY_S


def test_a_failure_begins_the_while_anew(homing: Homing) -> None:
    assert not homing.answered(HOME, "e1", 110.0)
    homing.failed(HOME)
    assert waited_s(homing, 110.0 + STEADY_S) == STEADY_S


def test_one_that_forgot_all_is_given_time_to_hear_of_it_again(homing: Homing) -> None:
    assert waited_s(homing, 110.0, "e2") == BEGUN_ANEW_S


def test_one_that_was_never_in_use_may_have_just_begun() -> None:
    homing = Homing()
    homing.left(0.0)
    assert waited_s(homing, 1.0) == BEGUN_ANEW_S


def test_a_new_epoch_on_the_way_begins_the_while_anew(homing: Homing) -> None:
    assert not homing.answered(HOME, "e1", 110.0)
    assert not homing.answered(HOME, "e2", 110.0 + STEADY_S)


def test_each_address_for_itself(homing: Homing) -> None:
    assert not homing.answered("h2:7400", "e1", 100.0)
    homing.failed("h2:7400")
    assert waited_s(homing, 101.0) == STEADY_S


def test_who_comes_and_goes_is_waited_for_longer_and_longer(homing: Homing) -> None:
    now, waits = 110.0, list[float]()
    for _ in range(8):
        waits.append(waited_s(homing, now))
        now += waits[-1] + 1.0
        homing.left(now)
    assert waits == [min(STEADY_S * 2**n, MOST_S) for n in range(8)]


def test_who_stayed_is_trusted_again(homing: Homing) -> None:
    for _ in range(3):
        now = 110.0 + waited_s(homing, 110.0)
        homing.left(now + 1.0)
    now = 1000.0 + waited_s(homing, 1000.0)
    homing.left(now + RELAPSE_S)
    assert waited_s(homing, 2000.0) == STEADY_S
