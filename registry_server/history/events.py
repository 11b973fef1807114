"""CORE: one change of one instance as people look at it: why, by whom, what was before and after."""

from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from registry_api.registry.v1 import history_pb2 as pb
from registry_api.registry.v1.registry_pb2 import HEALTHY, Instance
from registry_server import fields
from registry_server.changes import Change, Name
from registry_server.errors import InvalidField
from registry_server.model import Entry, check_times
from registry_server.records import UNSAID, Author, Cause, Key

# Of what checks said, so many characters are told.
MAX_DETAIL = 1024
# Up to here every number is one that a browser has, too; those by a clock get there in a hundred years.
MAX_NUMBER = 2**52
_FIELDS = ("host", "port", "version", "weight", "status", "health", "tags", "metadata", "locality", "ttl", "checks")
_MAX_SHOWN = 60


class Why(StrEnum):
    """Why an instance is another one than before; the names are those of history.proto."""

    UNKNOWN = "CAUSE_UNSPECIFIED"
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


class Moment(NamedTuple):
    """When changes were seen: `at_s` of the wall clock, in seconds; `late`, if it may have been earlier; and in which
    epoch of the store's revisions."""

    at_s: float
    late: bool
    epoch: str


class Particulars(NamedTuple):
    """What is told of a change. `before` and `after` are encoded instances, None where it was not there."""

    revision: int
    key: Key
    why: Why
    author: Author
    before: bytes | None
    after: bytes | None

    @property
    def size(self) -> int:
        """As of a Change."""
        return len(self.before or b"") + len(self.after or b"")


class Event:
    """One change, and when it was seen. What is told of it is made of it by whoever asks first: mostly nobody does.

    `size`: how many bytes it holds, about.
    """

    __slots__ = ("_what", "moment", "number", "size")

    def __init__(self, number: int, moment: Moment, what: Change | Particulars) -> None:
        self.number = number
        self.moment = moment
        self._what = what
        self.size = what.size

    @property
    def at_s(self) -> float:
        """When it was seen, in seconds of the wall clock."""
        return self.moment.at_s

    @property
    def key(self) -> Key:
        """Of which instance it is."""
        return self._what.key

    @property
    def name(self) -> Name:
        """Namespace and service."""
        return self._what.key[:2]

    @property
    def revision(self) -> int:
        """At which revision it was."""
        return self._what.revision

    @property
    def has_left(self) -> bool:
        """Whether the instance is there no more."""
        return self._what.after is None

    @property
    def told(self) -> Particulars:
        """What is told of it."""
        if isinstance(self._what, Change):
            self._what = _told(self._what)
        return self._what

    @property
    def detail(self) -> str:
        """What is to be said beside the cause, in a line; looked for anew each time, in what was before and after."""
        told = self.told
        before, after = (None if it is None else Instance.FromString(it) for it in (told.before, told.after))
        return "".join(it if it.isprintable() else " " for it in _detail(told, before, after)[:MAX_DETAIL])

    def to_proto(self) -> pb.Event:
        """As history.proto has it."""
        (at_s, late, epoch), (revision, key, why, by, before, after) = self.moment, self.told
        said = pb.Event(number=self.number, late=late, epoch=epoch, revision=revision)
        said.at.FromMicroseconds(round(at_s * 1e6))
        said.namespace, said.service, said.id = key.namespace, key.service, key.id
        said.cause = pb.Event.Cause.Value(why.value)
        said.identity, said.peer, said.detail = by.identity, by.peer, self.detail
        if before is not None:
            said.before.MergeFromString(before)
        if after is not None:
            said.after.MergeFromString(after)
        return said

    @classmethod
    def from_proto(cls, said: pb.Event) -> "Event":
        """The same the other way round, of an event of ours. Raises ValueError or InvalidField for what is none."""
        before, after = said.HasField("before"), said.HasField("after")
        _check(said)
        told = Particulars(
            said.revision,
            Key(said.namespace, said.service, said.id),
            Why(pb.Event.Cause.Name(said.cause)),
            Author(said.identity, said.peer, said.detail),
            said.before.SerializeToString() if before else None,
            said.after.SerializeToString() if after else None,
        )
        return cls(said.number, Moment(said.at.ToMicroseconds() / 1e6, said.late, said.epoch), told)


