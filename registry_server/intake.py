"""CORE: what the store told and nobody has taken in yet: in its order, and no more at a time than is good."""

from collections import deque
from collections.abc import Callable, Iterator

from registry_server.records import StoreEvent, size

# An event of more records is large: of it SLICE are taken in at a time, and others have their turn in between. No write
# of the registry's is as large, nor what the stores of this house tell at once when leases end.
AT_ONCE = 200
SLICE = 100


class Intake:
    """`begin` gives the work that an event makes, which is done a piece at a time, as it is asked for. `events` are
    those that wait, with the one that is being taken in."""

    def __init__(self, begin: Callable[[StoreEvent], Iterator[None]]) -> None:
        self._begin = begin
        self.events: deque[StoreEvent] = deque()
        self._work: Iterator[None] | None = None

    def add(self, event: StoreEvent) -> None:
        """It is taken in when all before it are."""
        self.events.append(event)

    def turn(self) -> None:
        """Do a piece of what is large, or as many small events as come to one."""
        left = SLICE
        while self.events and left > 0:
            event = self.events[0]
            if self._work is None:
                self._work = self._begin(event)
            left -= max(1, min(size(event), SLICE))
            if next(self._work, self) is self:
                self._work = None
                self.events.popleft()
