"""CORE: whether there is room for one more instance, of all that the registry may have."""

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.catalog import Catalog, Size
from registry_server.errors import LimitExceeded
from registry_server.limits.quotas import NO_QUOTAS, Quotas
from registry_server.records import Key


class Room:
    """Asked before every registration. Writes that are under way at other replicas are not seen."""

    def __init__(self, catalog: Catalog, quotas: Quotas = NO_QUOTAS) -> None:
        self._catalog = catalog
        self._quotas = quotas
        most = quotas.max_namespaces, quotas.max_services, quotas.max_instances, quotas.max_leases
        self._most = Size(*most)

    def check(self, wanted: pb.Instance, lease_id: str) -> None:
        """Whether the instance may come, under that lease, or a new one if it is empty. Who takes the place of another
        needs no room. Raises LimitExceeded."""
        catalog, quotas = self._catalog, self._quotas
        if lease_id and catalog.count_of_lease(lease_id) >= quotas.max_instances_per_lease:
            self._check_lease(wanted, lease_id)
        if not catalog.is_below(self._most):
            self._check_all(wanted, lease_id, catalog.size)

    def _check_lease(self, wanted: pb.Instance, lease_id: str) -> None:
        current = self._catalog.get(Key(wanted.namespace, wanted.service, wanted.id))
        is_held = current is not None and current.lease_id == lease_id
        if not is_held and not wanted.origin:  # what a neighbour has is all under one lease
            raise _exceeded("max_instances_per_lease", self._catalog.count_of_lease(lease_id))

    def _check_all(self, wanted: pb.Instance, lease_id: str, size: Size) -> None:
        catalog, quotas = self._catalog, self._quotas
        key = Key(wanted.namespace, wanted.service, wanted.id)
        if catalog.get(key) or catalog.at_address(key.namespace, key.service, (wanted.host, wanted.port)):
            return
        if size.instances >= quotas.max_instances:
            raise _exceeded("max_instances", size.instances)
        if not lease_id and size.leases >= quotas.max_leases:
            raise _exceeded("max_leases", size.leases)
        if not catalog.count(key.namespace, key.service)[0]:
            if size.services >= quotas.max_services:
                raise _exceeded("max_services", size.services)
            if size.namespaces >= quotas.max_namespaces and not catalog.size_of(key.namespace)[0]:
                raise _exceeded("max_namespaces", size.namespaces)


def _exceeded(limit: str, count: int) -> LimitExceeded:
    return LimitExceeded(limit, f"there are {count:,}, and no more may be")
