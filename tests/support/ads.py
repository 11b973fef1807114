"""A client of ADS with nothing between the test and the server but grpc: state of the world, and incremental.

A stream keeps what it asked for and what it holds of each type, as real clients do, and notes whatever breaks a rule
that holds for every answer: that raises when its block ends. The block also ends with "and nothing more is sent". It is
written from the protocol's text and shares no code with the server.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, Self

import grpc
import grpc.aio

from registry_api.registry.v1 import policies_pb2 as policies
from registry_api.registry.v1 import policies_pb2_grpc
from tests.support import xds_messages as xds
from tests.support.raw import RawClient
from tests.support.waiting import passed
from tests.support.xds_messages import CDS, EDS, LDS, RDS, RESOURCES, SHORT

WAIT_S = 15.0
# How long nothing may come, at the end of a stream. What a server sends without reason it sends at once.
QUIET_S = 0.05
SOTW, DELTA = "sotw", "delta"
BOTH = (SOTW, DELTA)
ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService"
WHOLE = (LDS, CDS)  # of these a state of the world tells everything each time, of the others what changed
INVALID = 3
ANYTHING = "*"


@dataclass(frozen=True, slots=True)
class Answer:
    """One response. `resources` are decoded, by name; `removed` and `versions` come from the incremental kind alone."""

    kind: str
    version: str
    nonce: str
    resources: dict[str, Any]
    errors: dict[str, tuple[int, str]]
    versions: dict[str, str] = field(default_factory=dict)
    removed: tuple[str, ...] = ()

    def __str__(self) -> str:
        removed = f", without {list(self.removed)}" if self.removed else ""
        return f"{SHORT.get(self.kind, self.kind)} {sorted(self.resources)}{removed}, errors {self.errors}"


@dataclass(slots=True)
class Interest:
    """What a stream asked for and holds, of one type."""

    wanted: set[str] = field(default_factory=set)
    held: dict[str, Any] = field(default_factory=dict)
    due: set[str] = field(default_factory=set)  # asked for since it last came: may come though nothing changed
    dropped: set[str] = field(default_factory=set)  # no longer asked for, but it may be on its way
    version: str = ""  # the last accepted
    nonce: str = ""  # the last that came
    asked: bool = False
    named: bool = False  # a name was ever asked for
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def wild(self) -> bool:
        """Whether everything is asked for."""
        return ANYTHING in self.wanted or (self.asked and not self.named)

    def want(self, names: Iterable[str]) -> tuple[list[str], list[str]]:
        """Take a new set of names; those added and those dropped."""
        new = set(names)
        added, dropped = sorted(new - self.wanted), sorted(self.wanted - new)
        self.due.update(added)
        self.dropped.update(dropped)
        self.wanted, self.asked, self.named = new, True, self.named or bool(new)
        if not self.wild:
            self.held = {name: it for name, it in self.held.items() if name in new}
            self.versions = {name: it for name, it in self.versions.items() if name in new}
        return added, dropped


class Ended(AssertionError):
    """The stream is over; the text says how."""


class AdsStream:
    """One stream. `want` says what is to be followed of a type from now on, `take` waits for what comes of it.

    The incremental one and the other differ in what they send and how they read: in their subclasses.
    """

    path: str
    request: Any
    response: Any

    def __init__(
        self, channel: grpc.aio.Channel, node: Any, *, lenient: bool = False, quiet_s: float = QUIET_S
    ) -> None:
        self.node = node
        self.quiet_s = quiet_s
        self.of: dict[str, Interest] = {kind: Interest() for kind in RESOURCES}
        self.answers: list[Answer] = []
        self.log: list[Answer] = []  # every one that came, in order
        self.mistakes: list[str] = []
        self.error: BaseException | None = None
        self._ended = False
        self._lenient = lenient
        self._nonces: set[str] = set()
        self._is_first = True
        self._changed = asyncio.Event()
        method: Any = channel.stream_stream(
            f"{ADS}/{self.path}", lambda message: message.SerializeToString(), self.response.FromString
        )
        self.call = method(wait_for_ready=True)
        self._task: asyncio.Task[None] | None = None

    # ---- its life

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None and self.quiet_s:
                await self.nothing_more(self.quiet_s)
        finally:
            await self.leave()
        if error is None:
            self.check()

    async def leave(self) -> None:
        """End the stream, whatever is still to come."""
        self.call.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def check(self) -> None:
        """Raises AssertionError when an answer broke a rule."""
        assert not self.mistakes, self.mistakes[:5]

    async def _read(self) -> None:
        try:
            while (message := await self.call.read()) is not grpc.aio.EOF:
                self._take(self.read(message))
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
            self.error = error
        finally:
            self._ended = True
            self._changed.set()

    # ---- waiting

    async def next(self, kind: str | None = None, timeout_s: float = WAIT_S) -> Answer:
        """The next answer, of that type if one is named. Raises AssertionError when none comes, Ended after the end."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    for at, answer in enumerate(self.answers):
                        if kind in (None, answer.kind):
                            return self.answers.pop(at)
                    if self._ended:
                        raise Ended(f"the stream ended: {self.error!r}")
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            came = [str(it) for it in self.log[-5:]]
            raise AssertionError(f"no answer of {SHORT.get(kind or '', 'any type')}; came: {came}") from None

    async def take(self, kind: str) -> Answer:
        """The next answer of a type, acknowledged."""
        answer = await self.next(kind)
        await self.ack(answer)
        return answer

    async def get(self, kind: str, *names: str) -> dict[str, Any]:
        """Want exactly these of a type, and what comes for them."""
        await self.want(kind, *names)
        return (await self.take(kind)).resources

    async def nothing_more(self, for_s: float = QUIET_S) -> None:
        """Raises AssertionError when anything came that was not taken, or comes meanwhile."""
        await passed(for_s)
        assert not self.answers, f"more is sent: {[str(it) for it in self.answers[:5]]}"

    async def ended(self, timeout_s: float = WAIT_S) -> grpc.StatusCode:
        """Wait for the end of the stream; its status."""
        async with asyncio.timeout(timeout_s):
            code: grpc.StatusCode = await self.call.code()
        return code

    # ---- what comes

    def _take(self, answer: Answer) -> None:
        interest = self.of.get(answer.kind)
        self.log.append(answer)
        self.answers.append(answer)
        if interest is None:
            self.mistakes.append(f"a type nobody asked for: {answer.kind}")
        else:
            if not self._lenient:
                self._check(answer, interest)
            self.fold(answer, interest)
            interest.nonce = answer.nonce
            interest.due.difference_update(answer.resources, answer.removed, answer.errors, [ANYTHING])
            interest.dropped.clear()
        self._changed.set()

    def _check(self, answer: Answer, interest: Interest) -> None:
        """What holds for every answer of both kinds."""
        self._expect(interest.asked, "a type that was not asked for", answer)
        self._expect(bool(answer.nonce) and answer.nonce not in self._nonces, "no new nonce", answer)
        self._nonces.add(answer.nonce)
        mixed = set(answer.errors) & set(answer.resources)
        self._expect(not mixed, f"both a resource and an error: {mixed}", answer)
        if not interest.wild:
            strange = set(answer.resources) - interest.wanted - interest.dropped
            self._expect(not strange, f"not asked for: {sorted(strange)}", answer)
        self._expect(not self.in_vain(answer, interest), "sent twice", answer)
        for name, resource in answer.resources.items():
            for wrong in unacceptable(answer.kind, resource):
                self._expect(False, f"{name}: {wrong}", answer)

    def _expect(self, holds: bool, what: str, answer: Answer) -> None:
        if not holds:
            self.mistakes.append(f"{what}, in {answer}")

    # ---- what the two kinds do each in its way

    def read(self, message: Any) -> Answer:
        """An answer of a response."""
        raise NotImplementedError

    def fold(self, answer: Answer, interest: Interest) -> None:
        """Hold what an answer says."""
        raise NotImplementedError

    def in_vain(self, answer: Answer, interest: Interest) -> bool:
        """Whether an answer says what was known already."""
        raise NotImplementedError

    async def want(self, kind: str, *names: str) -> None:
        """Ask for exactly these of a type from now on; for none at first: everything."""
        raise NotImplementedError

    async def ack(self, answer: Answer) -> None:
        """Accept an answer."""
        raise NotImplementedError

    async def nack(self, answer: Answer, why: str = "no") -> None:
        """Reject an answer."""
        raise NotImplementedError

    async def send(self, **fields: Any) -> None:
        """One request as it is, the first of a stream with the node."""
        if self._is_first:
            fields.setdefault("node", self.node)
        self._is_first = False
        await self.call.write(self.request(**fields))

    def again(self, kind: str) -> None:
        """Whatever is held of a type may come once more."""
        self.of[kind].due.update(self.of[kind].held)


