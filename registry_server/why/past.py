"""CORE: what is known of instances that left: when, and why."""

from typing import NamedTuple, Protocol

from registry_server.catalog import Catalog
from registry_server.records import Cause, Key


class LastLeft(NamedTuple):
    """An instance that left. `cause` is None, and `at_s` (seconds since 1970) too, where that is not known; `by` is the
    identity that brought it about, `detail` is more of it for people."""

    key: Key
    cause: Cause | None
    revision: int
    at_s: float | None = None
    by: str = ""
    detail: str = ""


class Past(Protocol):
    """What remembers."""

    def last_left(self, namespace: str, service: str, id_: str = "") -> LastLeft | None:
        """The latest time that this instance left, or any of the service; None if that is not known."""


class CatalogPast:
    """As much of it as the catalog's log of changes has."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def last_left(self, namespace: str, service: str, id_: str = "") -> LastLeft | None:
        """See Past."""
        for change in reversed(self._catalog.log_of(namespace, service)):
            if change.after is None and id_ in ("", change.key.id):
                return LastLeft(change.key, change.cause, change.revision)
        return None
