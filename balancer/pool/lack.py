"""CORE: why a target has nothing to call."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from balancer.endpoints import Endpoint

NOTHING = "the target has no endpoints"


def none_usable(endpoints: Iterable[Endpoint]) -> str:
    """Why none of these may be picked, supposing that none may: how many there are, and what speaks against them."""
    reasons = Counter("of weight 0" if endpoint.weight == 0 else "draining or ill" for endpoint in endpoints)
    if not reasons:
        return NOTHING
    told = ", ".join(f"{number} {reason}" for reason, number in sorted(reasons.items()))
    return f"{NOTHING} that get traffic: of {reasons.total()} known, {told}"