class Sotw(AdsStream):
    """State of the world."""

    path = "StreamAggregatedResources"
    request = xds.DiscoveryRequest
    response = xds.DiscoveryResponse

    def read(self, message: Any) -> Answer:
        found: dict[str, Any] = {}
        for packed in message.resources:
            if packed.type_url != message.type_url:
                self.mistakes.append(f"{packed.type_url} in an answer of {message.type_url}")
                continue
            resource = RESOURCES[packed.type_url].FromString(packed.value)
            name = xds.name_of(message.type_url, resource)
            if name in found:
                self.mistakes.append(f"twice in one answer: {name}")
            found[name] = resource
        return Answer(message.type_url, message.version_info, message.nonce, found, _errors(message))

    def fold(self, answer: Answer, interest: Interest) -> None:
        kept = {name: it for name, it in answer.resources.items() if interest.wild or name in interest.wanted}
        interest.held = kept if answer.kind in WHOLE else {**interest.held, **kept}

    def in_vain(self, answer: Answer, interest: Interest) -> bool:
        if answer.errors or not interest.nonce or interest.due - {ANYTHING} or interest.dropped:
            return False
        if answer.kind in WHOLE:
            return answer.resources == interest.held
        return any(interest.held.get(name) == it for name, it in answer.resources.items())

    async def want(self, kind: str, *names: str) -> None:
        interest = self.of[kind]
        interest.want(names)
        await self._say(kind, interest.version, interest.nonce)

    async def ack(self, answer: Answer) -> None:
        self.of[answer.kind].version = answer.version
        await self._say(answer.kind, answer.version, answer.nonce)

    async def nack(self, answer: Answer, why: str = "no") -> None:
        error = xds.Status(code=INVALID, message=why)
        await self._say(answer.kind, self.of[answer.kind].version, answer.nonce, error_detail=error)

    async def _say(self, kind: str, version: str, nonce: str, **more: Any) -> None:
        names = sorted(self.of[kind].wanted)
        await self.send(type_url=kind, resource_names=names, version_info=version, response_nonce=nonce, **more)


