"""CORE: what became of instances, as users see it: one change, and which changes somebody asks for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self, TypedDict

from registry_api.registry.v1 import history_pb2 as pb
from registry_client import checks
from registry_client.instance import Instance, Key

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

MOST_EVENTS = 100_000
_LONGEST_S = 100 * 366 * 24 * 3600.0
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


class EventCause(StrEnum):
    """Why an instance is another one than before; history.proto says more of each. UNSPECIFIED: nobody knows."""

    UNSPECIFIED = "UNSPECIFIED"
    REGISTERED = "REGISTERED"
    UPDATED = "UPDATED"
    TAKEN_OVER = "TAKEN_OVER"
    HEALTH = "HEALTH"
    RULED = "RULED"
    DRAINING = "DRAINING"
    FOREIGN = "FOREIGN"
    EXPIRED = "EXPIRED"
    DEREGISTERED = "DEREGISTERED"
    REPLACED = "REPLACED"
    DRAINED = "DRAINED"
    UNHEALTHY = "UNHEALTHY"


class EventFilters(TypedDict, total=False):
    """Which events are meant: of an instance, for one of these causes, by an identity, and when.

    `since` and `until` are points in time, or how long ago: a timedelta, or seconds.
    """

    id: str
    causes: Collection[EventCause | str]
    identity: str
    since: datetime | timedelta | float | None
    until: datetime | timedelta | float | None


@dataclass(frozen=True, slots=True)
class Event:
    """One change of one instance, as the registry that answers saw it.

    `before` is None when it came, `after` when it left. `at` is when it was seen; `late`, that it may have been
    earlier. `identity` is who brought it about, where the registry knows identities, and `peer` the host that called;
    `detail` is for people. `gap`: others that came before this one are forgotten, and were not told.
    """

    at: datetime
    cause: EventCause
    namespace: str
    service: str
    id: str
    identity: str
    peer: str
    detail: str
    revision: int
    epoch: str
    late: bool
    number: int
    before: Instance | None
    after: Instance | None
    gap: bool = False

    @property
    def key(self) -> Key:
        """Of which instance."""
        return Key(self.namespace, self.service, self.id)

    @property
    def instance(self) -> Instance | None:
        """The instance as it is since, or as it was when it left."""
        return self.after if self.after is not None else self.before

    def to_proto(self) -> pb.Event:
        """The event as the registry told it."""
        message = pb.Event(
            number=self.number,
            late=self.late,
            revision=self.revision,
            epoch=self.epoch,
            namespace=self.namespace,
            service=self.service,
            id=self.id,
            cause=pb.Event.Cause.Value(_name(self.cause)),
            identity=self.identity,
            peer=self.peer,
            detail=self.detail,
        )
        message.at.FromDatetime(self.at)
        for instance, into in ((self.before, message.before), (self.after, message.after)):
            if instance is not None:
                into.CopyFrom(instance.to_proto())
        return message

    @classmethod
    def from_proto(cls, message: pb.Event, *, gap: bool = False) -> Self:
        """The event as the registry tells it. Takes whatever a message can hold."""
        before, after = message.HasField("before"), message.HasField("after")
        return cls(
            _when(message),
            _cause(message.cause),
            message.namespace,
            message.service,
            message.id,
            message.identity,
            message.peer,
            message.detail,
            message.revision,
            message.epoch,
            message.late,
            message.number,
            Instance.from_proto(message.before) if before else None,
            Instance.from_proto(message.after) if after else None,
            gap,
        )


class Events(tuple[Event, ...]):
    """Events, the oldest first. `revision`: which the registry had when it listed them; who goes on from there, with
    `watch_events(from_revision=found.revision)`, misses none, and may be told the last of them again."""

    revision: int

    def __new__(cls, events: Iterable[Event] = (), revision: int = 0) -> Self:
        made = super().__new__(cls, events)
        made.revision = revision
        return made


def filter_of(service: object, filters: EventFilters, now: datetime, namespace: str) -> pb.EventFilter:
    """The question as it goes over the wire; the namespace is empty for all of them. Raises InvalidArgument."""
    given = dict(filters)
    causes = checks.some_of("causes", EventCause, given.pop("causes", ()))
    asked = pb.EventFilter(
        namespace=namespace,
        all_namespaces=not namespace,
        service=checks.name("service", service, empty=True),
        id=checks.name("id", given.pop("id", ""), empty=True),
        causes=[pb.Event.Cause.Value(_name(cause)) for cause in causes],
        identity=checks.text("identity", given.pop("identity", "")),
    )
    for name, message in (("since", asked.since), ("until", asked.until)):
        at = _moment(name, given.pop(name, None), now)
        if at is not None:
            message.FromDatetime(at.astimezone(UTC))
    for name in given:
        raise checks.wrong(name, "is no filter of events; there are id, causes, identity, since and until")
    if asked.id and not asked.service:
        raise checks.wrong("id", "needs the service that it is of")
    return asked


def _moment(field: str, value: object, now: datetime) -> datetime | None:
    """A point in time, or so long ago."""
    if value is None or isinstance(value, datetime):
        return value
    ago_s = value.total_seconds() if isinstance(value, timedelta) else value
    return max(_BEGINNING, now - timedelta(seconds=checks.seconds(field, ago_s, 0.0, _LONGEST_S)))


def _name(cause: EventCause) -> Any:
    return "CAUSE_UNSPECIFIED" if cause is EventCause.UNSPECIFIED else cause.value


def _cause(number: int) -> EventCause:
    known = pb.Event.Cause.DESCRIPTOR.values_by_number.get(number)
    return EventCause(known.name) if known is not None and number else EventCause.UNSPECIFIED


def _when(message: pb.Event) -> datetime:
    try:
        return message.at.ToDatetime(UTC)
    except (ValueError, OverflowError):  # whoever answers may say anything
        return _BEGINNING
