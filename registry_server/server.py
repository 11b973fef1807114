"""The composition root: makes every part, joins them, runs them, and stops them in order."""

import asyncio
import logging
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import NamedTuple, Protocol

from registry_api.clocks import steady
from registry_server.access.rereading import Rereading
from registry_server.access.warden import Warden
from registry_server.admin.making import Admin, Seen
from registry_server.audience import Audience
from registry_server.audit.log import AuditLog
from registry_server.audit.wrapper import Audit, audited
from registry_server.catalog import Catalog
from registry_server.config import Config, ConfigError, Problem
from registry_server.config.sources import read_access_of
from registry_server.config.values import is_loopback
from registry_server.errors import RequestError
from registry_server.feed import Feed
from registry_server.health.door import Door
from registry_server.health.making import make_door, make_homes, make_prober
from registry_server.health.prober import Prober
from registry_server.health.ruling import Ruling
from registry_server.history.history import History
from registry_server.history.recorder import Recorder
from registry_server.leases.keeper import Keeper
from registry_server.limits.gate import Gate
from registry_server.limits.lookout import keep_looking
from registry_server.limits.memory import memory_limit
from registry_server.limits.overload import Overload
from registry_server.limits.owners import Owners
from registry_server.limits.refusals import Refusals
from registry_server.metrics.calls import Calls
from registry_server.metrics.counting import Counting
from registry_server.neighbours import open_neighbours
from registry_server.neighbours.bridge import Bridge
from registry_server.observe.changes import ChangeLog
from registry_server.observe.traces import Traces, named
from registry_server.policies.book import PolicyBook
from registry_server.records import Key, Kind
from registry_server.registrar import Registrar
from registry_server.rounds import Rounds
from registry_server.rpc import reflection
from registry_server.rpc.access import AccessService
from registry_server.rpc.checks import ChecksService
from registry_server.rpc.health import HealthService
from registry_server.rpc.history import HistoryService
from registry_server.rpc.policies import PoliciesService
from registry_server.rpc.registry import RegistryService
from registry_server.rpc.table import OPEN, Caller, Service, Table
from registry_server.rpc.why import Clocks, DiagnosisService
from registry_server.sockets import bound
from registry_server.stores import MeasuredStore, memory_by, open_store
from registry_server.transport.status import CODES
from registry_server.transport.streams import Streams
from registry_server.transport.tls import BadCertificates, Certificates, TLSFiles
from registry_server.why.past import Past
from registry_server.xds.making import ControlPlane

KEY_BYTES = 32

log = logging.getLogger(__name__)


@asynccontextmanager
async def serve(
    config: Config, clock: Callable[[], float] | None = None, loaded: Callable[[], None] = lambda: None
) -> AsyncIterator[str]:
    """Run a registry server; gives the address it listens on, once it answers; several with commas between them.

    `clock`: seconds by which leases end and checks look that are not in real time. The store is an embedded one then.
    `loaded` is called when all is there that the server needs, and nobody waits for it yet.

    The port opens when the catalog is loaded, so nobody is ever answered from an empty one. On leaving: health
    NOT_SERVING, streams ended with jitter, calls under way ended, the store let go of. Leases live on.

    Raises ConfigError for an address that cannot be had, and if it would be open to others and nobody said who may do
    what; or what a store raises that no retry can mend.
    """
    _check_addresses(config)
    if unguarded := config.unguarded():
        raise ConfigError(unguarded)
    _warn_of_access(config)
    parts = _make(config, clock)
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(it) for it in parts.works()]
        looking = [tasks.create_task(it) for it in parts.looks()]
        try:
            await parts.truth.feed.loaded.wait()
            await parts.truth.keeper.ready()
            await parts.truth.recorder.load()
            running.append(tasks.create_task(keep_looking(parts.entrance.gate.overload, parts.entrance.gate.refusals)))
            loaded()
            addresses = await _open(parts.port, config)
            try:
                await parts.admin.start(addresses)
                parts.truth.feed.open()
                yield addresses
            finally:
                parts.answering.stop()
                await _ended(*looking)
                await asyncio.gather(*(bridge.aclose() for bridge in parts.bridges))
                await parts.health.prober.aclose()  # while the store can still be told
                await parts.admin.stop()
                await parts.port.stop()
                await parts.truth.recorder.aclose()  # as well
        finally:
            await _ended(*looking, *running)
            await parts.truth.store.aclose()
            if parts.entrance.audit is not None:
                await asyncio.to_thread(parts.entrance.audit.close)  # a disk that stands still ends no stop


