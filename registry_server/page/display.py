"""CORE: what one page is told, as it changes: all services in numbers, and the instances of the one that it looks at.

State goes to the page and no log: it is told what differs from what it was told last, in messages of a bounded size,
each of them a bounded piece of work.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, takewhile
from typing import NamedTuple, TypeAlias, TypeVar

from registry_server.catalog import Catalog
from registry_server.changes import Change, Name
from registry_server.guard import RemovalGuard
from registry_server.history.history import History
from registry_server.model import Query
from registry_server.page.shown import Cells, event_row, instance_row, left_row, service_row, why_gone
from registry_server.records import Key
from registry_server.rights import Rights

# So many rows are in a message.
SERVICES_AT_ONCE, INSTANCES_AT_ONCE, EVENTS_AT_ONCE = 500, 250, 100
# ... and so many events are looked at, at once, which of them may be seen.
MAX_EVENTS = 5_000
# Who looks at a service is shown what left it lately: so many, for so long.
MAX_LEFT, LEFT_S = 100, 300.0
# Of more changes than these all is told anew: to look at them would take longer than a step may.
MAX_CHANGES = 20_000

_EVERYTHING = Query("")
Data: TypeAlias = Mapping[str, object]
Item = TypeVar("Item")


class Message(NamedTuple):
    """What it is about, as the page's script knows it, and what it says.

    Rows are put (`set`) or taken away (`gone`, with the reason). With `begins`, what follows is all that there is; what
    the page knew and was not told by the one with `ends` is there no more.
    """

    event: str
    data: Data


class Sources(NamedTuple):
    """What there is to show. `guard` knows whose removal waits, `history` is what happened up to now."""

    catalog: Catalog
    guard: RemovalGuard
    history: Callable[[], History]


class Look(NamedTuple):
    """What a page shows beside the services: `looks_at`, one that may be seen, None if there is none or it was
    `refused`; and what happens after the event of a number, 0 for all that is remembered, None for nothing."""

    looks_at: Name | None = None
    refused: str = ""
    events: int | None = None


class Display:
    """One page."""

    def __init__(self, sources: Sources, rights: Rights, look: Look) -> None:
        self._catalog, self._guard, self._history = sources
        self._rights = rights
        self._looks_at, self._refused, self._number = look
        self._seq: int | None = None
        self._held: frozenset[Key] = frozenset()

    def messages(self, now_s: float) -> Iterator[Message]:
        """All that leads from what the page was told to what is there now, in seconds since 1970. The
        catalog may change between two of them."""
        changes = self._changes()
        self._seq = self._catalog.seq
        if changes is None:
            yield from self._all_services()
            yield from self._all_instances(now_s)
        elif changes:
            yield from self._services(changes)
            yield from self._instances([it for it in changes if it.key[:2] == self._looks_at])
        if self._number is not None:
            yield from self._events(self._number)

    def held(self) -> Iterator[Message]:
        """What is to be told of instances because their removal waits since the last look, or does so no more."""
        if self._looks_at is None or not (len(self._guard) or self._held):
            return
        held = frozenset(it.key for it in self._catalog.of_service(*self._looks_at) if it.key in self._guard)
        changed, self._held = held ^ self._held, held
        for some in _parts(sorted(changed), INSTANCES_AT_ONCE):
            yield Message("instances", {"set": self._rows(some)})

    # ---- within

    def _changes(self) -> Sequence[Change] | None:
        """What happened since it was told something; None if all is to be told."""
        if self._seq is None or self._catalog.seq - self._seq > MAX_CHANGES:
            return None
        return self._catalog.changes(_EVERYTHING, self._seq) if self._catalog.seq != self._seq else ()

    def _all_services(self) -> Iterator[Message]:
        yield Message("services", {"begins": True})
        for namespace in self._catalog.namespaces():
            for some in _parts(self._catalog.services(namespace), SERVICES_AT_ONCE):
                yield Message("services", {"set": self._services_rows((namespace, it) for it in some)})
        yield Message("services", {"ends": True})

    def _all_instances(self, now_s: float) -> Iterator[Message]:
        yield Message("instances", {"begins": True, "refused": self._refused})
        if self._looks_at is not None:
            namespace, service = self._looks_at
            for block in self._catalog.blocks(Query(namespace, frozenset([service]))):
                for some in _parts(block.entries, INSTANCES_AT_ONCE):
                    yield Message("instances", {"set": self._rows([it.key for it in some])})
            yield Message("instances", {"left": self._left(self._looks_at, now_s - LEFT_S)})
        yield Message("instances", {"ends": True})

    def _left(self, name: Name, since_s: float) -> list[Cells]:
        """The latest that left a service, the oldest first."""
        recent = takewhile(lambda it: it.at_s >= since_s, self._history().backwards(name))
        found = {it.key: it for it in islice((it for it in recent if it.has_left), MAX_LEFT)}
        return [left_row(it) for it in reversed(found.values()) if self._catalog.get(it.key) is None]

    def _events(self, after: int) -> Iterator[Message]:
        """What happened since the last look: the latest of it, and whether there was `more`, or some is `lost` as it is
        forgotten already. `anew` where the page was told by another server of what it knows: then all counts."""
        history = self._history()
        is_anew = after > 0 and history.is_of_another(after)
        self._number = history.last
        if after == self._number:
            return
        came = history.since(None, 0 if is_anew else after)
        looked_at = came[-MAX_EVENTS:]
        meant = (it for it in reversed(looked_at) if self._rights.may("read", *it.name))
        rows = [event_row(it) for it in islice(meant, EVENTS_AT_ONCE)]
        more = len(came) > len(looked_at) or next(meant, None) is not None
        is_lost = after > 0 and not is_anew and not history.is_whole_since(None, after)
        yield Message("history", {"events": rows, "more": more, "lost": is_lost, "anew": is_anew})

    def _services(self, changes: Sequence[Change]) -> Iterator[Message]:
        last = {change.key[:2]: change for change in changes}
        for some in _parts([it for it in last if self._rights.may("read", *it)], SERVICES_AT_ONCE):
            gone = [[*it, *why_gone(last[it])] for it in some if not self._catalog.count(*it)[0]]
            yield Message("services", {"set": self._services_rows(some), "gone": gone})

    def _instances(self, changes: Sequence[Change]) -> Iterator[Message]:
        last = {change.key: change for change in changes}
        for some in _parts(list(last), INSTANCES_AT_ONCE):
            gone = [[it.id, *why_gone(last[it])] for it in some if self._catalog.get(it) is None]
            yield Message("instances", {"set": self._rows(some), "gone": gone})

    def _services_rows(self, names: Iterator[Name] | Sequence[Name]) -> list[Cells]:
        """Of those that may be seen and have instances."""
        shown = (it for it in names if self._rights.may("read", *it) and self._catalog.count(*it)[0])
        return [service_row(self._catalog, it) for it in shown]

    def _rows(self, keys: Sequence[Key]) -> list[Cells]:
        """Of those that are there."""
        found = filter(None, map(self._catalog.get, keys))
        return [instance_row(it.parse(), is_held=it.key in self._guard) for it in found]


def _parts(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part
