"""CORE: when a call may be tried again (gRFC A6), and what a status says about the endpoint it came from.

Codes are the numbers of grpc.StatusCode; times are seconds; randomness is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from random import Random

UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS = 2, 4, 13, 14, 15
ATTEMPTS_HEADER = "grpc-previous-rpc-attempts"
PUSHBACK_TRAILER = "grpc-retry-pushback-ms"
ATTEMPTS_LIMIT = 5
"""A6: a larger maxAttempts is taken as this."""
JITTER = 0.2
_MAX_DIGITS = 12
"""Of a pause that a server asks for, in milliseconds: that of more is no time that anybody waits."""
HEADERS_SETTLE_S = 0.02
"""A failure that comes no later than this after empty response headers came with them, in one frame (Trailers-Only):
grpcio does not tell the two apart, and only headers that came by themselves commit a call (A6)."""

MetadataLike: TypeAlias = Iterable[tuple[str, str | bytes]]

# gRPC core says so when a call found no connection to go out on; the only sign of it that reaches Python.
_NOT_CONNECTED = ("failed to connect to all addresses", "DNS resolution failed for ", "Empty address list")
_AGAINST = frozenset((UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS))


def never_left(code: int, details: str | None) -> bool:
    """True when a call failed because there was no connection: no server can have seen it, so any other may get it."""
    return code == UNAVAILABLE and details is not None and details.startswith(_NOT_CONNECTED)


def speaks_against(code: int) -> bool:
    """True for the codes that are an endpoint's fault rather than the caller's or the application's.

    These are the ones Envoy's gRPC outlier detection maps to HTTP 500, 503 and 504.
    """
    return code in _AGAINST


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`retryPolicy` of a method config."""

    max_attempts: int
    initial_backoff_s: float
    max_backoff_s: float
    backoff_multiplier: float
    retryable: frozenset[int]

    def backoff_s(self, retry: int, rng: Random) -> float:
        """The pause before the `retry`-th retry, counted from 1 (A6, with its later amendment on jitter)."""
        pause_s = min(self.initial_backoff_s * self.backoff_multiplier ** (retry - 1), self.max_backoff_s)
        return pause_s * rng.uniform(1.0 - JITTER, 1.0 + JITTER)


@dataclass(frozen=True, slots=True)
class HedgingPolicy:
    """`hedgingPolicy` of a method config."""

    max_attempts: int
    hedging_delay_s: float
    non_fatal: frozenset[int]


class Throttle:
    """`retryThrottling`: tokens that failures take and successes give back; below half, nothing is tried again.

    Shared by all calls of a channel. Additions from several threads may be lost now and then, which only blurs
    the count.
    """

    def __init__(self, max_tokens: float, token_ratio: float) -> None:
        self.max_tokens = max_tokens
        self.token_ratio = token_ratio
        self.tokens = max_tokens

    @property
    def allows(self) -> bool:
        """True while more than half of the tokens are there."""
        return self.tokens > self.max_tokens / 2

    def failed(self) -> None:
        self.tokens = max(0.0, self.tokens - 1.0)

    def succeeded(self) -> None:
        self.tokens = min(self.max_tokens, self.tokens + self.token_ratio)


@dataclass(frozen=True, slots=True)
class Pushback:
    """What the server asked for in its trailer."""

    stop: bool
    pause_s: float = 0.0


def pushback(trailers: MetadataLike | None) -> Pushback | None:
    """The server's `grpc-retry-pushback-ms`; a negative or unreadable value asks to stop (A6)."""
    for key, value in trailers or ():
        if key == PUSHBACK_TRAILER:
            text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
            is_time = text.isdecimal() and len(text) <= _MAX_DIGITS
            return Pushback(stop=False, pause_s=int(text) / 1000) if is_time else Pushback(stop=True)
    return None


@dataclass(frozen=True, slots=True)
class Retrying:
    """What a method's calls share."""

    policy: RetryPolicy
    throttle: Throttle | None = None

    def begin(self) -> Retries:
        return Retries(self)