def _check(told: pb.Event) -> None:
    """Raises InvalidField for what could not be told again, or has no name."""
    if not 0 < told.number <= MAX_NUMBER:
        raise InvalidField("number", f"must be 1 to {MAX_NUMBER}")
    for name in ("namespace", "service", "id"):
        fields.name(name, getattr(told, name))
    fields.timestamp("at", told.at)
    if told.HasField("before"):
        check_times(told.before)
    if told.HasField("after"):
        check_times(told.after)


def _told(change: Change) -> Particulars:
    before, after = change.before, change.after
    was, is_ = None if before is None else before.encoded, None if after is None else after.encoded
    return Particulars(change.revision, change.key, _why(change), _author(change), was, is_)


def _author(change: Change) -> Author:
    before, after = change.before, change.after
    if after is not None:
        return after.author
    if change.cause is Cause.DRAINED and before is not None:  # who drained it, asked for it
        return before.author
    if change.cause is Cause.EXPIRED and before is not None and not before.lease_id:
        return Author(detail="it had no lease")
    return change.author


def _why(change: Change) -> Why:
    before, after = change.before, change.after
    if after is None:
        return Why[change.cause.name] if change.cause else Why.UNKNOWN
    if not after.lease_id or (before is not None and not before.lease_id):
        return Why.FOREIGN
    if before is None:
        return Why.REGISTERED
    if before.owner.generation != after.owner.generation:
        return Why.TAKEN_OVER
    if after.owner.is_leaving and not before.owner.is_leaving:
        return Why.DRAINING
    return _why_changed(before, after)


def _why_changed(before: Entry, after: Entry) -> Why:
    """By the checks of an instance, or by somebody who asked for it."""
    if not before.has_checks and not after.has_checks:
        return Why.UPDATED
    was, is_ = before.parse(), after.parse()
    if list(was.check_results) != list(is_.check_results) or was.health != is_.health:
        return Why.HEALTH
    return Why.RULED if list(was.checks) != list(is_.checks) and after.author == UNSAID else Why.UPDATED


# ---- what is to be said beside it


def _detail(told: Particulars, before: Instance | None, after: Instance | None) -> str:
    said = told.author.detail
    if told.why is Why.REPLACED and before is not None:
        return f"{_address(before)} is the address of {said}" if said and " " not in said else said
    if told.why is Why.HEALTH and before is not None and after is not None:
        changed = before.health != after.health
        step = f"{_shown(before, 'health')} -> {_shown(after, 'health')}: " if changed else ""
        return said or step + _findings(after)
    if told.why is Why.UNHEALTHY and before is not None:
        return said or _findings(before)
    if told.why is Why.EXPIRED and before is not None:
        return said or f"its lease ran out: nobody renewed it for {before.ttl.ToMilliseconds() / 1e3:g} s"
    if before is not None and after is not None:
        return said or ", ".join(_differences(before, after))
    return said


def _findings(it: Instance) -> str:
    """What the checks of an instance say that are not well; all of them if they are."""
    bad = [result for result in it.check_results if result.health != HEALTHY]
    return "; ".join(f"{result.name}: {result.output}" for result in bad or it.check_results)


def _differences(before: Instance, after: Instance) -> Iterator[str]:
    for name in _FIELDS:
        was, is_ = getattr(before, name), getattr(after, name)
        if was != is_:
            yield f"{name} {_shown(before, name)} -> {_shown(after, name)}"


def _shown(it: Instance, name: str) -> str:
    """A field of an instance for people."""
    field, value = it.DESCRIPTOR.fields_by_name[name], getattr(it, name)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known else str(value)
    match name:
        case "tags":
            text = ",".join(value)
        case "metadata":
            text = ",".join(f"{key}={value[key]}" for key in sorted(value))
        case "locality":
            text = "/".join((value.region, value.zone, value.sub_zone)).rstrip("/")
        case "ttl":
            text = f"{value.ToMilliseconds() / 1e3:g}s"
        case "checks":
            text = ",".join(check.name for check in value)
        case _:
            text = str(value)
    return (text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…") or "none"


def _address(it: Instance) -> str:
    return f"[{it.host}]:{it.port}" if ":" in it.host else f"{it.host}:{it.port}"