class Delta(AdsStream):
    """Incremental."""

    path = "DeltaAggregatedResources"
    request = xds.DeltaDiscoveryRequest
    response = xds.DeltaDiscoveryResponse

    def read(self, message: Any) -> Answer:
        found: dict[str, Any] = {}
        for wrapped in message.resources:
            if wrapped.resource.type_url != message.type_url or wrapped.HasField("ttl") or not wrapped.version:
                self.mistakes.append(f"{wrapped.name} of {message.type_url} is {wrapped}")
                continue
            resource = RESOURCES[message.type_url].FromString(wrapped.resource.value)
            if wrapped.name in found or wrapped.name in message.removed_resources:
                self.mistakes.append(f"twice in one answer: {wrapped.name}")
            if wrapped.name != xds.name_of(message.type_url, resource):
                self.mistakes.append(f"{wrapped.name} has another name inside")
            found[wrapped.name] = resource
        versions = {wrapped.name: wrapped.version for wrapped in message.resources}
        removed = tuple(message.removed_resources)
        if len(set(removed)) != len(removed):
            self.mistakes.append(f"removed twice in one answer: {removed}")
        version = message.system_version_info
        return Answer(message.type_url, version, message.nonce, found, _errors(message), versions, removed)

    def fold(self, answer: Answer, interest: Interest) -> None:
        for name, it in answer.resources.items():
            if interest.wild or name in interest.wanted:
                interest.held[name] = it
                interest.versions[name] = answer.versions[name]
        for name in answer.removed:
            interest.held.pop(name, None)
            interest.versions.pop(name, None)

    def in_vain(self, answer: Answer, interest: Interest) -> bool:
        if not interest.nonce or interest.dropped or ANYTHING in interest.due:
            return False
        known = {
            name
            for name, it in answer.resources.items()
            if interest.versions.get(name) == answer.versions[name] or interest.held.get(name) == it
        }
        gone = {name for name in answer.removed if name not in interest.held}
        empty = not (answer.resources or answer.removed or answer.errors)
        return empty or bool((known | gone) - interest.due)

    async def want(self, kind: str, *names: str) -> None:
        added, dropped = self.of[kind].want(names)
        await self.send(type_url=kind, resource_names_subscribe=added, resource_names_unsubscribe=dropped)

    async def ack(self, answer: Answer) -> None:
        await self.send(type_url=answer.kind, response_nonce=answer.nonce)

    async def nack(self, answer: Answer, why: str = "no") -> None:
        error = xds.Status(code=INVALID, message=why)
        await self.send(type_url=answer.kind, response_nonce=answer.nonce, error_detail=error)


