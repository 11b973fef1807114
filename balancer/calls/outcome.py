"""CORE: how an attempt ended, and what that says: of the endpoint, and of whether anybody has seen the call.

Codes are the numbers of grpc.StatusCode.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from balancer.calls.retry import never_left, speaks_against

if TYPE_CHECKING:
    from balancer.calls.retry import MetadataLike


class Verdict(enum.Enum):
    """What the end of an attempt says of its endpoint."""

    OK = "answered"
    FAILED = "failed, as the server or the connection says"
    AGAINST = "failed, and that is the endpoint's fault"
    EXCUSED = "failed, as this process had stood still: that may be its own fault"
    REFUSED = "found no connection: no server can have seen the call"
    OURS = "ended on this side: cancelled, or something of the caller's did not work"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended."""

    verdict: Verdict
    code: int
    trailers: MetadataLike | None = None
    committed: bool = False
    """Part of the response has reached the application, or part of the request is not kept: there is no going back."""
    connected: bool = False
    """Of REFUSED: by now there is a connection, so the endpoint may be asked once more."""


def verdict_of(code: int, details: str | None, *, made_here: bool) -> Verdict:
    """What a status says. `made_here`: grpcio made it up on this side, of something the caller did or gave."""
    if code == 0:
        return Verdict.OK
    if made_here:
        return Verdict.OURS
    if never_left(code, details):
        return Verdict.REFUSED
    return Verdict.AGAINST if speaks_against(code) else Verdict.FAILED
