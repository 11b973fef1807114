"""CORE: views into what the balancer takes: endpoints and resolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from balancer.endpoints import Absent, Endpoint, Locality, Resolution, Resolved
from registry_client.lack import why_none

if TYPE_CHECKING:
    from registry_client.instance import Instance, Key
    from registry_client.view import View

DEFAULT_POLICY = "weighted_round_robin"
# How long calls that do not wait for readiness wait for a registry that was never reached.
FIRST_VIEW_S = 2.0


class Translator:
    """Views into resolutions. Instances that did not change keep their very endpoint objects, which makes it cheap."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._endpoints: dict[Key, Endpoint] = {}

    def resolution(self, view: View) -> Resolution:
        """Resolved with the routable instances, or Absent when the registry says that there is none at all.

        To be given every view of a watch, in order: only what changed is looked at. An empty set says why it is.
        """
        for gone in view.changes.removed:
            self._endpoints.pop(gone.key, None)
        for instance in (*view.changes.added, *view.changes.updated):
            if instance.routable:
                self._endpoints[instance.key] = endpoint_of(instance)
            else:
                self._endpoints.pop(instance.key, None)
        if not view.by_key:
            return Absent(why_none(self._service, (), filtered=False))
        lack = "" if self._endpoints else why_none(self._service, view.by_key.values(), filtered=False)
        return Resolved(tuple(self._endpoints.values()), stale_for_s=view.stale_for, lack=lack)


def endpoint_of(instance: Instance) -> Endpoint:
    """An instance as the balancer sees it."""
    where = instance.locality
    return Endpoint(
        instance.address,
        weight=instance.weight,
        id=instance.id,
        version=instance.version,
        locality=Locality(where.region, where.zone, where.sub_zone),
        tags=tuple(instance.tags),
        metadata=instance.metadata,
    )
