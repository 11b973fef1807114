"""grpc.health.v1 for the server itself and for every registered service, from the same catalog and hub as all else.

A service of the default namespace goes by its name, one of another by `namespace/service`. It is SERVING while at least
one of its instances is routable. The server goes by the empty name and by `registry.v1.Registry`.
"""

from collections.abc import Iterator

from grpc_health.v1 import health_pb2

from registry_api.limits import DEFAULT_NAMESPACE, MAX_NAME
from registry_server.catalog import Catalog
from registry_server.errors import InvalidField, LimitExceeded, NotFound
from registry_server.hub import Hub, Interest, Reader, Ready, Sink
from registry_server.rights import Rights
from registry_server.rpc.table import OPEN, Broadcast, Caller, Method, Name, Needs, Service, Unary

NAME = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
SERVER_NAMES = ("", "registry.v1.Registry")
# What those who watch the server itself wait for. No service has such a name.
SERVER: Interest = ("health", "of", "the server")
# As many as the protocol lets a client ask for in one answer.
MAX_LISTED = 100
# The oldest package of grpc.health.v1 that will do has no List yet; with that one, no more has the server.
HAS_LIST = hasattr(health_pb2, "HealthListRequest")

_Response = health_pb2.HealthCheckResponse


class HealthTopic:
    """The status of one name: a hub.Topic whose version grows only when the status changes."""

    def __init__(self, health: "HealthService", name: str) -> None:
        self.version = 0
        self._health = health
        self._name = name
        self._status = health.status(name)
        self.interests = (SERVER,) if name in SERVER_NAMES else (_split(name),)

    def advance(self) -> bool:
        """Look the status up."""
        status = self._health.status(self._name)
        if status != self._status:
            self._status = status
            self.version += 1
        return True

    def expect(self, claim: object) -> None:
        """Nobody who comes knows anything."""

    def known(self, claim: object) -> None:
        """Nobody who comes knows anything."""

    def step(self, since: int | None) -> Ready | None:
        """The current status, unless that is what the reader knows."""
        if since == self.version:
            return None
        return Ready(self.version, _Response(status=self._status).SerializeToString())

    def bookmark(self) -> None:
        """The protocol has none."""


class HealthService:
    """Check, List (if `HAS_LIST`) and Watch."""

    def __init__(self, catalog: Catalog, hub: Hub) -> None:
        self._catalog = catalog
        self._hub = hub
        self.is_serving = True

    def service(self) -> Service:
        """What a table says of it."""
        methods: dict[str, Method] = {
            "Check": Unary(health_pb2.HealthCheckRequest, self.check, _READ),
            "Watch": Broadcast(health_pb2.HealthCheckRequest, self.watch, _READ),
        }
        if HAS_LIST:
            methods["List"] = Unary(health_pb2.HealthListRequest, self.list, OPEN)
        return Service(NAME, methods)

    async def check(self, request: health_pb2.HealthCheckRequest, caller: Caller) -> bytes:
        """The status of one name. Raises NotFound for one that is unknown, as the protocol asks."""
        status = self.status(_name(request.service))
        if status == _Response.SERVICE_UNKNOWN:
            raise NotFound("service", request.service)
        return bytes(_Response(status=status).SerializeToString())

    async def list(self, request: "health_pb2.HealthListRequest", caller: Caller) -> bytes:
        """The status of all names that the caller may read."""
        statuses = {name: _Response(status=self.status(name)) for name in self._names(caller.rights)}
        if len(statuses) > MAX_LISTED:
            raise LimitExceeded(
                "services", f"there are {len(statuses)}, more than the {MAX_LISTED} one answer may list"
            )
        return bytes(health_pb2.HealthListResponse(statuses=statuses).SerializeToString())

    def watch(self, request: health_pb2.HealthCheckRequest, caller: Caller, sink: Sink) -> Reader:
        """Let the hub write every change of the status to the sink."""
        name = _name(request.service)
        return self._hub.join(("health", name), lambda: HealthTopic(self, name), sink, lane=caller.peer)

    def stop(self) -> None:
        """The server serves no more; those who watch it are told."""
        self.is_serving = False
        self._hub.wake(SERVER)

    def status(self, name: str) -> int:
        """The status of a name; SERVICE_UNKNOWN if nothing goes by it."""
        if name in SERVER_NAMES:
            is_serving = self.is_serving
        else:
            instances, routable = self._catalog.count(*_split(name))
            if not instances:
                return int(_Response.SERVICE_UNKNOWN)
            is_serving = routable > 0
        return int(_Response.SERVING if is_serving else _Response.NOT_SERVING)

    def _names(self, rights: Rights) -> Iterator[str]:
        yield from SERVER_NAMES
        for namespace in self._catalog.namespaces():
            prefix = "" if namespace == DEFAULT_NAMESPACE else f"{namespace}/"
            for service in self._catalog.services(namespace):
                if rights.may("read", namespace, service):
                    yield prefix + service


def _name(name: str) -> str:
    if len(name) > 2 * MAX_NAME + 1:
        raise InvalidField("service", "is too long for a service")
    return name


def _split(name: str) -> tuple[str, str]:
    namespace, slash, service = name.partition("/")
    return (namespace, service) if slash else (DEFAULT_NAMESPACE, name)


def _asked(request: health_pb2.HealthCheckRequest) -> tuple[Name, ...]:
    """Of the server itself, anybody may ask."""
    return () if request.service in SERVER_NAMES else (_split(_name(request.service)),)


_READ = Needs("read", _asked)
