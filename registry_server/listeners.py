"""CORE: who is told what changed in the catalog. The hub is one; who keeps a history, counts or checks is another."""

from collections.abc import Sequence
from typing import Protocol

from registry_server.changes import Change
from registry_server.settings import SettingChange


class Listener(Protocol):
    """Told by the feed, synchronously, in the loop that everything runs in: it takes note, and does the work later.

    Of what is large it is told a part at a time, and `Feed.is_in_parts` until the last of them.
    """

    def changed(self, changes: Sequence[Change]) -> None:
        """These came, changed or left, in this order, at least one; the catalog shows it by now."""

    def settings_changed(self, changes: Sequence[SettingChange]) -> None:
        """The same of settings."""

    def refresh_all(self) -> None:
        """The order of changes began anew: no revision from before means anything now."""
