"""CORE: what there is for xDS clients: from the catalog to resources, each made once for all who are told it.

Every service has a listener, routes, a cluster and its endpoints, and so has one that nobody registered: a client that
asks for it hears at once that there is no endpoint, and of the first one as soon as there is. It would wait for fifteen
seconds else. Clients that ask for all there is, as Envoy does, are told of the services that are or were there.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from registry_server.catalog import Catalog
from registry_server.history import Change
from registry_server.rights import Rights
from registry_server.xds import clusters, listeners
from registry_server.xds.endpoints import Lookup, Spots, assignment
from registry_server.xds.kinds import ClientKind, ResourceType, XdsClient
from registry_server.xds.names import ALL_ROUTES, EVERYTHING, LISTENER, Named, ServiceKey, read, shown
from registry_server.xds.packed import Packed, packed

# Services without an instance that clients of all there is are still told of.
GONE_LIMIT = 4_096


class _Of:
    """What was made of one service, and whether it is there for clients that ask for all."""

    __slots__ = ("made", "spots", "traffic")

    def __init__(self) -> None:
        self.spots = Spots()
        self.made: dict[tuple[object, ...], Packed] = {}  # endpoints
        self.traffic: dict[tuple[object, ...], Packed] = {}  # all else, which no instance changes


class Resources:
    """Resources by type and name, as one kind of client takes them."""

    def __init__(self, catalog: Catalog, lookup: Lookup) -> None:
        self._catalog = catalog
        self._lookup = lookup
        self._of: dict[ServiceKey, _Of] = {}
        self._wanted: dict[ServiceKey, int] = {}
        self._known: dict[ServiceKey, None] = {}
        self._gone: OrderedDict[ServiceKey, None] = OrderedDict()
        self._in_order: tuple[ServiceKey, ...] | None = None

    # ---- what is asked

    def get(self, kind: ResourceType, client: XdsClient, name: str, rights: Rights) -> Packed | None:
        """A resource; None if there is none of that name, or the client may not know of it."""
        if kind is ResourceType.LISTENER and name == LISTENER and client.kind is ClientKind.ENVOY:
            return self._socket_listener(client)
        named = read(name)
        if named is None:
            return None
        if named.key == EVERYTHING:
            return self._all_routes(rights) if kind is ResourceType.ROUTES and client.kind is ClientKind.ENVOY else None
        return self._of_service(kind, client, name, named) if rights.may("read", *named.key) else None

    def all_of(self, kind: ResourceType, rights: Rights) -> Sequence[str]:
        """The names of all there is of a type, for who asks for that."""
        if kind is ResourceType.LISTENER:
            return (LISTENER,)
        if kind is not ResourceType.CLUSTER:
            return ()
        return [shown(key) for key in self._services() if rights.may("read", *key)]

    def is_known(self, key: ServiceKey) -> bool:
        """Whether a service is among all there is."""
        return key in self._known

    # ---- what happens

    def changed(self, changes: Iterable[Change]) -> dict[ServiceKey, bool]:
        """Take in what changed in the catalog; gives the services, and whether more than their endpoints changed."""
        found: dict[ServiceKey, bool] = {}
        for change in changes:
            key = change.key[:2]
            if key not in found:
                found[key] = self._look(key)
            of = self._of.get(key)
            if of is not None and change.after is None:
                of.spots.forget(change.key.id)
        return found

    def moved(self, key: ServiceKey) -> None:
        """The endpoints of a service may be elsewhere: a host's address changed."""
        if (of := self._of.get(key)) is not None:
            of.made.clear()

    def want(self, key: ServiceKey) -> None:
        """Somebody asks for a service: what is made of it is kept."""
        self._wanted[key] = self._wanted.get(key, 0) + 1

    def unwant(self, key: ServiceKey) -> None:
        """Somebody who did asks no more."""
        self._wanted[key] -= 1
        if not self._wanted[key]:
            del self._wanted[key]
            if key not in self._known:
                self._of.pop(key, None)

    # ---- within

    def _look(self, key: ServiceKey) -> bool:
        """A service changed: forget its endpoints; give whether it has come to be known, or is no more."""
        if (of := self._of.get(key)) is not None:
            of.made.clear()
        if self._catalog.count(*key)[0]:
            self._gone.pop(key, None)
            if key in self._known:
                return False
            self._known[key] = None
            self._in_order = None
            return True
        if key in self._known and key not in self._gone:
            self._gone[key] = None
        return False

    def _services(self) -> tuple[ServiceKey, ...]:
        if self._in_order is None:
            self._in_order = tuple(sorted(self._known))
        return self._in_order

    def _of_service(self, kind: ResourceType, client: XdsClient, name: str, named: Named) -> Packed | None:
        of = self._of.get(named.key)
        if of is None:
            of = self._of[named.key] = _Of()
        if kind is ResourceType.ENDPOINTS:
            near = client.place[:2]
            key: tuple[object, ...] = (name, near)
            if key not in of.made:
                of.made[key] = self._endpoints(name, named, of, client)
            return of.made[key]
        key = (kind, name)
        if key not in of.traffic:
            of.traffic[key] = packed(kind, name, self._traffic(kind, name, named))
        return of.traffic[key]

    def _endpoints(self, name: str, named: Named, of: _Of, client: XdsClient) -> Packed:
        spots = of.spots.of(self._catalog.of_service(*named.key), self._lookup)
        return packed(ResourceType.ENDPOINTS, name, assignment(name, spots, client.place))

    def _traffic(self, kind: ResourceType, name: str, named: Named) -> bytes:
        if kind is ResourceType.CLUSTER:
            return listeners.encoded(clusters.cluster(name))
        if kind is ResourceType.LISTENER:
            return listeners.api_listener(name, shown(named.key))
        return listeners.routes(name, clusters.action([(shown(named.key), 1)]))

    def _socket_listener(self, client: XdsClient) -> Packed:
        return packed(ResourceType.LISTENER, LISTENER, listeners.socket_listener(*client.listen))

    def _all_routes(self, rights: Rights) -> Packed:
        keys = [key for key in self._services() if rights.may("read", *key)]
        hosts = {shown(key): listeners.virtual_host(shown(key), clusters.action([(shown(key), 1)])) for key in keys}
        by_path = [(key[1], clusters.action([(shown(key), 1)])) for key in keys if shown(key) == key[1]]
        return packed(ResourceType.ROUTES, ALL_ROUTES, listeners.all_routes(hosts, by_path))
