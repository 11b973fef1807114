"""SHELL: remembers what changes as it is told of it, says so to who watches, and keeps it where the store can."""

import logging
from collections.abc import Callable, Sequence

from registry_server.changes import Change
from registry_server.feed import Feed
from registry_server.history.events import event_of
from registry_server.history.history import History
from registry_server.hub import Hub
from registry_server.settings import SettingChange

log = logging.getLogger(__name__)

# What a topic looks at when there is an event: (EVENTS, namespace, service), where no service is all of a namespace,
# and no namespace is all there is.
EVENTS = "events"


class Recorder:
    """A Listener. `now` is wall-clock time in seconds."""

    def __init__(self, history: History, feed: Feed, hub: Hub, now: Callable[[], float]) -> None:
        self.history = history
        self._feed = feed
        self._hub = hub
        self._now = now
        # Numbers go on growing over restarts, as far as clocks do.
        self._number = int(now() * 1e6)
        self._has_begun = False
        self.from_revision = 0

    def fresh(self) -> History:
        """What is remembered, without what has become too old."""
        self.history.expire(self._now())
        return self.history

    def known_since(self) -> float:
        """Since when events are remembered, in seconds of the wall clock."""
        return self.history.known_since(self._now())

    # ---- as a Listener

    def changed(self, changes: Sequence[Change]) -> None:
        """See Listener. What is there when the server comes is no event."""
        late = self._feed.tells_late
        if late and not self._has_begun:
            return
        now, epoch = self._now(), self._feed.catalog.epoch
        for change in changes[-self.history.limit :] if self.history.limit else ():
            self._number += 1
            self.history.add(event_of(change, self._number, now, epoch, late=late))
        for namespace, service in {change.key[:2] for change in changes}:
            self._hub.wake((EVENTS, namespace, service))
            self._hub.wake((EVENTS, namespace, ""))
        self._hub.wake((EVENTS, "", ""))

    def settings_changed(self, changes: Sequence[SettingChange]) -> None:
        """See Listener. Nothing is remembered of settings."""

    def refresh_all(self) -> None:
        """See Listener."""
        self._has_begun = True
        self.from_revision = self._feed.catalog.revision
