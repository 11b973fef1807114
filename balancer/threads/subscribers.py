"""Those who asked to be told of the channel's state."""

from __future__ import annotations

import contextlib
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
        subscriber = _Subscriber(callback)
        with self._lock:
            self._subscribers = [*self._subscribers, subscriber]
        self._tell_soon()

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        if sys.is_finalizing():  # nobody is told any more, and a thread that is gone may hold the lock for ever
            return
        with self._lock:
            for subscriber in self._subscribers:
                if subscriber.callback == callback:
                    self._subscribers = [other for other in self._subscribers if other is not subscriber]
                    return

    def unsubscribe_all(self) -> None:
        with self._lock:
            self._subscribers = []

    def update(self, state: ConnectivityState) -> None:
        with self._lock:
            changes, self._state = state is not self._state, state
        if changes:
            with contextlib.suppress(RuntimeError):  # no thread is to be had: it is told with the next change
                self._tell_soon()

    def _tell_soon(self) -> None:
        """Without the lock, since to start a thread is to wait for it."""
        with self._lock:
            begins = bool(self._subscribers) and not self._telling
            self._telling = self._telling or begins
        if not begins:
            return
        try:
            threading.Thread(target=self._tell, name="balancer-connectivity", daemon=True).start()
        except BaseException:
            self._telling = False
            raise

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