def _errors(message: Any) -> dict[str, tuple[int, str]]:
    return {it.resource_name.name: (it.error_detail.code, it.error_detail.message) for it in message.resource_errors}


STREAMS: dict[str, type[AdsStream]] = {SOTW: Sotw, DELTA: Delta}


async def come_back(stream: AdsStream, kind: str, versions: dict[str, str], *names: str) -> None:
    """The first request, of an incremental stream, of a client that had these versions before."""
    interest = stream.of[kind]
    interest.want(names)
    interest.due.clear()
    interest.versions = dict(versions)
    await stream.send(type_url=kind, resource_names_subscribe=names, initial_resource_versions=versions)


# ---- what some client would reject


def unacceptable(kind: str, resource: Any) -> list[str]:
    """What the strictest of all clients would not take, or would take and then have no use for."""
    return _CHECKS[kind](resource)


def _listener(listener: Any) -> list[str]:
    manager = xds.manager_of(listener)
    filters = [it.typed_config.type_url for it in manager.http_filters]
    wrong = [] if filters[-1:] == [xds.ROUTER] else [f"its last filter is no router: {filters}"]
    if manager.HasField("rds") == manager.HasField("route_config"):
        wrong.append("not exactly one of rds and route_config")
    return wrong + (_config_source(manager.rds.config_source) if manager.HasField("rds") else [])


def _config_source(source: Any) -> list[str]:
    return [] if source.HasField("ads") or source.HasField("self") else ["a pointer to something else than ADS"]


def _routes(routes: Any) -> list[str]:
    names = [host.name for host in routes.virtual_hosts]
    domains = [domain for host in routes.virtual_hosts for domain in host.domains]
    wrong = [] if len(set(names)) == len(names) else ["two virtual hosts of one name"]
    wrong += [] if len(set(domains)) == len(domains) else ["a domain twice"]
    if any(not host.domains for host in routes.virtual_hosts):
        wrong.append("a virtual host without domains")
    return wrong


def _cluster(cluster: Any) -> list[str]:
    wrong = [] if cluster.type == 3 else [f"its type is {cluster.type}"]
    wrong += _config_source(cluster.eds_cluster_config.eds_config)
    if cluster.lb_policy not in (0, 2):
        wrong.append(f"lb_policy {cluster.lb_policy}")
    if not any(it.max_requests.value for it in cluster.circuit_breakers.thresholds if it.priority == 0):
        wrong.append("gRPC would stop at 1024 requests in flight, which nobody asked for")
    return wrong


