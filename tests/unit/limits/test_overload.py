"""When work is refused: renewals never, reads last, then writes, new streams first."""

import pytest

from registry_server.limits.overload import MEBIBYTE, Overload, Work
from registry_server.limits.quotas import Quotas

BEAT_S = 0.25


def busy(overload: Overload, late_s: float, beats: int = 40, busy_s: float = 10.0) -> None:
    for _ in range(beats):
        overload.waited(late_s, busy_s, BEAT_S + late_s)


def refused(overload: Overload) -> set[Work]:
    return {work for work in Work if overload.refuses(work)}


@pytest.mark.parametrize(
    ("late_s", "work"),
    [
        (0.0, set()),
        (0.9, set()),
        (1.1, {Work.STREAM}),
        (2.1, {Work.STREAM, Work.WRITE}),
        (4.1, {Work.STREAM, Work.WRITE, Work.READ}),
        (1000.0, {Work.STREAM, Work.WRITE, Work.READ}),
    ],
)
def test_the_longer_others_wait_the_more_is_refused(late_s: float, work: set[Work]) -> None:
    overload = Overload(Quotas(max_lag_ms=1000), None)
    busy(overload, late_s, busy_s=1000.0)
    assert refused(overload) == work
    assert bool(overload.reason) is bool(work)


def test_it_passes() -> None:
    overload = Overload(Quotas(), None)
    busy(overload, 9.0)
    assert refused(overload)
    busy(overload, 0.0, beats=60)
    assert not refused(overload)
    assert not overload.reason


def test_one_long_step_is_none() -> None:
    overload = Overload(Quotas(), None)
    overload.waited(1.0, 1.0, 1.25)
    assert not refused(overload)


def test_a_standstill_of_the_process_is_none() -> None:
    """It did not work meanwhile: it was stopped, or others had the processor."""
    overload = Overload(Quotas(), None)
    for late_s in (3600.0, 20.0, 5.0):
        overload.waited(late_s, 0.05, BEAT_S + late_s)
    assert not refused(overload)


def test_a_clock_that_goes_back_is_none() -> None:
    overload = Overload(Quotas(), None)
    for _ in range(10):
        overload.waited(-5.0, 0.1, -4.75)
    assert overload.lag_s >= 0.0
    assert not refused(overload)


@pytest.mark.parametrize(
    ("part", "work"),
    [
        (0.84, set()),
        (0.86, {Work.STREAM}),
        (0.93, {Work.STREAM, Work.WRITE}),
        (1.5, {Work.STREAM, Work.WRITE, Work.READ}),
    ],
)
@pytest.mark.parametrize("is_set", [True, False])
def test_memory(part: float, work: set[Work], *, is_set: bool) -> None:
    limit = 1000 * MEBIBYTE
    overload = Overload(Quotas(max_memory_mib=1000), None) if is_set else Overload(Quotas(), limit)
    overload.takes(round(part * limit))
    assert refused(overload) == work
    assert ("memory" in overload.reason) is bool(work)
    overload.takes(0)
    assert not refused(overload)


def test_without_a_limit_memory_is_no_reason() -> None:
    overload = Overload(Quotas(), None)
    overload.takes(1 << 50)
    assert not refused(overload)
