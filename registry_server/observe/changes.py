"""Says at debug who comes, changes and leaves, and what is set."""

import logging
from collections.abc import Sequence

from registry_server.changes import Change
from registry_server.settings import SettingChange

log = logging.getLogger(__name__)

# A step may change a hundred thousand instances; so many of them are named.
MAX_NAMED = 20


class ChangeLog:
    """A listener."""

    def changed(self, changes: Sequence[Change]) -> None:
        """One line for each of the first few changes of a step, and one for the rest of them."""
        _say(changes)

    def settings_changed(self, changes: Sequence[SettingChange]) -> None:
        """The same of settings."""
        _say(changes)

    def refresh_all(self) -> None:
        """What changed by it was told already."""


def _say(changes: Sequence[Change | SettingChange]) -> None:
    if not log.isEnabledFor(logging.DEBUG):
        return
    for change in changes[:MAX_NAMED]:
        log.debug("%s", described(change), extra={"revision": change.revision})
    if len(changes) > MAX_NAMED:
        revision = changes[-1].revision
        log.debug("and %d more at revision %d", len(changes) - MAX_NAMED, revision, extra={"revision": revision})


def described(change: Change | SettingChange) -> str:
    """What happened to whom, in words. The lease is a secret of its owner's, and so may be what is set."""
    at = f"at revision {change.revision}"
    if change.after is None:
        why = f": {change.cause.value if change.cause else 'gone'}" if isinstance(change, Change) else ""
        return f"{change.key} left {at}{why}"
    what = "came" if change.before is None else "changed"
    where = "" if isinstance(change, SettingChange) else f": {change.after.address[0]}:{change.after.address[1]}"
    return f"{change.key} {what} {at}{where}"