def _warn_of_access(config: Config) -> None:
    """Tell where others than this machine may hear tokens, and of identities that nobody can show."""
    if config.access.is_on and not config.is_local and not config.tls_cert:
        log.warning("tokens are sent to this server in the clear: it has no certificate (--tls-cert)")
    if config.access.is_on and config.admin_address and not is_loopback(config.admin_address):
        log.warning("tokens are sent to %s in the clear: there is no TLS for --admin", config.admin_address)
    mute = [it.name for it in config.access.identities if it.certificates and not it.tokens]
    if mute and not config.tls_client_ca:
        log.warning(
            "%s: known by certificates alone, which nobody is asked for (--tls-client-ca)", ", ".join(mute[:10])
        )


class Port(Protocol):
    """What a transport makes of a table of methods."""

    async def start(self, *addresses: str, socket_mode: int) -> tuple[str, ...]:
        """Listen there; gives the addresses with the ports that were taken. Raises OSError."""

    async def stop(self) -> None:
        """End what is under way, in order."""


class _Truth(NamedTuple):
    """The store, the view of it, who is told of that, and who writes."""

    store: MeasuredStore
    feed: Feed
    rounds: Rounds
    registrar: Registrar
    owners: Owners
    keeper: Keeper
    recorder: Recorder


class _Health(NamedTuple):
    """What finds out how instances are."""

    door: Door
    prober: Prober
    ruling: Ruling


class _Entrance(NamedTuple):
    """What every call passes."""

    calls: Calls
    gate: Gate
    audience: Audience
    warden: Warden | None
    audit: AuditLog | None
    certificates: Certificates | None

    def guarded(self, table: Table) -> Table:
        """From the outside in: what costs too much is refused before anybody asks whose it is; and of what may not be
        is told as of what is done. All of it belongs to the span of a call."""
        table = self.audience.attended(table)
        if self.warden is not None:
            table = self.warden.allowed(table)
        if self.audit is not None:
            table = audited(table, Audit(self.audit, time.time, _code_of))
        known = self.warden.identified(named(table)) if self.warden else table
        return Traces(_code_of).traced(self.calls.counted(self.gate.limited(known)))


class _Parts(NamedTuple):
    """What runs while a server does."""

    truth: _Truth
    health: _Health
    entrance: _Entrance
    answering: HealthService
    xds: ControlPlane
    bridges: list[Bridge]
    rereading: Rereading | None
    port: Port
    admin: Admin

    def works(self) -> list[Coroutine[None, None, None]]:
        """What runs for as long as anybody is answered."""
        rereading = [self.rereading.run()] if self.rereading else []
        return [
            self.truth.feed.run(),
            self.truth.rounds.run(),
            self.truth.keeper.run(),
            self.truth.recorder.run(),
            self.xds.run(),
            *rereading,
        ]

    def looks(self) -> list[Coroutine[None, None, None]]:
        """What looks beyond the registry, and ends before it is answered no more."""
        certificates = [self.entrance.certificates.watch()] if self.entrance.certificates else []
        bridges = [bridge.run() for bridge in self.bridges]
        return [self.health.prober.run(), self.health.ruling.run(), *bridges, *certificates]


