"""CORE: services, instances and events as the page wants them: rows of plain values, short, as there may be very many.

`static/model.js` says the same of the other side.
"""

from typing import TypeAlias

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.catalog import Catalog
from registry_server.changes import Change, Name
from registry_server.history.events import Event, Why
from registry_server.records import Author

Value: TypeAlias = str | int | float | bool | None
Cells: TypeAlias = list[Value]

# Of what is told for people, so much is shown in a row.
MAX_SAID = 200
_STATUSES = {value.number: value.name.lower() for value in pb.Status.DESCRIPTOR.values}
_HEALTHS = {value.number: value.name.lower() for value in pb.Health.DESCRIPTOR.values}
_UNWELL = (pb.UNHEALTHY, pb.CRITICAL)


def service_row(catalog: Catalog, name: Name) -> Cells:
    """Namespace, service, instances, routable, healthy, unhealthy, critical, draining."""
    return [*name, *catalog.summary(*name)]


def instance_row(it: pb.Instance, *, is_held: bool = False) -> Cells:
    """Id, host, port, status, health, weight, version, zone, when registered and when it leaves (ms since 1970, 0 for
    never), its identity, where it comes from, what its failing check said, whether its removal waits."""
    place = it.locality
    return [
        it.id,
        it.host,
        it.port,
        _STATUSES.get(it.status, "?"),
        _HEALTHS.get(it.health, "?"),
        it.weight,
        it.version,
        "/".join(filter(None, (place.region, place.zone, place.sub_zone))),
        it.registered_at.ToMilliseconds(),
        it.leaves_at.ToMilliseconds() if it.HasField("leaves_at") else 0,
        it.registered_by,
        it.origin,
        failing(it),
        is_held,
    ]


def failing(it: pb.Instance) -> str:
    """What the check said that failed last, and the first of these; empty for an instance that is well."""
    if it.health not in _UNWELL:
        return ""
    found = [result for result in it.check_results if result.health in _UNWELL]
    latest = max(found, key=lambda result: result.checked_at.ToNanoseconds(), default=None)
    return f"{latest.name}: {latest.output}"[:MAX_SAID] if latest is not None else ""


def why_gone(change: Change) -> Cells:
    """Why an instance left, in a word, and what more there is to say of it; both empty where nothing is known."""
    return [change.cause.value if change.cause is not None else "", said(change.author)]


def said(author: Author) -> str:
    """What is told beside a cause: by whom, and what."""
    by = author.identity or author.peer
    return ", ".join(filter(None, (f"by {by}" if by else "", author.detail)))[:MAX_SAID]


def left_row(event: Event) -> Cells:
    """An instance that has left: as it was, and then why, what more there is to say of it, and when (ms)."""
    told = event.told
    it = pb.Instance.FromString(told.before or b"")
    it.id = told.key.id
    return [*instance_row(it), cause_of(told.why), said(told.author), _ms(event)]


def event_row(event: Event) -> Cells:
    """Number, when (ms), whether it may have been earlier, namespace, service, id, cause, by whom, what, revision, and
    how the instance was afterwards: status, health, weight, of which there are none once it has left."""
    told = event.told
    row: Cells = [
        event.number,
        _ms(event),
        event.moment.late,
        *told.key[:3],
        cause_of(told.why),
        told.author.identity or told.author.peer,
        event.detail[:MAX_SAID],
    ]
    row.append(told.revision)
    if told.after is not None:
        after = pb.Instance.FromString(told.after)
        row += [_STATUSES.get(after.status, "?"), _HEALTHS.get(after.health, "?"), after.weight]
    return row


def cause_of(why: Why) -> str:
    """In a word; empty where nobody knows."""
    return "" if why is Why.UNKNOWN else why.value.lower()


def _ms(event: Event) -> int:
    return round(event.at_s * 1000)
