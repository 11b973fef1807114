"""CORE: whether there is room for one more instance, of all that the registry may have."""

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.catalog import Catalog
from registry_server.errors import LimitExceeded
from registry_server.limits.quotas import NO_QUOTAS, Quotas
from registry_server.records import Key


class Room:
    """Asked before every registration. Writes that are under way at other replicas are not seen."""

    def __init__(self, catalog: Catalog, quotas: Quotas = NO_QUOTAS) -> None:
        self._catalog = catalog
        self._quotas = quotas

    def check(self, wanted: pb.Instance, lease_id: str) -> None:
        """Whether the instance may come, under that lease, or a new one if it is empty. Who takes the place of another
        needs no room. Raises LimitExceeded."""
        catalog, quotas = self._catalog, self._quotas
        current = catalog.get(Key(wanted.namespace, wanted.service, wanted.id))
        is_held = current is not None and current.lease_id == lease_id
        # What a neighbour has is all under one lease.
        if lease_id and not is_held and not wanted.origin:
            _check("max_instances_per_lease", catalog.count_of_lease(lease_id), quotas.max_instances_per_lease)
        if current is not None or catalog.at_address(wanted.namespace, wanted.service, (wanted.host, wanted.port)):
            return
        size = catalog.size
        _check("max_instances", size.instances, quotas.max_instances)
        if not lease_id:
            _check("max_leases", size.leases, quotas.max_leases)
        if not catalog.count(wanted.namespace, wanted.service)[0]:
            _check("max_services", size.services, quotas.max_services)
            if not catalog.size_of(wanted.namespace)[0]:
                _check("max_namespaces", size.namespaces, quotas.max_namespaces)


def _check(limit: str, count: int, most: int) -> None:
    if count >= most:
        raise LimitExceeded(limit, f"there are {count:,}, and no more may be")
