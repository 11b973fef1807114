"""CORE: the screen of `registryctl top`: what is looked at, what keys change of that, and the lines that show it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.cells import cell_len
from rich.text import Text

from registry_client.cli.plain import plain
from registry_client.cli.table import GAP, cell
from registry_client.cli.top.board import Board, Happening, Name, Service
from registry_client.cli.top.columns import Moment, Trait, age_text, fitting, instances, services, widths_of
from registry_client.health import Health
from registry_client.instance import Instance, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import date

KEYS = "q quit  s sort  r reverse  up/down choose  enter instances  esc services"
_EVENTS_AT_LEAST, _EVENTS_PART, _MOST_EVENTS = 14, 4, 10
"""Lines of a screen from which on events are shown, the part of it that they get, and the most."""
_ROOM_FOR_KEYS = 8
_GUTTER = "  "
_ILL = (Health.UNHEALTHY, Health.CRITICAL)


class Standing(NamedTuple):
    """How it stands with the registry. `trouble`: why it does not answer; `note`: what else was said last."""

    server: str
    space: str
    trouble: str = ""
    stale_for: float | None = None
    note: str = ""


@dataclass(slots=True)
class Looking:
    """How one table is looked at. `order` is the number of a column; `chosen` the name of a row, number `at`."""

    order: int = 0
    backwards: bool = False
    chosen: tuple[str, ...] | None = None
    at: int = 0
    first: int = 0
    page: int = 1
    names: Sequence[tuple[str, ...]] = ()

    def press(self, key: str, columns: int) -> None:
        """Take a key that is about the table."""
        match key:
            case "s":
                self.order, self.backwards = (self.order + 1) % columns, False
            case "r":
                self.backwards = not self.backwards
            case "up" | "k":
                self._move(-1)
            case "down" | "j":
                self._move(1)
            case "page up":
                self._move(-self.page)
            case "page down" | " ":
                self._move(self.page)
            case "home" | "g":
                self._move(-len(self.names))
            case "end" | "G":
                self._move(len(self.names))

    def _move(self, by: int) -> None:
        if self.names:
            self.at = min(max(0, self.at + by), len(self.names) - 1)
            self.chosen = self.names[self.at]

    def window(self, names: Sequence[tuple[str, ...]], height: int) -> range:
        """Which rows are shown in so many lines: the chosen one is among them."""
        self.names, self.page = names, max(1, height)
        if self.chosen in names:
            self.at = names.index(self.chosen)
        else:  # nobody has chosen yet, or it is gone: then the one in its place
            self.at = min(self.at, max(0, len(names) - 1))
            self.chosen = names[self.at] if self.chosen and names else None
        self.first = min(max(self.first, self.at - self.page + 1), self.at)
        self.first = max(0, min(self.first, len(names) - self.page))
        return range(self.first, min(len(names), self.first + self.page))


@dataclass(slots=True)
class Viewer:
    """`name`: the service whose instances are shown; None: the services are."""

    board: Board
    all_namespaces: bool = False
    name: Name | None = None
    by_service: Looking = field(default_factory=Looking)
    by_instance: Looking = field(default_factory=Looking)

    def press(self, key: str) -> bool:
        """Take a key. False for the one that ends it."""
        if key in ("q", "Q"):
            return False
        if key == "escape":
            self.name = None
        elif key == "enter" and self.name is None and self.by_service.names:
            namespace, service = self.by_service.names[self.by_service.at]
            self.name, self.by_instance = (namespace, service), Looking(self.by_instance.order)
        else:
            looking = self.by_service if self.name is None else self.by_instance
            looking.press(key, len(self._columns()))
        return True

    def lines(self, width: int, height: int, moment: Moment, state: Standing) -> list[Text]:
        """The screen, of at most `height` lines. Colours say nothing that words do not say."""
        events = min(_MOST_EVENTS, height // _EVENTS_PART) if height >= _EVENTS_AT_LEAST else 0
        footer = [Text(plain(state.note) or KEYS, "dim")] if height >= _ROOM_FOR_KEYS else []
        when, counts, *trouble = self.head(moment, state)
        above = [Text(when, "bold"), Text(counts), Text("".join(trouble), "bold red")]
        table = self._table(
            width, max(1, height - len(above) - len(footer) - (events + 1 if events else 0) - 1), moment
        )
        below = [Text(), *self._events(events, moment.at.date())] if events else []
        return [*above, *table, *below, *footer][:height]

    def head(self, moment: Moment, state: Standing) -> Iterator[str]:
        """When and where, how much there is, and what is wrong with it, if anything is."""
        found = self.board.service_rows()
        here, there = sum(it.instances for it in found), sum(it.routable for it in found)
        what = state.space if self.name is None else f"{state.space}, service {self.name[1]}"
        yield plain(f"{moment.at:%H:%M:%S}  {state.server}  {what}")
        counts = f"{_many(len(found), 'service')}, {_many(here, 'instance')}, {there} routable"
        rate = "" if self.board.is_new(moment.now_s) else f", {self.board.rate.now(moment.now_s):.1f} changes/s"
        view = self.board.view
        yield "" if view is None else f"{counts}{rate}, revision {view.revision}"
        if state.stale_for is not None:
            why = state.trouble or "the registry, or its store, is away"
            yield plain(f"! as of {age_text(state.stale_for)} ago: {why}")
        elif state.trouble:
            yield plain(f"! {state.trouble}")

    # ---- the table

    def table(self, moment: Moment) -> tuple[list[str], list[list[str]]]:
        """All of it: titles and rows, by name."""
        columns, rows = self._columns(), self._all_rows()
        return [it.title for it in columns], [[it.text(row, moment) for it in columns] for row in rows]

    def _columns(self) -> tuple[Trait[Any], ...]:
        return services(with_namespace=self.all_namespaces) if self.name is None else instances(self.board)

    def _table(self, width: int, height: int, moment: Moment) -> list[Text]:
        """The line of titles, and exactly `height` lines of rows."""
        columns, looking = self._columns(), self.by_service if self.name is None else self.by_instance
        looking.order = min(looking.order, len(columns) - 1)
        rows = self._rows(columns[looking.order], backwards=looking.backwards)
        shown = looking.window([_name(row) for row in rows], height)
        titles = [column.title + _mark(at, looking) for at, column in enumerate(columns)]
        cells = [[plain(column.text(rows[at], moment)) for column in columns] for at in shown]
        fit = fitting([it.drop for it in columns], widths_of(titles, cells), width - len(_GUTTER))
        lines = [Text(_line(_GUTTER, columns, titles, fit), "bold")]
        for at, row in zip(shown, cells, strict=True):
            chosen = at == looking.at
            line = _line(">" + _GUTTER[1:] if chosen else _GUTTER, columns, row, fit)
            lines.append(
                Text(line.ljust(width) if chosen else line, f"{_style(rows[at])}{' reverse' if chosen else ''}")
            )
        if not rows:
            lines.append(Text(_GUTTER + self._nothing()))
        return lines + [Text()] * (height + 1 - len(lines))

    def _rows(self, column: Trait[Any], *, backwards: bool) -> list[Any]:
        found = self._all_rows()
        is_text = bool(found) and isinstance(column.order(found[0]), str)
        return sorted(found, key=column.order, reverse=is_text is backwards)

    def _all_rows(self) -> Sequence[Any]:
        return self.board.service_rows() if self.name is None else self.board.instance_rows(self.name)

    def _nothing(self) -> str:
        if self.board.view is None:
            return "waiting for the registry"
        return "nothing is registered" if self.name is None else "no instance is registered"

    # ---- what happened

    def _events(self, height: int, today: date) -> list[Text]:
        """The latest ones, the newest last; exactly so many lines."""
        found = [it for it in self.board.events if self.name in (None, it.name)]
        lines = [Text(self._event(it, today), it.colour) for it in found[-height:]]
        return [Text()] * (height - len(lines)) + lines

    def _event(self, it: Happening, today: date) -> str:
        at = it.at.astimezone()
        when = f"{at:%H:%M:%S}" if at.date() == today else f"{at:%m-%d %H:%M}"
        return plain(f"{when} {it.name[0] + '/' if self.all_namespaces else ''}{it.text}")


def _name(row: Service | Instance) -> tuple[str, ...]:
    return row.name if isinstance(row, Service) else (row.namespace, row.service, row.id)


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _mark(at: int, looking: Looking) -> str:
    return ("^" if looking.backwards else "*") if at == looking.order else ""


def _line(gutter: str, columns: Sequence[Trait[Any]], cells: Sequence[str], fit: Iterable[tuple[int, int]]) -> str:
    return (gutter + GAP.join(_padded(cells[at], width, right=columns[at].right) for at, width in fit)).rstrip()


def _padded(text: str, width: int, *, right: bool) -> str:
    return " " * max(0, width - cell_len(text)) + text if right else cell(text, width)


def _style(row: Service | Instance) -> str:
    if isinstance(row, Service):
        return "red" if not row.routable else "yellow" if row.routable < row.instances else ""
    if row.health in _ILL:
        return "red"
    return "" if row.routable else "yellow" if row.status is not Status.DOWN else "dim"
