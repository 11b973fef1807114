"""Those who asked to be told of the channel's state."""

from __future__ import annotations

import logging
import sys
import threading
from typing import TYPE_CHECKING

from balancer.channels.connectivity import TO_GRPC
from balancer.policies.base import ConnectivityState

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc

log = logging.getLogger(__name__)


class Connectivity:
    """Tells subscribers of the channel's state, in a thread that lives as long as there is something to tell,
    as gRPC's own does."""

    def __init__(self) -> None:
        # Reentrant: letting go of a callback may end its owner, who unsubscribes when it ends.
        self._lock = threading.RLock()
        self._state = ConnectivityState.IDLE
        self._subscribers: list[_Subscriber] = []
        self._telling = False

    @property
    def has_subscribers(self) -> bool:
        """Somebody wants to be told."""
        return bool(self._subscribers)

    def subscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        with self._lock:
            self._subscribers.append(_Subscriber(callback))
            self._tell_soon()

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        if sys.is_finalizing():  # nobody is told any more, and a thread that is gone may hold the lock for ever
            return
        with self._lock:
            for subscriber in self._subscribers:
                if subscriber.callback == callback:
                    self._subscribers.remove(subscriber)
                    return

    def unsubscribe_all(self) -> None:
        with self._lock:
            self._subscribers = []

    def update(self, state: ConnectivityState) -> None:
        with self._lock:
            if state is not self._state:
                self._state = state
                self._tell_soon()

    def _tell_soon(self) -> None:
        if self._subscribers and not self._telling:
            self._telling = True
            threading.Thread(target=self._tell, name="balancer-connectivity", daemon=True).start()

    def _tell(self) -> None:
        while True:
            with self._lock:
                state = self._state
                due = [subscriber for subscriber in self._subscribers if subscriber.told is not state]
                for subscriber in due:
                    subscriber.told = state
                if not due:
                    self._telling = False
                    return
            for subscriber in due:
                try:
                    subscriber.callback(TO_GRPC[state])
                except Exception:
                    log.exception("a connectivity callback failed")


class _Subscriber:
    __slots__ = ("callback", "told")

    def __init__(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        self.callback = callback
        self.told: ConnectivityState | None = None
