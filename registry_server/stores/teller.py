"""How far the events of a store have come, by whichever connection; for stores that may lose one and get another."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from registry_server.records import MAX_FENCE, Away, Back, Delta, Ill, Progress, Snapshot, StoreEvent
from registry_server.stores.base import Emit
from registry_server.stores.epoch import Epoch

# An illness that was told so lately is not told again, unless it was longer.
ILL_AGAIN_S = 0.25
# How often it is said in the log that a store has not been reached yet.
ABSENT_AGAIN_S = 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Told:
    """How far the events have come: everything up to `revision` in the order that `epoch` names."""

    epoch: str
    revision: int
    fence: int = 0


@dataclass(slots=True)
class Teller:
    """What has been told so far, so that each Away comes once and nothing is told twice.

    `given_out` is at least what any epoch told so far may have given out, see Snapshot.fence.
    """

    emit: Emit
    clock: Callable[[], float]
    has_started: bool = False
    told: Told | None = None
    given_out: int = 0
    _is_away: bool = False
    _ill_at: float = field(default=-1e9)
    _silence_s: float = 0.0

    def start(self, opening: Sequence[Snapshot | Back], told: Told) -> None:
        """A link is up: full sets, or the sign that the telling goes on."""
        was_away, self._is_away, self.has_started = self._is_away, False, True
        for event in opening:
            if isinstance(event, Snapshot) or was_away:
                self.emit(event)
        self._has_told(told)

    def tell(self, events: Iterable[StoreEvent], told: Told) -> None:
        """Events that lead up to `told`."""
        for event in events:
            if isinstance(event, Delta | Progress):
                # Also when it cannot be taken in: the next link must not stumble over it again.
                self._has_told(replace(told, revision=event.revision))
            self.emit(event)
        self._has_told(told)

    def ill(self, reason: str, silence_s: float) -> None:
        """The store is heard again after so long a silence."""
        is_new = self.clock() - self._ill_at > ILL_AGAIN_S or silence_s > self._silence_s
        if self.has_started and not self._is_away and is_new:
            self._ill_at, self._silence_s = self.clock(), silence_s
            self.emit(Ill(reason, silence_s))

    def forget(self) -> None:
        """What was told leads nowhere; the next link starts with the full set."""
        self.told = None

    def away(self, reason: str) -> None:
        """The link is lost. Before the first full set there is nobody to tell."""
        if self.has_started and not self._is_away:
            self._is_away = True
            self.emit(Away(reason))

    def goes_on(self, name: str) -> bool:
        """Whether what was told last was of the epoch of that name."""
        return self.told is not None and self.told.epoch == name

    def is_ahead_of(self, name: str, revision: int) -> bool:
        """Whether more was told of that epoch than the store has: it was set back (restored from a backup)."""
        return self.told is not None and self.told.epoch == name and revision < self.told.revision

    def needs_epoch(self, epoch: Epoch | None, name: str, revision: int) -> bool:
        """Whether a new epoch has to begin: there is none, or the one that is found, at that revision, leads back.

        What is told from a revision that the store has not reached would be silence, so a store that is behind what was
        told (restored from a backup) gets a new epoch; and so does one whose fence somebody set back.
        """
        if epoch is None:
            return True
        if self.goes_on(name):
            return self.is_ahead_of(name, revision)
        return epoch.fence + revision < self.given_out < MAX_FENCE

    def _has_told(self, told: Told) -> None:
        self.told, self.given_out = told, max(self.given_out, told.fence + told.revision)


class Absent:
    """Says in the log that a store has not been reached yet: at once, and then once a minute."""

    def __init__(self, what: str, clock: Callable[[], float]) -> None:
        self._what = what
        self._clock = clock
        self._next_at = clock()

    def tell(self, reason: str) -> None:
        """It was tried in vain."""
        if self._clock() >= self._next_at:
            self._next_at = self._clock() + ABSENT_AGAIN_S
            _log.warning("%s is not there yet, and is tried for on: %s", self._what, reason)
