"""CORE: why there is no instance to show or to call: none registered, or how many are and what speaks against them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from registry_client.health import Health
from registry_client.instance import Instance, Status

if TYPE_CHECKING:
    from collections.abc import Iterable

_WELL = (Health.UNKNOWN, Health.HEALTHY)


def why_none(service: str, registered: Iterable[Instance], *, filtered: bool) -> str:
    """Why nothing is meant by a question about `service`, supposing that nothing is.

    registered: all instances of the service, whatever the question's filter says.
    filtered: the question had a filter; an instance that nothing else speaks against does not match it.
    """
    reasons = Counter(_reason(instance, filtered=filtered) for instance in registered)
    if not reasons:
        return f"no instance of {service} is registered"
    told = ", ".join(f"{number} {reason}" for reason, number in sorted(reasons.items()))
    lack = "is meant" if filtered else "gets traffic"
    return f"no instance of {service} {lack}: of {reasons.total()} registered, {told}"


def against(instance: Instance) -> str:
    """What keeps traffic from an instance that gets none; of one that nothing speaks against, what does is the split
    of the service's traffic policy."""
    if instance.status is not Status.ACTIVE:
        return f"its status is {instance.status.value}"
    if instance.health not in _WELL:
        failing = next((it for it in instance.check_results if it.health not in _WELL), None)
        found = f": its check {failing.name}: {failing.output}" if failing is not None else ""
        return f"its health is {instance.health.value}{found}"
    return "its weight is 0" if instance.weight == 0 else "no part of the split that has a share fits it"


def _reason(instance: Instance, *, filtered: bool) -> str:
    if instance.status is not Status.ACTIVE:
        return instance.status.value.lower()
    if instance.health not in _WELL:
        return instance.health.value.lower()
    if instance.weight == 0:
        return "of weight 0"
    return "not matching the filter" if filtered else "routable"
