"""CORE: what may stand in place of an `Endpoint`: an address, or an object of somebody else's that looks like one.

Of an object these attributes are read, its own or, if it has an `instance`, that one's. All but `address` may be
missing:

    address: str                  `host:port`
    weight: int                   0 = gets nothing
    id, version: str
    priority: int
    tags: sequence of str
    metadata: mapping
    locality                      an object with `region`, `zone` and `sub_zone`
    routable: bool                false = gets nothing while another one is well; where it is missing:
    status, health                of the names in UNROUTABLE, in any case, an enum's member or a text

So the instances and the endpoints of a registry's client are taken as they are, and nothing of that client is imported
here. An object is read once: whoever changes one gives another.
"""

from __future__ import annotations

from balancer.endpoints import ANYWHERE, Endpoint, Locality

UNROUTABLE = frozenset({"DRAINING", "DOWN", "UNHEALTHY", "CRITICAL"})
"""Statuses and healths that keep traffic away. A word that is not among them says nothing."""


def as_endpoint(given: object) -> Endpoint:
    """What the balancer takes `given` for.

    Raises TypeError for what has no address, ValueError, naming the field, for a value that makes no sense.
    """
    if isinstance(given, Endpoint):
        return given
    if isinstance(given, str):
        return Endpoint(given)
    address = getattr(given, "address", None)
    if not isinstance(address, str):
        raise TypeError(f"not an endpoint: {given!r}")
    process = getattr(given, "instance", None) or given
    return Endpoint(
        address,
        weight=getattr(process, "weight", 1),
        id=getattr(process, "id", ""),
        version=getattr(process, "version", ""),
        locality=_locality(getattr(process, "locality", None)),
        priority=getattr(process, "priority", 0),
        tags=tuple(getattr(process, "tags", ())),
        metadata=getattr(process, "metadata", {}),
        routable=_routable(process),
    )


def _locality(given: object) -> Locality:
    if given is None:
        return ANYWHERE
    return Locality(*(getattr(given, part, "") for part in ("region", "zone", "sub_zone")))


def _routable(process: object) -> bool:
    said = getattr(process, "routable", None)
    if isinstance(said, bool):
        return said
    return not any(_word(getattr(process, name, None)) in UNROUTABLE for name in ("status", "health"))


def _word(given: object) -> str:
    value = getattr(given, "value", given)
    return value.upper() if isinstance(value, str) else ""
