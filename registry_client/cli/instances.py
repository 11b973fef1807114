"""CORE: how instances are shown to people, and what happens to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry_client.cli.table import Column
from registry_client.instance import Cause, Removed

if TYPE_CHECKING:
    from datetime import datetime

    from registry_client.instance import Instance, Locality, NamespaceSummary, ServiceSummary

NAMESPACE = Column("NAMESPACE")
NAMESPACES = (NAMESPACE, Column("SERVICES"), Column("INSTANCES"))
SERVICES = (Column("SERVICE"), Column("INSTANCES"), Column("ROUTABLE"))
# SERVICE, ID and ADDRESS are what every other command needs.
INSTANCES = (
    Column("SERVICE"),
    Column("ID"),
    Column("ADDRESS"),
    Column("STATUS"),
    Column("HEALTH"),
    Column("WEIGHT"),
    Column("VERSION", cut=1),
    Column("ZONE", cut=2),
    Column("TAGS", cut=3),
    Column("METADATA", cut=4),
)
WIDE = (*INSTANCES, Column("TTL"), Column("GENERATION"), Column("REGISTERED"))
SIGNS = {"added": ("+", "green"), "updated": ("~", "yellow"), "removed": ("-", "red")}


def namespace_row(it: NamespaceSummary) -> tuple[str, ...]:
    return it.namespace, str(it.services), str(it.instances)


def service_row(it: ServiceSummary) -> tuple[str, ...]:
    return it.service, str(it.instances), str(it.routable)


def instance_row(it: Instance) -> tuple[str, ...]:
    metadata = " ".join(f"{key}={value}" for key, value in sorted(it.metadata.items()))
    state = (it.status.value, it.health.value, str(it.weight), it.version)
    return it.service, it.id, it.address, *state, _where(it.locality), ",".join(it.tags), metadata


def wide_row(it: Instance) -> tuple[str, ...]:
    ttl = "" if it.ttl_s is None else f"{it.ttl_s:g}s"
    registered = "" if it.registered_at is None else f"{it.registered_at:%Y-%m-%dT%H:%M:%SZ}"
    return *instance_row(it), ttl, str(it.generation), registered


def change_text(event: str, it: Instance, *, with_namespace: bool = False) -> str:
    """What happened to an instance, and all there is to tell of it."""
    service, name, *rest = instance_row(it)
    space = f"{it.namespace}/" if with_namespace else ""
    why = it.cause.lower() if isinstance(it, Removed) and it.cause is not Cause.UNSPECIFIED else ""
    return " ".join(part for part in (f"{SIGNS[event][0]} {space}{service}/{name}", *rest, why) if part)


def time_text(now: datetime) -> str:
    return f"{now:%H:%M:%S}.{now.microsecond // 1000:03} "


def _where(locality: Locality) -> str:
    return "/".join(part for part in (locality.region, locality.zone, locality.sub_zone) if part)
