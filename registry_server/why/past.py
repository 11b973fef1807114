"""CORE: what is known of what happened to instances: how they left, and who made them what they are."""

from itertools import islice
from typing import NamedTuple

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.catalog import Catalog
from registry_server.history.history import History
from registry_server.model import Entry
from registry_server.records import UNSAID, Author, Cause, Key

# So many of the latest events of an instance are looked through.
MAX_EVENTS = 200


class LastLeft(NamedTuple):
    """An instance that left. `cause` is None, and `at_s` (seconds since 1970) too, where that is not known; `late`: it
    may have been earlier than that."""

    key: Key
    cause: Cause | None
    revision: int
    at_s: float | None = None
    by: Author = UNSAID
    detail: str = ""
    late: bool = False


class Turned(NamedTuple):
    """Since when something of an instance is as it is (seconds since 1970), and who made it so."""

    at_s: float
    by: Author


class Past:
    """What the history remembers; what it has forgotten, as far as the catalog's log of changes goes."""

    def __init__(self, history: History, catalog: Catalog) -> None:
        self._history = history
        self._catalog = catalog

    def last_left(self, namespace: str, service: str, id_: str = "") -> LastLeft | None:
        """The latest time that this instance left, or any of the service; None if that is not known."""
        event = self._history.last_left(namespace, service, id_)
        if event is not None:
            (at_s, late, _), by = event.moment, event.told.author
            cause = Cause.__members__.get(event.told.why.name)
            return LastLeft(event.key, cause, event.revision, at_s, by, event.detail, late)
        for change in reversed(self._catalog.log_of(namespace, service)):
            if change.after is None and id_ in ("", change.key.id):
                return LastLeft(change.key, change.cause, change.revision)
        return None

    def turned(self, entry: Entry, field: str) -> Turned | None:
        """When that field of an instance became what it is; None if that is not known, or it came with it."""
        is_now = getattr(entry.parse(), field)
        for event in islice(self._history.of(*entry.key[:3]), MAX_EVENTS):
            before, after = _parsed(event.told.before), _parsed(event.told.after)
            if before is None or after is None or getattr(after, field) != is_now:
                return None
            if getattr(before, field) != is_now:
                return Turned(event.at_s, event.told.author)
        return None


def _parsed(encoded: bytes | None) -> pb.Instance | None:
    return None if encoded is None else pb.Instance.FromString(encoded)