class Retries:
    """The retries of one call."""

    __slots__ = ("_attempts", "_backoffs", "_policy", "_throttle")

    def __init__(self, retrying: Retrying) -> None:
        self._policy = retrying.policy
        self._throttle = retrying.throttle
        self._attempts = 1
        self._backoffs = 0

    @property
    def previous(self) -> int:
        """How many attempts went before the one under way."""
        return self._attempts - 1

    def succeeded(self) -> None:
        if self._throttle is not None:
            self._throttle.succeeded()

    def pause_after(
        self,
        code: int,
        trailers: MetadataLike | None,
        rng: Random,
        *,
        committed: bool = False,
        excused: bool = False,
    ) -> float | None:
        """An attempt that the server saw failed: the pause before the next one in seconds, None = that was the last.

        `committed`: part of its response has reached the application, so it cannot be replaced any more. `excused`: it
        says nothing of how the servers are, so it takes no token.
        """
        asked = pushback(trailers)
        retryable = code in self._policy.retryable
        stop = asked is not None and asked.stop
        if self._throttle is not None and (retryable or stop) and not excused:
            self._throttle.failed()
        if committed or not retryable or stop or self._attempts >= self._policy.max_attempts:
            return None
        if self._throttle is not None and not self._throttle.allows:
            return None
        self._attempts += 1
        if asked is not None:
            self._backoffs = 0  # the server set the pace; the next backoff begins anew
            return asked.pause_s
        self._backoffs += 1
        return self._policy.backoff_s(self._backoffs, rng)


def marked(metadata: tuple[tuple[str, str | bytes], ...], previous: int) -> tuple[tuple[str, str | bytes], ...]:
    """`metadata` of an attempt that `previous` others went before."""
    rest = tuple(entry for entry in metadata if entry[0] != ATTEMPTS_HEADER)
    return (*rest, (ATTEMPTS_HEADER, str(previous))) if previous else rest


@dataclass(frozen=True, slots=True)
class Hedging:
    """What a method's hedged calls share."""

    policy: HedgingPolicy
    throttle: Throttle | None = None

    def begin(self) -> Hedges:
        return Hedges(self)


class Hedges:
    """The attempts of one hedged call: when the next is due, and when the last word was spoken."""

    __slots__ = ("_next", "_policy", "_throttle", "over", "sent")

    def __init__(self, hedging: Hedging) -> None:
        self._policy = hedging.policy
        self._throttle = hedging.throttle
        self.sent = 1
        """How many attempts were begun; one that takes the place of a refused one is not counted."""
        self.over = False
        """True once a failure was final for the call."""
        self._next: float | None = None

    def pause_s(self, now: float) -> float | None:
        """How long to wait for the attempts under way before the next one is due; None = until they end."""
        if not self._may_send():
            return None
        if self._next is None:
            self._next = now + self._policy.hedging_delay_s
        return max(0.0, self._next - now)

    def due(self, now: float) -> bool:
        """True when another attempt is to be begun now; it is then counted as begun."""
        if not self._may_send() or self._next is None or now < self._next:
            return False
        self._next = now + self._policy.hedging_delay_s
        self.sent += 1
        return True

    def stop(self) -> None:
        """No more attempts: those under way decide."""
        self.sent = self._policy.max_attempts

    def replaced(self, now: float) -> None:
        """No server saw an attempt: the one that takes its place begins now, and does not count."""
        self._next = now + self._policy.hedging_delay_s

    def failed(self, code: int, trailers: MetadataLike | None, now: float, *, excused: bool = False) -> None:
        """An attempt failed where a server may have seen it. `excused`: as above."""
        asked = pushback(trailers)
        counts = code in self._policy.non_fatal or (asked is not None and asked.stop)
        if self._throttle is not None and counts and not excused:
            self._throttle.failed()
        if code not in self._policy.non_fatal:
            self.over = True
        elif asked is None:
            self._next = float("-inf")
        elif asked.stop:
            self.stop()
        else:
            self._next = now + asked.pause_s  # and from there on one delay after the other (A6)

    def succeeded(self) -> None:
        if self._throttle is not None:
            self._throttle.succeeded()

    def _may_send(self) -> bool:
        return self.sent < self._policy.max_attempts and (self._throttle is None or self._throttle.allows)
