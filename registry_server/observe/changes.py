"""Says at debug who comes, changes and leaves."""

import logging
from collections.abc import Sequence

from registry_server.catalog import Change

log = logging.getLogger(__name__)

# A step may change a hundred thousand instances; so many of them are named.
MAX_NAMED = 20


class ChangeLog:
    """A listener."""

    def changed(self, changes: Sequence[Change]) -> None:
        """One line for each of the first few changes of a step, and one for the rest of them."""
        if not log.isEnabledFor(logging.DEBUG):
            return
        for change in changes[:MAX_NAMED]:
            log.debug("%s", described(change))
        if len(changes) > MAX_NAMED:
            log.debug("and %d more at revision %d", len(changes) - MAX_NAMED, changes[-1].revision)

    def refresh_all(self) -> None:
        """What changed by it was told already."""


def described(change: Change) -> str:
    """What happened to whom, in words. The lease is a secret of its owner's."""
    if change.after is None:
        why = change.cause.value if change.cause else "gone"
        return f"{change.key} left at revision {change.revision}: {why}"
    host, port = change.after.address
    what = "came" if change.before is None else "changed"
    return f"{change.key} {what} at revision {change.revision}: {host}:{port}"
