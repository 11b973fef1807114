"""CORE: what there is for xDS clients: from the catalog to resources, each made once for all who are told it.

Every service has a listener, routes, a cluster and its endpoints, and so has one that nobody registered: a client that
asks for it hears at once that there is no endpoint, and of the first one as soon as there is. It would wait for fifteen
seconds else. Clients that ask for all there is, as Envoy does, are told of the services that are or were there.

A service with a policy that splits its traffic has a cluster for each part beside its own.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

from registry_api.registry.xds.v1 import resources_pb2 as xds
from registry_server.catalog import Catalog
from registry_server.changes import Change
from registry_server.policies.book import PolicyBook
from registry_server.policies.parts import WHOLE, Share, split
from registry_server.rights import Rights
from registry_server.xds import clusters, flaws, listeners, traffic
from registry_server.xds.endpoints import Spots, assignment
from registry_server.xds.hosts import HostBook
from registry_server.xds.kinds import ClientKind, ResourceType, XdsClient
from registry_server.xds.listeners import Ways
from registry_server.xds.names import ALL_ROUTES, EVERYTHING, LISTENER, Named, ServiceKey, read, shown
from registry_server.xds.packed import Packed, packed

# Services without an instance that clients of all there is are still told of.
GONE_LIMIT = 4_096
# Services that nobody registered, and that clients may ask for: what each of them is told is kept.
MAX_STRANGERS = 20_000
# So much that was made of one service is kept: endpoints, as seen from the places of its clients; and all else, of its
# parts and by kinds of clients.
MAX_WAYS, MAX_TRAFFIC = 256, 1_024


class _Of:
    """What was made of one service."""

    __slots__ = ("endpoints", "parts", "shares", "spots", "traffic", "weights")

    def __init__(self) -> None:
        self.spots = Spots()
        # Forgotten when an instance changes: its parts, and their endpoints. All else: when the traffic changes.
        self.shares: list[Share] | None = None
        self.endpoints: dict[tuple[object, ...], Packed] = {}
        self.weights: list[tuple[str, int]] = []  # as routes were last told of
        self.parts: dict[str, None] = {}  # all that there were
        self.traffic: dict[tuple[object, ...], Packed] = {}


class Resources:
    """Resources by type and name, as one kind of client takes them.

    `is_warming`: nothing is loaded yet, or there was nothing and what was there has not had the time to come back.
    `is_ahead`: clusters have changed of which the streams have not been told yet; routes would lead to them already.
    """

    def __init__(self, catalog: Catalog, policies: PolicyBook, hosts: HostBook) -> None:
        self.is_warming = True
        self.is_ahead = False
        self._catalog = catalog
        self._policies = policies
        self._hosts = hosts
        self._of: dict[ServiceKey, _Of] = {}
        self._wanted: dict[ServiceKey, int] = {}
        self._strangers: set[ServiceKey] = set()  # those wanted that nobody registered
        # For who asks for all there is: the services, in order, those of them that have no instance, and what was made.
        self._known: dict[ServiceKey, None] = {}
        self._gone: OrderedDict[ServiceKey, None] = OrderedDict()
        self._parts_gone: dict[ServiceKey, tuple[str, ...]] = {}  # of those forgotten last
        self._in_order: tuple[ServiceKey, ...] | None = None
        self._routes: dict[Rights, Packed] = {}
        self._ways: dict[ServiceKey, Ways] = {}
        self._flawed: dict[ServiceKey, str] = {}
        # Services, or parts, with more endpoints than can be told, and those of them that are news.
        self._crowded: dict[Named, int] = {}  # and how many endpoints it had then
        self._newly_crowded: list[Named] = []

    # ---- what is asked

    def get(self, kind: ResourceType, client: XdsClient, name: str, rights: Rights) -> Packed | None:
        """A resource; None if there is none of that name, or the client may not know of it."""
        if kind is ResourceType.LISTENER and name == LISTENER and client.kind is ClientKind.ENVOY:
            return packed(kind, LISTENER, listeners.socket_listener(*client.listen))
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
        return [name for key in self._services() if rights.may("read", *key) for name in self.clusters_of(key)]

    def clusters_of(self, key: ServiceKey, *, ever: bool = False) -> Iterator[str]:
        """The names of the clusters of a service: its own, and one for each part; or for each that there ever was."""
        yield shown(key)
        if key in self._known:
            of = self._made(key)
            parts = [share.name for share in self._shares(key, of) if share.name != WHOLE]
            yield from (shown(key, part) for part in (of.parts if ever else parts))
        elif ever:
            yield from (shown(key, part) for part in self._parts_gone.get(key, ()))

    def is_listed(self, kind: ResourceType, name: str) -> bool:
        """Whether a resource is among all there is of its type."""
        if kind is ResourceType.LISTENER:
            return name == LISTENER
        named = read(name)
        return named is not None and named.key in self._known and name in self.clusters_of(named.key)

    @property
    def is_full(self) -> bool:
        """Whether so many services are asked for that nobody registered that there may be no more of these."""
        return len(self._strangers) >= MAX_STRANGERS

    @property
    def is_empty(self) -> bool:
        """Whether there is no service, and never was one."""
        return not self._known

    def is_known(self, key: ServiceKey) -> bool:
        """Whether a service is among all there is."""
        return key in self._known

    def has_part(self, named: Named) -> bool:
        """Whether a service is there, and has or had that part."""
        if named.key not in self._known:
            return False
        if not named.part:
            return True
        of = self._made(named.key)
        self._shares(named.key, of)
        return named.part in of.parts

    def is_finding(self, key: ServiceKey) -> bool:
        """Whether it is not known yet where the endpoints of a service are, which somebody has begun to ask for."""
        return self._hosts.is_awaited(key)

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
            of.endpoints.clear()

    def policy_changed(self, key: ServiceKey) -> None:
        """The policy of a service is another one."""
        if (of := self._of.get(key)) is not None:
            of.shares = None
            of.endpoints.clear()
            of.traffic.clear()
        self._reroute(key)

    def weights_changed(self, key: ServiceKey) -> bool:
        """Whether the parts of a service get other shares than when this was last asked: its routes are others then."""
        of = self._of.get(key)
        if of is None or not of.weights:
            return False
        weights = [(share.name, share.weight) for share in self._shares(key, of)]
        if weights == of.weights:
            return False
        of.weights = weights
        of.traffic.clear()
        self._reroute(key)
        return True

    def want(self, key: ServiceKey) -> None:
        """Somebody asks for a service: what is made of it is kept."""
        self._wanted[key] = self._wanted.get(key, 0) + 1
        if key not in self._known:
            self._strangers.add(key)

    def unwant(self, key: ServiceKey) -> None:
        """Somebody who did asks no more."""
        self._wanted[key] -= 1
        if not self._wanted[key]:
            del self._wanted[key]
            self._strangers.discard(key)
            of = self._of.pop(key, None)
            if of is not None and key in self._known:
                of.spots, of.endpoints = Spots(), {}
                self._of[key] = of
            self._hosts.used(key, ())
            self._crowded = {it: count for it, count in self._crowded.items() if it.key != key}

    def take_flaws(self) -> dict[ServiceKey, str]:
        """The services whose policy is not followed, and why, since this was last asked."""
        found, self._flawed = self._flawed, {}
        return found

    def take_crowded(self) -> list[Named]:
        """The services and parts that came to have more endpoints than can be told, since this was last asked."""
        found, self._newly_crowded = self._newly_crowded, []
        return found

    # ---- within: what is known

    def _look(self, key: ServiceKey) -> bool:
        """A service changed: forget its endpoints; give whether it has come to be known."""
        if (of := self._of.get(key)) is not None:
            of.shares = None
            of.endpoints.clear()
        if not self._catalog.count(*key)[0]:
            self._gone[key] = None
            return False
        self._gone.pop(key, None)
        if key in self._known:
            return False
        self._known[key] = None
        self._strangers.discard(key)
        self._in_order = None
        self._routes.clear()
        return True

    def forgotten(self) -> list[ServiceKey]:
        """Services that left longest ago, and are too many to be remembered: they are known no more."""
        found = []
        self._parts_gone.clear()
        while len(self._gone) > GONE_LIMIT:
            key, _ = self._gone.popitem(last=False)
            if key in self._known:
                del self._known[key]
                self._reroute(key)
                if (of := self._of.get(key)) is not None:
                    self._parts_gone[key] = tuple(of.parts)
                if key not in self._wanted:
                    self._of.pop(key, None)
                found.append(key)
        if found:
            self._in_order = None
        return found

    def _services(self) -> tuple[ServiceKey, ...]:
        if self._in_order is None:
            self._in_order = tuple(sorted(self._known))
        return self._in_order

    # ---- within: what is made

    def _made(self, key: ServiceKey) -> _Of:
        of = self._of.get(key)
        if of is None:
            of = _Of()
            if key in self._wanted or key in self._known:
                self._of[key] = of
        return of

    def _shares(self, key: ServiceKey, of: _Of) -> list[Share]:
        if of.shares is None:
            policy, entries = self._policies.of(*key), self._catalog.of_service(*key)
            if policy is None or not policy.split:
                of.shares = [Share(WHOLE, 1, entries)]
            else:
                of.shares = split(policy, entries)
                of.parts.update((share.name, None) for share in of.shares if share.name != WHOLE)
        return of.shares

    def _of_service(self, kind: ResourceType, client: XdsClient, name: str, named: Named) -> Packed:
        of = self._made(named.key)
        if kind is ResourceType.ENDPOINTS:
            way: tuple[object, ...] = (name, client.place[:2])
            if way not in of.endpoints:
                if len(of.endpoints) >= MAX_WAYS:
                    of.endpoints.clear()
                of.endpoints[way] = packed(kind, name, self._endpoints(name, named, of, client))
            return of.endpoints[way]
        way = (kind, name, client.kind)
        if way not in of.traffic:
            if len(of.traffic) >= MAX_TRAFFIC:
                of.traffic.clear()
            of.traffic[way] = packed(kind, name, self._traffic(kind, name, named, of, client.kind))
        return of.traffic[way]

    def _endpoints(self, name: str, named: Named, of: _Of, client: XdsClient) -> bytes:
        shares = self._shares(named.key, of)
        whole = self._catalog.of_service(*named.key)
        self._hosts.used(named.key, {entry.address[0] for entry in whole if entry.routable})
        # A part that there is no more gets what the others get, until nobody is led there.
        entries = next((share.entries for share in shares if share.name == named.part), whole)
        spots = of.spots.of(entries, self._hosts.address)
        in_one = traffic.one_locality(self._policies.of(*named.key))
        found = assignment(name, spots, client.place, in_one=in_one)
        self._note_crowd(named, len(spots), is_crowded=of.spots.is_cut or found.is_cut)
        return found.encoded

    def _note_crowd(self, named: Named, count: int, *, is_crowded: bool) -> None:
        """It is news once, until there are fewer: of clients in different places one may be told of all."""
        if is_crowded and named not in self._crowded:
            self._newly_crowded.append(named)
        if is_crowded:
            self._crowded[named] = count
        elif count < self._crowded.get(named, 0):
            del self._crowded[named]

    def _traffic(self, kind: ResourceType, name: str, named: Named, of: _Of, client: ClientKind) -> bytes:
        if kind is ResourceType.LISTENER:
            return listeners.api_listener(name, shown(named.key))
        if kind is ResourceType.CLUSTER:
            policy = self._policies.of(*named.key)
            if policy is None:
                return clusters.plain(name)
            cluster = clusters.cluster(name)
            traffic.to_cluster(cluster, policy, client)
            if self._has_flaw(named.key, flaws.of_cluster(cluster)):
                return clusters.plain(name)
            return listeners.encoded(cluster)
        return listeners.routes(name, self._action(named.key, of, client))

    def _action(self, key: ServiceKey, of: _Of, client: ClientKind) -> xds.RouteAction:
        of.weights = of.weights or [(share.name, share.weight) for share in self._shares(key, of)]
        shares = [(shown(key, share.name), share.weight) for share in self._shares(key, of) if share.weight]
        if not traffic.divides(client):
            shares = [(shown(key), 1)]
        action = clusters.action(shares)
        if (policy := self._policies.of(*key)) is not None:
            traffic.to_route(action, policy, client)
            if self._has_flaw(key, flaws.of_action(action)):
                return clusters.action(shares)
        return action

    def _has_flaw(self, key: ServiceKey, found: Iterator[str]) -> bool:
        """Whether some client would not take what was made of a policy: that is sent to none."""
        flaw = next(found, "")
        if flaw:
            self._flawed.setdefault(key, flaw)
        return bool(flaw)

    def _all_routes(self, rights: Rights) -> Packed:
        if rights not in self._routes:
            if len(self._routes) >= MAX_WAYS:
                self._routes.clear()
            ways = {key: self._ways_to(key) for key in self._services() if rights.may("read", *key)}
            self._routes[rights] = packed(ResourceType.ROUTES, ALL_ROUTES, listeners.all_routes(ways))
        return self._routes[rights]

    def preparations(self, rights: Rights) -> Iterator[None]:
        """Make what the routes to all services consist of, one after the other."""
        for key in self._services():
            if key not in self._ways and rights.may("read", *key):
                self._ways_to(key)
                yield

    def _ways_to(self, key: ServiceKey) -> Ways:
        found = self._ways.get(key)
        if found is None:
            found = self._ways[key] = listeners.ways(key, self._action(key, self._made(key), ClientKind.ENVOY))
        return found

    def _reroute(self, key: ServiceKey) -> None:
        """The ways to a service are others."""
        self._ways.pop(key, None)
        self._routes.clear()