def _assignment(assignment: Any) -> list[str]:
    wrong = []
    groups = list(assignment.endpoints)
    if any(not it.HasField("locality") for it in groups):
        wrong.append("a group without a locality")
    if any(not it.load_balancing_weight.value for it in groups):
        wrong.append("a locality without a weight is not used")
    where = [(it.priority, it.locality.SerializeToString(deterministic=True)) for it in groups]
    wrong += [] if len(set(where)) == len(where) else ["a locality twice in one priority"]
    used = sorted({it.priority for it in groups})
    wrong += [] if used == list(range(len(used))) else [f"priorities {used}"]
    ends = [it.endpoint.address.socket_address for group in groups for it in group.lb_endpoints]
    addresses = [(it.address, it.port_value) for it in ends]
    wrong += [] if len(set(addresses)) == len(addresses) else ["an address twice"]
    wrong += [f"{host} is no address" for host, _ in addresses if not all(c in "0123456789abcdef.:" for c in host)]
    weights = [it.load_balancing_weight for group in groups for it in group.lb_endpoints]
    if any(it.value < 1 for it in weights):
        wrong.append("an endpoint without a weight")
    return wrong


_CHECKS: dict[str, Callable[[Any], list[str]]] = {LDS: _listener, RDS: _routes, CDS: _cluster, EDS: _assignment}


# ---- following services as a real client does


class Follower:
    """A stream that follows some services to their endpoints, or everything, and acknowledges all that comes.

    One that is no Envoy asks by name for the listener, then for what it leads to; Envoy for all clusters and listeners.
    `look` is called with each answer that was taken in; what it raises is raised at the end.
    """

    def __init__(self, stream: AdsStream, *services: str, look: "Callable[[Follower], None] | None" = None) -> None:
        self.stream = stream
        self.services = services
        self._look = look
        self.is_envoy = stream.node.user_agent_name == xds.ENVOY
        self._task: asyncio.Task[None] | None = None

    def endpoints(self, service: str) -> Mapping[str, tuple[int, int]] | None:
        """HOST:PORT -> priority and weight, for whoever calls this service; None as long as that is not known."""
        assignment = self.assignment(service)
        return None if assignment is None else xds.places(assignment)

    def assignment(self, service: str) -> Any:
        """The ClusterLoadAssignment that calls of a service go by; None as long as that is not known."""
        try:
            (cluster,) = self.clusters(service)
            return self.held(EDS)[xds.endpoints_name(self.held(CDS)[cluster])]
        except (KeyError, ValueError):
            return None

    def held(self, kind: str) -> dict[str, Any]:
        """What is held of a type. Raises what `look` has raised."""
        if self._task is not None and self._task.done():
            self._task.result()
        return self.stream.of[kind].held

    def routed(self) -> set[str]:
        """All clusters that calls may be sent to."""
        return {name for routes in self.held(RDS).values() for name in xds.clusters_of(routes)}

    def clusters(self, service: str) -> list[str]:
        """Where calls of a service are sent. Raises KeyError as long as that is not known."""
        hosts = [host for routes in self._routes(service) for host in routes.virtual_hosts]
        fitting = [host for host in hosts if service in host.domains] or [it for it in hosts if "*" in it.domains]
        return xds.clusters_of(xds.RouteConfiguration(virtual_hosts=fitting[:1]))

    def _routes(self, service: str) -> list[Any]:
        listeners = self.held(LDS)
        managers = [xds.manager_of(it) for it in (listeners.values() if self.is_envoy else [listeners[service]])]
        return [
            it.route_config if it.HasField("route_config") else self.held(RDS)[it.rds.route_config_name]
            for it in managers
        ]

    async def __aenter__(self) -> Self:
        await self.stream.__aenter__()
        if self.is_envoy:
            await self.stream.want(CDS)
            await self.stream.want(LDS)
        else:
            await self.stream.want(LDS, *self.services)
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        try:
            if error is None:
                await passed(QUIET_S)
        finally:
            self._task.cancel()
            await asyncio.wait([self._task])
            await self.stream.leave()
        if error is None:
            self.stream.check()
            if not self._task.cancelled():
                self._task.result()

    async def _run(self) -> None:
        while True:
            answer = await self.stream.next(timeout_s=3600)
            if answer.kind == CDS and self.is_envoy:
                self.stream.again(EDS)
            if self._look is not None:
                self._look(self)
            await self.stream.ack(answer)
            await self._lead_on()

    async def _lead_on(self) -> None:
        """Ask for what that leads to, where it is not asked for already."""
        managers = [xds.manager_of(it) for it in self.held(LDS).values()]
        routes = [it.route_config for it in managers if it.HasField("route_config")] + [*self.held(RDS).values()]
        await self._want(RDS, {it.rds.route_config_name for it in managers if it.HasField("rds")})
        if not self.is_envoy:
            await self._want(CDS, {name for it in routes for name in xds.clusters_of(it)})
        await self._want(EDS, {xds.endpoints_name(it) for it in self.held(CDS).values()})

    async def _want(self, kind: str, names: set[str]) -> None:
        interest = self.stream.of[kind]
        if names != interest.wanted:
            await self.stream.want(kind, *sorted(names))