def _make(config: Config, clock: Callable[[], float] | None) -> _Parts:
    rng = random.Random()  # noqa: S311 - spreads load, hides nothing
    certificates = _certificates(config)  # before anything that has to be closed
    audit = _audit_log(config)
    truth = _truth(config, clock, rng)
    health = _health(config, clock, truth, rng)
    calls = Calls(time.monotonic, _code_of, counts=bool(config.admin_address))
    audience = Audience(time.time)
    entrance = _Entrance(calls, _gate(config, rng), audience, _warden(config), audit, certificates)
    answering = HealthService(truth.feed.catalog, truth.rounds.hub)
    book = PolicyBook(truth.feed.catalog.settings)
    xds = ControlPlane(truth.feed, book, truth.rounds.hub)
    truth.feed.tell_too(xds.streams)
    why = _diagnosis(truth, entrance, book, xds)
    services = [
        *_services(config, truth, health, book, entrance.warden),
        answering.service(),
        *xds.services(),
        why.service(),
    ]
    port = _port(config, Streams(rng), entrance, *services)
    bridges = _bridges(config, truth, health.prober)
    rereading = Rereading(entrance.warden, config.access, read_access_of) if entrance.warden else None
    admin = _admin(config, truth, health, entrance, answering, xds, why)
    return _Parts(truth, health, entrance, answering, xds, bridges, rereading, port, admin)


def _truth(config: Config, clock: Callable[[], float] | None, rng: random.Random) -> _Truth:
    inner = open_store(config.store) if clock is None else memory_by(clock)
    store = MeasuredStore(inner, time.monotonic, counts=bool(config.admin_address))
    rounds = Rounds(time.monotonic)
    told = (rounds.hub, ChangeLog())
    now, hold = clock or time.monotonic, rounds.hub.hold
    feed = Feed(store, Catalog(), told, now, time.monotonic, lambda: store.touched, hold)
    registrar = Registrar(store, feed, time.time, rng, config.limits, make_homes(config))
    owners, keeper = Owners(feed.catalog, config.limits), Keeper(registrar, feed.catalog)
    history = History(config.history_events, config.history_hours * 3600, time.time())
    recorder = Recorder(history, feed, time.time, store.shelf, steady)
    for listener in (owners, keeper, recorder):
        feed.tell_too(listener)
    return _Truth(store, feed, rounds, registrar, owners, keeper, recorder)


def _health(config: Config, clock: Callable[[], float] | None, truth: _Truth, rng: random.Random) -> _Health:
    feed, door = truth.feed, make_door(config)
    settings = feed.catalog.settings
    prober = make_prober(
        config, truth.store, settings, truth.registrar, rng, lambda: feed.stale_for_s is not None, clock
    )
    ruling = Ruling(feed.catalog, door, truth.registrar, prober)
    if door.runs:
        feed.tell_too(prober)
        feed.tell_too(ruling)
    return _Health(door, prober, ruling)


def _services(
    config: Config, truth: _Truth, health: _Health, book: PolicyBook, warden: Warden | None
) -> Iterator[Service]:
    """Those of registry.v1, but for what is told of xDS."""
    feed, registrar, hub = truth.feed, truth.registrar, truth.rounds.hub
    door, ttl_s = health.door, config.service.ttl
    yield RegistryService(
        registrar, feed, hub, truth.keeper.seal, door=door, ttl_s=ttl_s, owners=truth.owners
    ).service()
    yield ChecksService(registrar, feed, door).service()
    policies = PoliciesService(registrar, feed, hub, book)
    feed.tell_too(policies)
    yield policies.service()
    yield HistoryService(truth.recorder, feed, hub).service()
    yield AccessService(feed, warden.until if warden else None).service()


def _diagnosis(truth: _Truth, entrance: _Entrance, book: PolicyBook, xds: ControlPlane) -> DiagnosisService:
    past, clocks = Past(truth.recorder.history, truth.feed.catalog), Clocks(time.time, time.monotonic)
    return DiagnosisService(truth.feed, entrance.audience, book, xds, past, clocks)


def _admin(
    config: Config,
    truth: _Truth,
    health: _Health,
    entrance: _Entrance,
    answering: HealthService,
    xds: ControlPlane,
    why: DiagnosisService,
) -> Admin:
    known = entrance.warden.known if entrance.warden else _anybody
    hub, audit = truth.rounds.hub, entrance.audit
    counting = Counting(entrance.calls, truth.store, truth.feed, hub, entrance.gate, health.prober, audit)
    audience, history = entrance.audience, truth.recorder.fresh
    seen = Seen(lambda: answering.is_serving, known, counting, audience, xds.list_clients, why.why, history)
    return Admin(config, seen)


