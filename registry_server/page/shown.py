"""CORE: services and instances as the page wants them: rows of plain values, short, because there may be very many.

`static/model.js` says the same of the other side.
"""

from typing import TypeAlias

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.catalog import Catalog
from registry_server.model import Entry
from registry_server.records import Cause

Value: TypeAlias = str | int | float | bool | None
Cells: TypeAlias = list[Value]
Name: TypeAlias = tuple[str, str]

# Of what a check said, so much is shown in a row.
MAX_OUTPUT = 160
_STATUSES = {value.number: value.name.lower() for value in pb.Status.DESCRIPTOR.values}
_HEALTHS = {value.number: value.name.lower() for value in pb.Health.DESCRIPTOR.values}
_UNWELL = (pb.UNHEALTHY, pb.CRITICAL)


def service_row(catalog: Catalog, name: Name) -> Cells:
    """Namespace, service, instances, routable, healthy, unhealthy, critical, draining."""
    return [*name, *catalog.summary(*name)]


def instance_row(entry: Entry, *, is_held: bool = False) -> Cells:
    """Id, host, port, status, health, weight, version, zone, when registered and when it leaves (ms since 1970, 0 for
    never), its identity, where it comes from, what its failing check said, whether its removal waits."""
    it, traits, owner = entry.parse(), entry.traits, entry.owner
    return [
        entry.key.id,
        *entry.address,
        _STATUSES.get(traits.status, "?"),
        _HEALTHS.get(traits.health, "?"),
        it.weight,
        traits.version,
        "/".join(filter(None, traits.locality)),
        owner.registered_ns // 1_000_000,
        it.leaves_at.ToMilliseconds() if it.HasField("leaves_at") else 0,
        owner.by,
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
    return f"{latest.name}: {latest.output}"[:MAX_OUTPUT] if latest is not None else ""


def why_gone(cause: Cause | None) -> str:
    """In a word; empty where that is not known."""
    return cause.value if cause is not None else ""
