"""CORE: views into what the balancer takes: endpoints and resolutions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from balancer.endpoints import Absent, Endpoint, Locality, Resolution, Resolved
from balancer.pool.verdicts import EndpointWhy
from registry_client.bridge.traffic import UNASKED, config_of, divided
from registry_client.lack import against, why_none

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from balancer.service_config import ServiceConfig
    from registry_api.registry.v1 import policies_pb2
    from registry_client.instance import Instance, Key
    from registry_client.view import View

# How long calls that do not wait for readiness wait for a registry that was never reached.
FIRST_VIEW_S = 2.0


class Translator:
    """Views into resolutions. Instances that did not change keep their very endpoint objects, which makes it cheap."""

    def __init__(self, service: str) -> None:
        self.service = service
        self._endpoints: dict[Key, Endpoint] = {}
        self._policy: policies_pb2.Policy | None = None
        self._config: ServiceConfig | None = None
        self._last: Resolution | None = None
        self._known: Mapping[Key, Instance] = {}

    def left_out(self) -> tuple[EndpointWhy, ...]:
        """The instances that get no calls, and why. In any thread."""
        return left_out(self._known.values(), self._policy)

    def under(self, policy: policies_pb2.Policy | None) -> Resolution | None:
        """Go by another traffic policy from now on: the latest resolution as it is under that one, if there was any.

        Raises ValueError for a policy that cannot be; then it goes on as before.
        """
        if policy is not None or self._config is not None:
            self._config = config_of(policy)
        self._policy = policy
        if not isinstance(self._last, Resolved):
            return self._last
        self._last = self._resolved(self._last)
        return self._last

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
        self._known = view.by_key
        if not view.by_key:
            self._last = Absent(why_none(self.service, (), filtered=False))
        else:
            lack = "" if self._endpoints else why_none(self.service, view.by_key.values(), filtered=False)
            self._last = self._resolved(Resolved((), stale_for_s=view.stale_for, lack=lack))
        return self._last

    def _resolved(self, of: Resolved) -> Resolved:
        """With the endpoints that get traffic under the policy, and what it asks for."""
        parts, endpoints = divided(self._policy, tuple(self._endpoints.values()))
        config = replace(self._config or UNASKED, parts=parts) if parts else self._config
        return replace(of, endpoints=tuple(endpoints), service_config=config)


def left_out(instances: Iterable[Instance], policy: policies_pb2.Policy | None) -> tuple[EndpointWhy, ...]:
    """Those of the instances of a service that get no calls under that policy, and why."""
    everything = tuple(instances)
    _, taken = divided(policy, tuple(instance for instance in everything if instance.routable))
    kept = {instance.key for instance in taken}
    rest = (instance for instance in everything if instance.key not in kept)
    return tuple(EndpointWhy(it.address, it.id, usable=False, why=against(it)) for it in rest)


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