def _bridges(config: Config, truth: _Truth, prober: Prober) -> list[Bridge]:
    """One for each neighbour. Which replica bridges is decided as which one looks at an instance."""
    found = []
    for neighbour in open_neighbours(config.neighbours, config.store):
        is_mine = partial(prober.has_work, Key("", "", neighbour.name, Kind.REPLICA))
        found.append(Bridge(neighbour, truth.registrar, is_mine, time.monotonic))
        truth.feed.tell_too(found[-1])
    return found


def _certificates(config: Config) -> Certificates | None:
    """What is shown over TLS, if it is spoken. Raises ConfigError."""
    if not config.tls_cert:
        return None
    try:
        return Certificates(TLSFiles(config.tls_cert, config.tls_key, config.tls_client_ca))
    except BadCertificates as error:
        raise ConfigError(Problem(error.setting, str(error))) from None


def _gate(config: Config, rng: random.Random) -> Gate:
    overload = Overload(config.limits, memory_limit())
    return Gate(config.limits, Refusals(log.warning), overload, time.monotonic, rng)


def _warden(config: Config) -> Warden | None:
    """Who asks everybody who they are, and whether they may."""
    if not config.access.is_on:
        return None
    return Warden(config.access, secrets.token_bytes(KEY_BYTES), time.time, time.monotonic)


def _anybody(caller: Caller) -> Caller:
    """Who a caller is where nobody is asked."""
    return caller


def _port(config: Config, streams: Streams, entrance: _Entrance, *services: Service) -> Port:
    """The transport that is asked for, and only that one is loaded; grpc.aio where there is no ngh2."""
    certificates = entrance.certificates
    if config.transport == "grpc":
        from registry_server.transport import grpc_aio

        table = entrance.guarded(_table(config, services, grpc_aio.services()))
        return grpc_aio.GrpcServer(table, streams, config.limits, certificates)
    try:
        from registry_server.transport.http2 import server as http2
    except ImportError as error:
        log.warning("serving by grpc.aio, which is slower: the package ngh2 cannot be loaded: %s", error)
        return _port(replace(config, transport="grpc"), streams, entrance, *services)
    table = entrance.guarded(_table(config, services, http2.services()))
    return http2.Http2Server(table, streams, config.limits, certificates, entrance.gate.refusals)


async def _ended(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def _table(config: Config, services: Sequence[Service], of_transport: Sequence[Service]) -> Table:
    """All services. What only tells of the server stands open on this machine, and elsewhere if it is asked for."""
    if not config.introspects:
        return Table(*services)
    inner = Table(*of_transport, *reflection.services(it.name for it in (*services, *of_transport)))
    if config.introspection == "on" or config.is_local:
        inner = inner.changed(lambda _, method: replace(method, needs=OPEN))
    return Table(*services, *inner.services)


def _code_of(error: RequestError) -> str:
    return CODES[type(error)].name


def _audit_log(config: Config) -> AuditLog | None:
    """Where writes are written down, if they are. Raises ConfigError."""
    if not config.audit_log:
        return None
    try:
        return AuditLog(config.audit_log)
    except (OSError, ValueError) as error:  # a name with a zero byte is a wrong value
        why = error.strerror if isinstance(error, OSError) else None
        raise ConfigError(Problem("audit_log", f"cannot be written: {why or error}")) from None


def _check_addresses(config: Config) -> None:
    """Fail before anything is loaded. The port itself is opened later, when there is something to answer.

    Every address that a host stands for has to be free: gRPC would be content with one of them.
    """
    for asked, address in zip(config.listen.split(","), config.addresses, strict=True):
        try:
            bound(address).close()
        except OSError as error:
            raise _taken(asked, error) from None


def _taken(asked: str, error: OSError) -> ConfigError:
    return ConfigError(f"cannot listen on {asked}: {error.strerror or error}")


async def _open(port: Port, config: Config) -> str:
    try:
        return ",".join(await port.start(*config.addresses, socket_mode=config.socket_file_mode))
    except OSError as error:
        raise _taken(config.listen, error) from None
