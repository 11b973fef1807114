"""CORE: what is going on at an endpoint: calls in flight, latency, errors. Counted here, judged by policies and outlier
detection.

A `Load` outlives picker swaps. Reading an estimate never changes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, isfinite
from threading import RLock

ERROR_RATE_SPAN = 16
"""Calls over which the error rate is smoothed."""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How latencies become an estimate. Raises ValueError when a time is not finite or the decay not above 0."""

    decay_s: float = 10.0
    """Time constant of the latency estimate (Finagle's default): after it, an old peak weighs 1/e."""
    failure_cost_s: float = 1.0
    """A failed call counts as at least this slow, or an endpoint that fails at once would look like the fastest."""

    def __post_init__(self) -> None:
        if not (isfinite(self.decay_s) and self.decay_s > 0):
            raise ValueError(f"decay_s: must be finite and above 0, is {self.decay_s}")
        if not (isfinite(self.failure_cost_s) and self.failure_cost_s >= 0):
            raise ValueError(f"failure_cost_s: must be finite and not negative, is {self.failure_cost_s}")


class LoadBook:
    """What the loads of one pool share: the lock, and the total in flight that bounded loads are relative to."""

    __slots__ = (
        "alarm_at",
        "alarmed",
        "failed",
        "finished",
        "in_flight",
        "last_used",
        "lock",
        "most",
        "options",
        "started",
        "wanted",
    )

    def __init__(self, options: LoadOptions | None = None, *, alarm_at: int | None = None) -> None:
        self.options = options or LoadOptions()
        self.alarm_at = alarm_at
        """Failures in a row at which `Load.finished` asks for a tick; None = never."""
        self.alarmed = False
        """One did, since the pool last looked."""
        self.lock = RLock()
        self.started = self.finished = self.failed = 0
        """Of all calls up to now; those that failed are finished, too."""
        self.in_flight = 0
        self.most: int | None = None
        """So many calls may be in flight, and no more; None = any number."""
        self.last_used: float | None = None
        self.wanted: object = None
        """A node that is to be connected though no call waits for it: `Load.finished` asks for a tick."""


class Load:
    """The load of one endpoint. Safe to use from many threads; plain attributes may be read at any time."""

    __slots__ = (
        "book",
        "calls",
        "consecutive_failures",
        "error_rate",
        "failures",
        "in_flight",
        "last_used",
        "peak_s",
        "stamp",
    )

    def __init__(self, book: LoadBook) -> None:
        self.book = book
        self.in_flight = 0
        self.calls = 0
        """Finished calls, failed ones included."""
        self.failures = 0
        self.consecutive_failures = 0
        self.error_rate = 0.0
        """Smoothed over about `ERROR_RATE_SPAN` calls, 0 to 1."""
        self.peak_s: float | None = None
        """The latency estimate as of `stamp`; None before the first call."""
        self.stamp = 0.0
        self.last_used: float | None = None

    def started(self, now: float) -> None:
        """A call begins. Each is to be followed by one `finished` or `abandoned`."""
        book = self.book
        with book.lock:
            self.in_flight += 1
            book.in_flight += 1
            book.started += 1
            self.last_used = book.last_used = now

    def finished(self, now: float, rtt_s: float, ok: bool = True) -> bool:
        """A call ended after `rtt_s` seconds; `ok` False when it speaks against the endpoint.

        Returns True when there is something the pool should look at now, such as this failure: call `Pool.tick`.
        """
        book = self.book
        with book.lock:
            self.in_flight -= 1
            book.in_flight -= 1
            self.calls += 1
            book.finished += 1
            if ok:
                if self.error_rate:
                    self.consecutive_failures = 0
                    self.error_rate -= self.error_rate / ERROR_RATE_SPAN
            else:
                self.failures += 1
                book.failed += 1
                self.consecutive_failures += 1
                self.error_rate += (1.0 - self.error_rate) / ERROR_RATE_SPAN
                rtt_s = max(rtt_s, book.options.failure_cost_s)
            self._observe(rtt_s, now)
            alarm = not ok and self.consecutive_failures == book.alarm_at
            if alarm:
                book.alarmed = True
            return alarm or book.wanted is not None

    def abandoned(self) -> None:
        """A call ended in a way that says nothing about the endpoint: cancelled by the caller, or never sent."""
        book = self.book
        with book.lock:
            self.in_flight -= 1
            book.in_flight -= 1

    def latency_s(self, now: float) -> float:
        """Peak EWMA in seconds as of `now`; 0 before the first call. An idle endpoint's estimate decays to 0."""
        if self.peak_s is None:
            return 0.0
        age = now - self.stamp
        return self.peak_s * exp(-age / self.book.options.decay_s) if age > 0 else self.peak_s

    def _observe(self, rtt_s: float, now: float) -> None:
        # Finagle's PeakEwma: a sample above the estimate replaces it at once, one below pulls it down
        # by the time that passed.
        if not isfinite(rtt_s):
            return
        rtt_s = max(rtt_s, 0.0)
        if self.peak_s is None:
            self.peak_s, self.stamp = rtt_s, now
            return
        age = max(now - self.stamp, 0.0)  # a clock that goes backwards counts as standing still
        keep = exp(-age / self.book.options.decay_s)
        self.peak_s = rtt_s if rtt_s > self.peak_s * keep else self.peak_s * keep + rtt_s * (1.0 - keep)
        self.stamp = max(self.stamp, now)
