"""CORE: the names of xDS resources. A service goes by its name, in another namespace than the default one by
`namespace/service`; a part of its instances, to which a policy gives a share, by that, `#` and the name of the part."""

from functools import lru_cache
from typing import NamedTuple

from registry_api.limits import DEFAULT_NAMESPACE, NAME

ServiceKey = tuple[str, str]
"""Namespace and service."""

# Envoy's one listener, and its routes to all services: no service has that name, nor that key.
LISTENER = "registry"
ALL_ROUTES = "*/*"
EVERYTHING: ServiceKey = ("*", "*")
# What stands for all clusters, among those who want to hear of something.
ALL_CLUSTERS: ServiceKey = ("*", "clusters")
WILDCARD = "*"
_PART = "#"
# Longer than any name with a part.
MAX_RESOURCE_NAME = 600


class Named(NamedTuple):
    """What a resource is of: a service, or a part of one."""

    key: ServiceKey
    part: str = ""


@lru_cache(maxsize=16_384)
def read(name: str) -> Named | None:
    """What the name of a resource means; None if it can mean nothing."""
    if len(name) > MAX_RESOURCE_NAME:
        return None
    if name == ALL_ROUTES:
        return Named(EVERYTHING)
    whole, _, part = name.partition(_PART)
    namespace, slash, service = whole.partition("/")
    key = (namespace, service) if slash else (DEFAULT_NAMESPACE, namespace)
    if NAME.fullmatch(key[0]) is None or NAME.fullmatch(key[1]) is None:
        return None
    return Named(key, part)


def shown(key: ServiceKey, part: str = "") -> str:
    """The name of the resources of a service, or of a part of it."""
    name = key[1] if key[0] == DEFAULT_NAMESPACE else "/".join(key)
    return f"{name}{_PART}{part}" if part else name
