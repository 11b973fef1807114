"""CORE: what there is to show: services and instances of the latest view, and what happened since this began."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from registry_client.cli.instances import SIGNS
from registry_client.health import Health
from registry_client.instance import Cause, Removed, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from registry_client.instance import Instance, Key
    from registry_client.view import View

MOST_EVENTS = 200
OVER_S = 10.0
"""A rate is that of about so many seconds."""
# What one change may be shown of: in the order in which it is told.
SOON_S = 0.9
_TOLD = (
    "status",
    "health",
    "weight",
    "version",
    "address",
    "generation",
    "tags",
    "metadata",
    "checks",
    "check_results",
)

Name = tuple[str, str]
"""Of a service: its namespace, and its own."""


class Happening(NamedTuple):
    """What happened to an instance of a service, in words, which are no plain text yet; and the colour of that."""

    at: datetime
    name: Name
    text: str
    colour: str


class Rate(NamedTuple):
    """How often something happens, a second: each time counts for less and less."""

    per_s: float = 0.0
    at_s: float = 0.0

    def now(self, now: float) -> float:
        """As of `now`."""
        return self.per_s * math.exp(min(0.0, self.at_s - now) / OVER_S)

    @property
    def order(self) -> float:
        """Of two rates the larger one has the larger, whenever that is."""
        return math.log(self.per_s) + self.at_s / OVER_S if self.per_s else -math.inf

    def after(self, times: int, now: float) -> Rate:
        """When it has happened so many times just now."""
        return Rate(self.now(now) + times / OVER_S, now)


STILL = Rate()


@dataclass(slots=True)
class Service:
    """One service, counted. `changed_s`: when something of it changed last; None: not since this began."""

    name: Name
    instances: int = 0
    routable: int = 0
    healthy: int = 0
    unhealthy: int = 0
    critical: int = 0
    draining: int = 0
    oldest: datetime | None = None
    newest: datetime | None = None
    rate: Rate = STILL
    changed_s: float | None = None

    def count(self, it: Instance) -> None:
        """One instance more."""
        self.instances += 1
        self.routable += it.routable
        self.healthy += it.health is Health.HEALTHY
        self.unhealthy += it.health is Health.UNHEALTHY
        self.critical += it.health is Health.CRITICAL
        self.draining += it.status is Status.DRAINING
        if it.registered_at is not None:
            self.oldest = min(self.oldest or it.registered_at, it.registered_at)
            self.newest = max(self.newest or it.registered_at, it.registered_at)

    def as_dict(self, now: float) -> dict[str, object]:
        """As JSON, with the names of ServiceSummary for what that has, too."""
        counts = ("instances", "routable", "healthy", "unhealthy", "critical", "draining")
        told: dict[str, object] = {"namespace": self.name[0], "service": self.name[1]}
        told |= {name: getattr(self, name) for name in counts}
        return told | {"changesPerSecond": round(self.rate.now(now), 3)}


@dataclass(slots=True)
class Board:
    """The latest view, and what changed since the first one. Times are seconds of a clock that goes on steadily.

    `events` are what the registry's history tells, if `has_history`; else what the views show of that.
    """

    view: View | None = None
    since_s: float = 0.0
    events: deque[Happening] = field(default_factory=lambda: deque(maxlen=MOST_EVENTS))
    has_history: bool = False
    rate: Rate = STILL
    _rates: dict[Name, Rate] = field(default_factory=dict)
    _service_changed_s: dict[Name, float] = field(default_factory=dict)
    _changed_s: dict[Key, float] = field(default_factory=dict)
    _counted: Mapping[Name, Service] | None = None

    def take(self, view: View, now: float, at: datetime) -> None:
        """A newer view. What is in the first one did not happen just now."""
        before, self.view, self._counted = self.view, view, None
        if before is None:
            self.since_s = now
        else:
            self._note(before, view, now, at)

    def is_new(self, now: float) -> bool:
        """Whether it is too early to tell how often something happens."""
        return self.view is None or now - self.since_s < SOON_S

    def _note(self, before: View, view: View, now: float, at: datetime) -> None:
        changes = view.changes
        for what, found in (("added", changes.added), ("updated", changes.updated), ("removed", changes.removed)):
            for it in found:
                name = name_of(it)
                self._rates[name] = self._rates.get(name, STILL).after(1, now)
                self._service_changed_s[name] = self._changed_s[it.key] = now
            self.rate = self.rate.after(len(found), now)
            for it in found[-MOST_EVENTS:] if not self.has_history else ():
                text = f"{it.service}/{it.id} {_told(what, it, before.by_key.get(it.key))}"
                self.events.append(Happening(at, name_of(it), text, SIGNS[what][1]))
        for gone in changes.removed:
            del self._changed_s[gone.key]

    @property
    def services(self) -> Mapping[Name, Service]:
        """By name."""
        if self._counted is None:
            self._counted = counted(self.view.by_key.values() if self.view else ())
            self._forget(self._counted)
        return self._counted

    def _forget(self, there: Mapping[Name, Service]) -> None:
        """What was there once, and what became of its rate, is of no interest for ever."""
        for name in self._service_changed_s.keys() - there.keys():
            del self._service_changed_s[name]
            del self._rates[name]

    def service_rows(self) -> Sequence[Service]:
        """The services, with what happened to them."""
        for name, it in self.services.items():
            it.rate, it.changed_s = self._rates.get(name, STILL), self._service_changed_s.get(name)
        return sorted(self.services.values(), key=lambda it: it.name)

    def instance_rows(self, name: Name) -> Sequence[Instance]:
        """The instances of one service."""
        found = self.view.by_key.values() if self.view else ()
        return sorted((it for it in found if name_of(it) == name), key=lambda it: it.id)

    def changed_s(self, key: Key) -> float | None:
        """When that instance changed last; None: not since this began."""
        return self._changed_s.get(key)


def name_of(it: Instance) -> Name:
    """The service that it is of."""
    return it.namespace, it.service


def _told(what: str, it: Instance, before: Instance | None) -> str:
    if isinstance(it, Removed):
        return it.cause.value.lower() if it.cause is not Cause.UNSPECIFIED else "gone"
    if what == "updated" and before is not None:
        return f"updated: {differences(before, it) or 'written again'}"
    return f"registered at {it.address}, {it.status.value} {it.health.value}"


def counted(instances: Iterable[Instance]) -> dict[Name, Service]:
    """Their services."""
    found: dict[Name, Service] = {}
    for it in instances:
        name = name_of(it)
        service = found.get(name)
        if service is None:
            service = found[name] = Service(name)
        service.count(it)
    return found


def differences(before: Instance, now: Instance) -> str:
    """What an update changed, in words."""
    changed = ((name, getattr(before, name), getattr(now, name)) for name in _TOLD)
    return ", ".join(_difference(name, was, is_) for name, was, is_ in changed if was != is_)


def _difference(name: str, was: object, is_: object) -> str:
    if isinstance(was, tuple) or not isinstance(was, str | int):
        return name.replace("_", " ")  # what it is now takes more room than there is
    return f"{name} {was} → {is_}"
