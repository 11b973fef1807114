"""CORE: the columns of both tables: what is in them, how they are sorted, and which go first where it gets narrow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeAlias, TypeVar

from rich.cells import cell_len

from registry_client.cli.table import GAP, LEAST

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from registry_client.cli.top.board import Board, Service
    from registry_client.instance import Instance

Row = TypeVar("Row")
Order: TypeAlias = str | float
_UNITS = ((48 * 3600, 86400, "d"), (100 * 60, 3600, "h"), (100, 60, "m"))
_STATES = ("ACTIVE", "DRAINING", "DOWN", "HEALTHY", "UNKNOWN", "UNHEALTHY", "CRITICAL")
_NEVER = float("-inf")


class Moment(NamedTuple):
    """When it is looked at: by a clock that goes on steadily, in seconds, and by that on the wall."""

    now_s: float
    at: datetime


@dataclass(frozen=True, slots=True)
class Trait(Generic[Row]):
    """`drop`: those with the highest go first where there is no room; 0 stays. `order`: what the rows go by, the
    largest first unless it is text."""

    title: str
    text: Callable[[Row, Moment], str]
    order: Callable[[Row], Order]
    drop: int = 0
    right: bool = True


def age_text(seconds: float) -> str:
    """In the unit that says enough; clocks differ, and nothing is younger than nothing."""
    for least, unit, name in _UNITS:
        if seconds >= least:
            return f"{seconds // unit:.0f}{name}"
    return f"{max(0.0, seconds):.0f}s"


def _since(when: datetime | None, moment: Moment) -> str:
    return "-" if when is None else age_text((moment.at - when).total_seconds())


def _ago(when_s: float | None, moment: Moment) -> str:
    return "-" if when_s is None else age_text(moment.now_s - when_s)


def _young(when: datetime | None) -> float:
    return _NEVER if when is None else when.timestamp()


def _late(when_s: float | None) -> float:
    return _NEVER if when_s is None else when_s


def _number(number: int) -> str:
    return str(number) if number else "-"


def services(*, with_namespace: bool) -> tuple[Trait[Service], ...]:
    """Those of the table of services."""
    namespace: Trait[Service] = Trait("NAMESPACE", lambda it, _: it.name[0], lambda it: it.name[0], right=False)
    return (
        *([namespace] if with_namespace else []),
        Trait("SERVICE", lambda it, _: it.name[1], lambda it: it.name[1], right=False),
        Trait("INSTANCES", lambda it, _: str(it.instances), lambda it: it.instances),
        Trait("ROUTABLE", lambda it, _: str(it.routable), lambda it: it.routable, 2),
        Trait("HEALTHY", lambda it, _: _number(it.healthy), lambda it: it.healthy, 5),
        Trait("UNHEALTHY", lambda it, _: _number(it.unhealthy + it.critical), lambda it: it.unhealthy + it.critical, 4),
        Trait("DRAINING", lambda it, _: _number(it.draining), lambda it: it.draining, 6),
        Trait("CHANGES/S", lambda it, moment: _rate(it, moment), lambda it: it.rate.order, 3),
        Trait("CHANGED", lambda it, moment: _ago(it.changed_s, moment), lambda it: _late(it.changed_s), 1),
        Trait("OLDEST", lambda it, moment: _since(it.oldest, moment), lambda it: -_young(it.oldest), 7),
        Trait("NEWEST", lambda it, moment: _since(it.newest, moment), lambda it: _young(it.newest), 8),
    )


def _rate(it: Service, moment: Moment) -> str:
    rate = it.rate.now(moment.now_s)
    return f"{rate:.1f}" if rate >= 0.05 else "-"


def instances(board: Board) -> tuple[Trait[Instance], ...]:
    """Those of the table of the instances of one service."""
    return (
        Trait("ID", lambda it, _: it.id, lambda it: it.id, right=False),
        Trait("ADDRESS", lambda it, _: it.address, lambda it: it.address, 1, right=False),
        Trait("STATUS", lambda it, _: it.status.value, lambda it: _STATES.index(it.status.value), 2, right=False),
        Trait("HEALTH", lambda it, _: it.health.value, lambda it: _STATES.index(it.health.value), 3, right=False),
        Trait("WEIGHT", lambda it, _: str(it.weight), lambda it: it.weight, 5),
        Trait("VERSION", lambda it, _: it.version, lambda it: it.version, 7, right=False),
        Trait("ZONE", lambda it, _: it.locality.zone, lambda it: it.locality.zone, 8, right=False),
        Trait(
            "CHANGED",
            lambda it, moment: _ago(board.changed_s(it.key), moment),
            lambda it: _late(board.changed_s(it.key)),
            4,
        ),
        Trait("AGE", lambda it, moment: _since(it.registered_at, moment), lambda it: _young(it.registered_at), 6),
    )


def fitting(drops: Sequence[int], widths: Sequence[int], width: int) -> list[tuple[int, int]]:
    """Which columns are shown in so many cells, by number, and how wide; the first one is cut as the last resort."""
    shown = list(range(len(drops)))
    while _total([widths[at] for at in shown]) > width:
        at = max(shown, key=lambda at: drops[at])
        if not drops[at]:
            break
        shown.remove(at)
    excess = _total([widths[at] for at in shown]) - width
    first = max(LEAST, widths[shown[0]] - max(0, excess)) if excess > 0 else widths[shown[0]]
    return [(shown[0], min(first, widths[shown[0]])), *((at, widths[at]) for at in shown[1:])]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def widths_of(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    """Cells that each column takes."""
    return [max(map(cell_len, cells)) for cells in zip(titles, *rows, strict=True)]
