"""CORE: where a page of events ended, so that any replica goes on there: each numbers events in a way of its own."""

import hashlib
import re
from typing import NamedTuple

from registry_server.errors import InvalidField
from registry_server.history.events import MAX_NUMBER, Event

_TOKEN = re.compile(r"(\d{1,16})-(\d{1,19})-([0-9a-f]{8})-([0-9a-f]{16})", re.ASCII)
_MAX_REVISION = 2**63 - 1
# Of names, so many bytes are enough to tell them apart.
_EPOCH_BYTES, _EVENT_BYTES = 4, 8


class Place(NamedTuple):
    """The last event that was told: its number, which is good where it was told, and what it is known by elsewhere."""

    number: int
    revision: int
    epoch: str
    event: str

    @classmethod
    def of(cls, event: Event) -> "Place":
        """The place of an event."""
        names = _mark(f"{event.key.namespace}/{event.key.service}/{event.key.id} {event.told.why.value}", _EVENT_BYTES)
        return cls(event.number, event.revision, _mark(event.moment.epoch, _EPOCH_BYTES), names)

    @classmethod
    def read(cls, token: str) -> "Place":
        """What a token says. Raises InvalidField for one that is none."""
        found = _TOKEN.fullmatch(token)
        if found is None or int(found[1]) > MAX_NUMBER or int(found[2]) > _MAX_REVISION:
            raise InvalidField("page_token", "is none that this registry gave")
        return cls(int(found[1]), int(found[2]), found[3], found[4])

    @property
    def token(self) -> str:
        """The same as text."""
        return f"{self.number}-{self.revision}-{self.epoch}-{self.event}"


class Search:
    """Looks at events, the latest first, for those that come after a place in that order: they are numbered before
    `before`. Where nothing is known of its epoch, that is as clocks say."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._epochs: dict[str, bool] = {}
        self._has_met = False
        self.before = place.number

    def look(self, event: Event) -> bool:
        """Look at the next event; return whether the place is found."""
        if not self._is_of_epoch(event.moment.epoch):
            return self._has_met  # what is older than an epoch is older than all of it
        if not self._has_met:
            self._has_met = True
            self.before = event.number + 1
        place = self._place
        if event.revision == place.revision and Place.of(event).event == place.event:
            self.before = event.number
            return True
        if event.revision > place.revision:
            self.before = event.number
        return event.revision < place.revision

    def _is_of_epoch(self, epoch: str) -> bool:
        if epoch not in self._epochs:
            self._epochs[epoch] = _mark(epoch, _EPOCH_BYTES) == self._place.epoch
        return self._epochs[epoch]


def _mark(name: str, size: int) -> str:
    return hashlib.blake2b(name.encode(errors="replace"), digest_size=size).hexdigest()