@contextlib.asynccontextmanager
async def connected(address: str) -> AsyncIterator[grpc.aio.Channel]:
    """A connection of its own."""
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield channel


# ---- a server, and services that tests register in it


class Names(NamedTuple):
    """What a service is called in each type of resource."""

    lds: str
    rds: str
    cds: str
    eds: str

    def of(self, kind: str) -> str:
        """Its name in one type."""
        return {LDS: self.lds, RDS: self.rds, CDS: self.cds, EDS: self.eds}[kind]


class World:
    """One connection to a server for the tests' streams, and one for what they change there."""

    def __init__(self, channel: grpc.aio.Channel, client: RawClient, serial: Iterator[int]) -> None:
        self.channel = channel
        self.client = client
        self._policies: Any = policies_pb2_grpc.PoliciesStub(client.channel)
        self._serial = serial

    def open(self, protocol: str = SOTW, agent: str = xds.C_CORE, **options: Any) -> AdsStream:
        """A stream of such a client, to be used with `async with`."""
        return STREAMS[protocol](self.channel, xds.node(agent), **options)

    def fresh(self) -> str:
        """The name of a service that nobody has heard of."""
        return f"service-{next(self._serial)}"

    async def service(self, *ports: int, **fields: Any) -> Names:
        """A new service with an instance at each of these ports, and what it is called."""
        name = self.fresh()
        for port in ports or (8001,):
            await self.put(name, port, **fields)
        return await self.names(name)

    async def put(self, service: str, port: int, **fields: Any) -> None:
        """Register the instance at a port, or register it anew."""
        await self.client.register(f"i{port}", port, service=service, ttl_s=3600, **fields)

    async def change(self, service: str, port: int, **fields: Any) -> None:
        """Update the instance at a port."""
        await self.client.update(f"i{port}", service=service, **fields)

    async def remove(self, service: str, port: int) -> None:
        """Deregister the instance at a port."""
        await self.client.deregister(f"i{port}", service=service)

    async def policy(self, service: str, **fields: Any) -> None:
        """Set the policy of a service; without any fields take it away."""
        if fields:
            await self._policies.Put(
                policies.PoliciesPutRequest(policy=policies.Policy(service=service, **fields)), timeout=WAIT_S
            )
        else:
            await self._policies.Delete(policies.PoliciesDeleteRequest(service=service), timeout=WAIT_S)

    async def names(self, service: str) -> Names:
        """What a service is called, found out as a client would."""
        async with self.open(quiet_s=0) as stream:
            listener = (await stream.get(LDS, service))[service]
            rds = xds.manager_of(listener).rds.route_config_name
            assert rds, "the routes are inside of the listener"
            (cds,) = xds.clusters_of((await stream.get(RDS, rds))[rds])
            cluster = (await stream.get(CDS, cds))[cds]
        return Names(service, rds, cds, xds.endpoints_name(cluster))


def ports_of(assignment: Any) -> set[int]:
    """The ports of all endpoints that get calls."""
    return {int(place.rpartition(":")[2]) for place in xds.places(assignment)}


@contextlib.asynccontextmanager
async def world_of(address: str, serial: Iterator[int]) -> AsyncIterator[World]:
    """A World of a server."""
    async with connected(address) as channel, RawClient(address) as client:
        yield World(channel, client, serial)
