"""CORE: what a channel's service config asks for the calls of one method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from balancer.calls.retry import Hedging, Retrying

if TYPE_CHECKING:
    from balancer.service_config import ServiceConfig


@dataclass(frozen=True, slots=True)
class Plan:
    """What all calls of a method have in common. Times in seconds; None = nothing was asked for."""

    timeout_s: float | None = None
    wait_for_ready: bool | None = None
    retrying: Retrying | None = None
    hedging: Hedging | None = None

    def timeout(self, asked_s: float | None) -> float | None:
        """The caller's timeout or the config's, whichever ends first."""
        mine = self.timeout_s
        return asked_s if mine is None else mine if asked_s is None else min(mine, asked_s)

    def waits(self, asked: bool | None) -> bool:
        """Whether a call waits until an endpoint is ready. What the caller says wins."""
        return bool(self.wait_for_ready if asked is None else asked)

    def succeeded(self) -> None:
        """A call without hedging went well at its first attempt."""
        if self.retrying is not None and self.retrying.throttle is not None:
            self.retrying.throttle.succeeded()


PLAIN = Plan()
"""Nothing but what the caller asks for."""


def plan_for(config: ServiceConfig, path: str, *, tries_again: bool, streams: bool) -> Plan:
    """The plan for the method `/package.Service/Method`. `tries_again` False: retries and hedging are switched off.
    `streams`: its requests or its responses do; only calls with one of each are hedged."""
    entry = config.method(path)
    if entry is None:
        return PLAIN
    retrying = None if entry.retry is None or not tries_again else Retrying(entry.retry, config.throttle)
    hedging = None if entry.hedging is None or not tries_again or streams else Hedging(entry.hedging, config.throttle)
    return Plan(entry.timeout_s, entry.wait_for_ready, retrying, hedging)
