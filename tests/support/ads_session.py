"""An xDS stream without a port: a session over a catalog, and what its client asks and is told, parsed."""

from dataclasses import dataclass, field
from typing import Any

from registry_api.registry.xds.v1 import ads_pb2 as ads
from registry_api.registry.xds.v1 import resources_pb2 as xds
from registry_server.catalog import Catalog
from registry_server.policies.book import PolicyBook
from registry_server.records import Delta
from registry_server.rights import UNRESTRICTED, Rights
from registry_server.xds.encoding import Encoder
from registry_server.xds.hosts import HostBook
from registry_server.xds.index import Index
from registry_server.xds.kinds import ResourceType
from registry_server.xds.names import ALL_CLUSTERS, EVERYTHING
from registry_server.xds.resources import Resources
from registry_server.xds.session import AdsSession

CDS, EDS, LDS, RDS = ResourceType
MESSAGES: dict[ResourceType, type[Any]] = {
    CDS: xds.Cluster,
    EDS: xds.ClusterLoadAssignment,
    LDS: xds.Listener,
    RDS: xds.RouteConfiguration,
}
PYTHON, ENVOY = "gRPC C-core linux Python/C-core", "envoy"


class World:
    """A catalog, and what xDS makes of it. Changes come as a store tells of them."""

    def __init__(self, catalog: Catalog | None = None) -> None:
        self.catalog = catalog or Catalog()
        self.hosts = HostBook()
        self.resources = Resources(self.catalog, PolicyBook(self.catalog.settings), self.hosts)
        self.resources.is_warming = False
        self.index = Index(self.resources)
        self.encoder = Encoder()
        self.sessions: list[AdsSession] = []

    def apply(self, delta: Delta) -> None:
        """Let something change, and every stream hear of it."""
        for name, is_all in self.resources.changed(self.catalog.apply(delta)).items():
            if is_all:
                self._tell(name)
            for session in self.index.of(name):
                session.touch(name, all_of_it=False)

    def moved(self, *keys: tuple[str, str]) -> None:
        """Every stream hears that the endpoints of services are elsewhere."""
        for name in keys:
            self.resources.moved(name)
            for session in self.index.of(name):
                session.touch(name, all_of_it=False)

    def policy_changed(self, name: tuple[str, str]) -> None:
        """Every stream hears that the policy of a service is another one."""
        self.resources.policy_changed(name)
        self._tell(name)

    def forget(self) -> None:
        """What left long ago is forgotten, and every stream hears of it."""
        for name in self.resources.forgotten():
            self._tell(name)

    def _tell(self, name: tuple[str, str]) -> None:
        for touched in (name, EVERYTHING):
            for session in self.index.of(touched):
                session.touch(touched, all_of_it=True)
        for session in self.index.of(ALL_CLUSTERS):
            session.touch_clusters(self.resources.clusters_of(name, ever=True))

    def session(self, rights: Rights = UNRESTRICTED, *, is_delta: bool = False) -> AdsSession:
        """A stream that begins."""
        session = AdsSession(self.resources, self.encoder, self.index, rights, is_delta=is_delta)
        self.sessions.append(session)
        return session


@dataclass
class Peer:
    """The client of one stream of the state of the world. It says nothing by itself."""

    world: World
    agent: str = PYTHON
    session: AdsSession = field(init=False)
    nonce: dict[ResourceType, str] = field(default_factory=dict)
    version: dict[ResourceType, str] = field(default_factory=dict)
    names: dict[ResourceType, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.session = self.world.session()

    def ask(self, kind: ResourceType, *names: str, **fields: Any) -> list[ads.DiscoveryResponse]:
        """Ask for names, and take what is told."""
        self.names[kind] = list(names)
        request = ads.DiscoveryRequest(
            type_url=kind.url,
            resource_names=names,
            response_nonce=self.nonce.get(kind, ""),
            version_info=self.version.get(kind, ""),
        )
        request.node.user_agent_name = self.agent
        for name, value in fields.items():
            if isinstance(value, str):
                setattr(request, name, value)
            else:
                getattr(request, name).CopyFrom(value)
        self.session.asked(request, 0.0)
        return self.take()

    def ack(self, kind: ResourceType) -> list[ads.DiscoveryResponse]:
        """Accept the last response of a type."""
        return self.ask(kind, *self.names[kind])

    def nack(self, kind: ResourceType, why: str = "no") -> list[ads.DiscoveryResponse]:
        """Reject it."""
        return self.ask(kind, *self.names[kind], error_detail=ads.Problem(code=3, message=why))

    def take(self) -> list[ads.DiscoveryResponse]:
        """What is told now."""
        found = []
        while (made := self.session.next()) is not None:
            response = ads.DiscoveryResponse.FromString(b"".join(made.chunks))
            kind = next(kind for kind in ResourceType if kind.url == response.type_url)
            self.nonce[kind], self.version[kind] = response.nonce, response.version_info
            found.append(response)
        return found


def read(response: ads.DiscoveryResponse) -> list[Any]:
    """The resources of a response."""
    kind = next(kind for kind in ResourceType if kind.url == response.type_url)
    return [MESSAGES[kind].FromString(it.value) for it in response.resources]


def endpoints(response: ads.DiscoveryResponse) -> dict[str, list[tuple[str, int]]]:
    """Addresses and weights by cluster."""
    return {
        it.cluster_name: [
            (f"{at.address}:{at.port_value}", point.load_balancing_weight.value)
            for locality in it.endpoints
            for point in locality.lb_endpoints
            for at in [point.endpoint.address.socket_address]
        ]
        for it in read(response)
    }


@dataclass
class DeltaPeer:
    """The client of one incremental stream. It says nothing by itself."""

    world: World
    agent: str = ENVOY
    rights: Rights = UNRESTRICTED
    session: AdsSession = field(init=False)
    nonce: dict[ResourceType, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.session = self.world.session(self.rights, is_delta=True)

    def ask(
        self, kind: ResourceType, *names: str, drop: tuple[str, ...] = (), have: dict[str, str] | None = None
    ) -> list[ads.DeltaDiscoveryResponse]:
        """Ask for more names, or for fewer, and take what is told."""
        request = ads.DeltaDiscoveryRequest(
            type_url=kind.url,
            resource_names_subscribe=names,
            resource_names_unsubscribe=drop,
            initial_resource_versions=have or {},
        )
        request.node.user_agent_name = self.agent
        self.session.asked_delta(request, 0.0)
        return self.take()

    def ack(self, kind: ResourceType, why_not: str = "") -> list[ads.DeltaDiscoveryResponse]:
        """Accept the last response of a type, or reject it."""
        request = ads.DeltaDiscoveryRequest(type_url=kind.url, response_nonce=self.nonce[kind])
        if why_not:
            request.error_detail.message = why_not
        self.session.asked_delta(request, 0.0)
        return self.take()

    def take(self) -> list[ads.DeltaDiscoveryResponse]:
        """What is told now."""
        found = []
        while (made := self.session.next()) is not None:
            response = ads.DeltaDiscoveryResponse.FromString(b"".join(made.chunks))
            self.nonce[next(kind for kind in ResourceType if kind.url == response.type_url)] = response.nonce
            found.append(response)
        return found


def names(*responses: ads.DeltaDiscoveryResponse) -> list[str]:
    """The resources that are told."""
    return [resource.name for response in responses for resource in response.resources]
