"""SHELL: keeps what a client has registered registered: carries out what lease.py decides."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import grpc
import grpc.aio

from protos.registry.v1 import registry_pb2 as pb
from registry_client.errors import (
    FINAL,
    ClientClosed,
    NotFound,
    RegistrationLost,
    RegistryError,
    RegistryUnavailable,
    from_rpc_error,
)
from registry_client.instance import Instance
from registry_client.lease import Holding, Leases, LookUp, Register, Renewed, State
from registry_client.link import end
from registry_client.signals import SignalDrains

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from random import Random

    from registry_client.backoff import Backoff
    from registry_client.instance import Key
    from registry_client.link import Connection, Link
    from registry_client.tasks import Tasks

log = logging.getLogger(__name__)

CALLS = 64  # at most so many at a time
CALL_S = 5.0  # for one Register or look-up, over all addresses
LEAVE_S = 3.0  # how long leaving waits for a registry that does not answer; the lease then ends by itself
IDLE_S = 1.0  # how long leaving waits for a call under way
_OUTCOMES = {
    pb.Renewal.RENEWED: Renewed.RENEWED,
    pb.Renewal.HELD: Renewed.HELD,
    pb.Renewal.UNKNOWN: Renewed.UNKNOWN,
}


class Registrar:
    """All registrations of one client, on as few leases as possible and one stream of renewals."""

    def __init__(
        self, link: Link, tasks: Tasks, backoff: Backoff, rng: Random, clock: Callable[[], float], timeout: float
    ) -> None:
        self._link = link
        self._tasks = tasks
        self._backoff = backoff
        self._rng = rng
        self.clock = clock
        self._timeout = min(timeout, CALL_S)
        self.signals = SignalDrains()
        self._leases = Leases(backoff, rng)
        self._registrations: dict[Holding, Registration] = {}
        self._work = asyncio.Event()
        self._renew = asyncio.Event()
        self._calls = asyncio.Semaphore(CALLS)
        self._leaving = asyncio.Semaphore(CALLS)
        self._started = False

    def want(self, registration: Registration, instance: Instance, ttl_s: float) -> Holding:
        """Begin to keep an instance registered."""
        holding = self._leases.want(instance, ttl_s, self.clock())
        self._registrations[holding] = registration
        if not self._started:
            self._started = True
            self._tasks.start(self._keep_registered(), "registry-registrations")
            self._tasks.start(self._keep_renewed(), "registry-renewals")
        self._work.set()
        return holding

    def holding_of(self, key: Key) -> Holding | None:
        """What this client keeps registered under that name."""
        wanted = (holding for holding in self._registrations if holding.state is not State.LEFT)
        return next((holding for holding in wanted if holding.instance.key == key), None)

    def updated(self, instance: Instance) -> None:
        """An Update was answered: if the instance is one of ours, a re-registration must not undo it."""
        holding = self.holding_of(instance.key)
        if holding is not None and holding.epoch:
            holding.instance = replace(holding.instance.updated_like(instance), revision=instance.revision)

    def start_leaving(self, holding: Holding, drain_s: float) -> asyncio.Task[None]:
        """Stop keeping it, let it drain for so many seconds, and deregister it, in a task that `aclose` waits for."""
        return self._tasks.start(self._leave(holding, drain_s), "registry-leave")

    async def _leave(self, holding: Holding, drain_s: float) -> None:
        """Failing to deregister is logged: the lease ends by itself."""
        was_over = holding.state in (State.LOST, State.LEFT)
        self._leases.leave(holding)
        try:
            if not was_over:
                await self._registrations[holding].wait_idle()
            if holding.epoch and not was_over:
                if drain_s > 0 and await self._deregister(holding, drain_s):
                    await asyncio.sleep(drain_s)
                await self._deregister(holding, 0.0)
        except RegistryError as error:
            log.warning("%s was not deregistered and will expire by itself: %s", holding.instance.key, error)
        finally:
            self._registrations.pop(holding, None)

    async def _deregister(self, holding: Holding, drain_s: float) -> bool:
        """Deregister it if it is still ours: somebody may have taken the id since, and must not pay for it."""
        key = holding.instance.key
        request = pb.DeregisterRequest(key=key.to_proto())
        request.drain.FromNanoseconds(round(drain_s * 1e9))
        async with self._leaving:
            try:
                found = await self._get(key, LEAVE_S)
                if found.instance.generation != holding.instance.generation:
                    return False
                await self._link.call(lambda stub: stub.Deregister, request, LEAVE_S, f"deregister {key}")
            except NotFound:
                return False
        return True

    async def aclose(self) -> None:
        """Leave with everything that is still registered, without draining, and wait for what is leaving already.

        One request per lease does it, which cannot hit what others have taken over since.
        """
        leaving = [it.leaving for it in self._registrations.values() if it.leaving is not None]
        calls = [it.wait_idle() for it in self._registrations.values() if it.leaving is None]
        holdings = self._leases.leave_all()
        for registration in list(self._registrations.values()):
            registration.refused(ClientClosed("the client was closed before the instance was registered"))
        await asyncio.gather(*calls)  # the last of which may have brought a lease
        lease_ids = {holding.lease_id for holding in holdings if holding.lease_id}
        await asyncio.gather(*(self._end_lease(lease_id) for lease_id in lease_ids), *leaving)

    async def _end_lease(self, lease_id: str) -> None:
        request = pb.DeregisterRequest(lease_id=lease_id)
        try:
            await self._link.call(lambda stub: stub.Deregister, request, LEAVE_S, f"end lease {lease_id}")
        except NotFound:
            return
        except RegistryError as error:
            log.warning("lease %s was not ended and will expire by itself: %s", lease_id, error)

    async def _get(self, key: Key, timeout: float) -> pb.GetResponse:
        return await self._link.call(
            lambda stub: stub.Get, pb.GetRequest(key=key.to_proto()), timeout, f"look up {key}"
        )

    # ---- registering and looking up

    async def _keep_registered(self) -> None:
        while True:
            self._work.clear()
            for action in self._leases.due(self.clock()):
                self._registrations[action.holding].carry_out(
                    self._tasks.start(self._carry_out(action), "registry-call")
                )
            pause_s = self._leases.wake_at() - self.clock()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, pause_s) if pause_s != float("inf") else None):
                    await self._work.wait()

    async def _carry_out(self, action: Register | LookUp) -> None:
        holding = action.holding
        try:
            async with self._calls:
                if isinstance(action, Register):
                    await self._register(holding, action.lease_id)
                else:
                    await self._look_up(holding)
        except RegistryError as error:
            self._failed(holding, error)
        except Exception:
            log.exception("%s: unexpected", action)
            self._leases.failed(holding, self.clock())
        finally:
            self._work.set()
            self._renew.set()
            self._tell(holding)

    async def _register(self, holding: Holding, lease_id: str) -> None:
        request = pb.RegisterRequest(instance=holding.instance.to_proto(), lease_id=lease_id)
        if not lease_id:
            request.ttl.FromNanoseconds(round(holding.lease.wanted_ttl_s * 1e9))
        doing = f"register {holding.instance.service} at {holding.instance.address}"
        try:
            answer = await self._link.call(lambda stub: stub.Register, request, self._timeout, doing)
        except RegistrationLost as error:
            self._leases.refused(holding, str(error))
        except NotFound:
            self._leases.lease_missing(holding, lease_id)
        else:
            stored, ttl_s = Instance.from_proto(answer.instance), answer.ttl.ToNanoseconds() / 1e9
            self._leases.accepted(holding, stored, answer.lease_id, ttl_s, answer.header.epoch, self.clock())

    async def _look_up(self, holding: Holding) -> None:
        try:
            answer = await self._get(holding.instance.key, self._timeout)
        except NotFound:
            usurper = await self._usurper(holding)
            if usurper is None:
                self._leases.missing(holding)
            else:
                self._leases.displaced(holding, usurper)
        else:
            self._leases.seen(holding, Instance.from_proto(answer.instance), answer.header.epoch, self.clock())

    async def _usurper(self, holding: Holding) -> Instance | None:
        """Who has registered the address of an instance that is gone, in the same epoch and after it."""
        held = holding.instance
        request = pb.ListRequest(namespace=held.namespace, service=held.service)
        while True:
            answer = await self._link.call(lambda stub: stub.List, request, self._timeout, f"list {held.service}")
            if answer.header.epoch != holding.epoch:
                return None
            for message in answer.instances:
                at_its_place = (message.host, message.port) == (held.host, held.port)
                if at_its_place and message.create_revision > held.create_revision:
                    return Instance.from_proto(message)
            if not answer.next_page_token:
                return None
            request.page_token = answer.next_page_token

    def _failed(self, holding: Holding, error: RegistryError) -> None:
        self._leases.failed(holding, self.clock())
        registration = self._registrations.get(holding)
        if registration is not None and isinstance(error, FINAL) and not holding.epoch:
            registration.refused(error)
        else:
            first = holding.attempt == 1
            log.log(logging.WARNING if first else logging.DEBUG, "%s; trying again until it works", error)

    def _tell(self, holding: Holding) -> None:
        registration = self._registrations.get(holding)
        if registration is not None:
            registration.on_state()

    # ---- renewing

    async def _keep_renewed(self) -> None:
        attempt = 0
        while True:
            while not self._leases.renew_at() < float("inf"):
                self._renew.clear()
                await self._renew.wait()
            connection = self._link.current
            useful = await self._renew_over(connection)
            self._leases.stream_lost(self.clock())
            self._link.rotate(connection)
            cap_s = self._leases.patience_s()
            await asyncio.sleep(self._backoff.capped(cap_s).delay(attempt, self._rng))
            attempt = 0 if useful else attempt + 1

    async def _renew_over(self, connection: Connection) -> bool:
        """Renew over one stream until it breaks. Whether it was of any use."""
        call = connection.stub.KeepAlive()
        call.add_done_callback(lambda _: self._renew.set())
        useful = False
        try:
            while not call.done() and self._leases.renew_at() < float("inf"):
                lease_ids = self._leases.renewals(self.clock())
                if lease_ids:
                    await self._exchange(call, lease_ids)
                    useful = True
                else:
                    await self._rest()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError) as error:
            reason = from_rpc_error(error) if isinstance(error, grpc.aio.AioRpcError) else "no answer"
            log.debug("the renewals over %s ended: %s", connection.address, reason)
        finally:
            await end(call)
        return useful

    async def _exchange(
        self, call: grpc.aio.StreamStreamCall[pb.KeepAliveRequest, pb.KeepAliveResponse], lease_ids: list[str]
    ) -> None:
        """One request and its answer. Raises TimeoutError if that takes too long, AioRpcError if the stream breaks."""
        async with asyncio.timeout(self._leases.patience_s()):
            await call.write(pb.KeepAliveRequest(lease_ids=lease_ids))
            answer = await call.read()
        if not isinstance(answer, pb.KeepAliveResponse):
            raise TimeoutError  # the server ended the stream
        epoch = answer.header.epoch
        for renewal in answer.renewals:
            outcome = _OUTCOMES.get(renewal.state, Renewed.HELD)
            ttl_s = renewal.ttl.ToNanoseconds() / 1e9
            self._leases.renewed(renewal.lease_id, outcome, ttl_s, renewal.instances, epoch, self.clock())
        for lease_id in set(lease_ids) - {renewal.lease_id for renewal in answer.renewals}:
            self._leases.renewed(
                lease_id, Renewed.HELD, 0.0, 0, epoch, self.clock()
            )  # nothing said: ask again in its turn
        self._work.set()

    async def _rest(self) -> None:
        """Until the next renewal is due, a lease is new, or the stream ends."""
        self._renew.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._leases.renew_at() - self.clock())):
                await self._renew.wait()


@dataclass(frozen=True, slots=True)
class Wish:
    """What the owner of a registration asked for; times in seconds."""

    instance: Instance
    ttl_s: float
    drain_s: float
    timeout_s: float | None
    drain_on_signals: bool


class Registration:
    """One instance that is kept registered: `async with registry.register(…) as registration`.

    Entering waits until the registry has it, without limit unless `timeout` was given. From then on it is renewed,
    and registered again after any outage. Leaving drains and deregisters it, and raises RegistrationLost if somebody
    else has taken its id meanwhile. `await registry.register(…)` is the same without the block; `aclose` ends it.
    """

    def __init__(self, registrar: Registrar, wish: Wish) -> None:
        self._registrar = registrar
        self._wish = wish
        self._holding: Holding | None = None
        self._call: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()  # registered once, lost, or refused
        self._lost = asyncio.Event()
        self._refusal: RegistryError | None = None
        self._leaving: asyncio.Task[None] | None = None

    # ---- what its owner sees

    @property
    def instance(self) -> Instance:
        """As the registry stored it last, or as it is wanted while it was never registered."""
        return self._holding.instance if self._holding else self._wish.instance

    @property
    def lease_id(self) -> str:
        """The lease that holds it; empty while there is none. Registrations with the same ttl share one."""
        return self._holding.lease.id if self._holding else ""

    @property
    def ttl_s(self) -> float:
        """The time to live in force, in seconds."""
        return (self._holding.lease.ttl_s if self._holding else 0.0) or self._wish.ttl_s

    @property
    def state(self) -> State:
        """How it stands; WANTED before it was entered."""
        return self._holding.state if self._holding else State.WANTED

    @property
    def invisible_for(self) -> float | None:
        """Seconds since the registry last was known to show it; None while it is."""
        return None if self._holding is None else self._holding.invisible_for(self._registrar.clock())

    async def wait_lost(self) -> RegistrationLost:
        """Wait until somebody else has taken the id, and return what says so. Leaving the block then raises it."""
        await self._lost.wait()
        return self._loss()

    def _loss(self) -> RegistrationLost:
        return RegistrationLost(self._holding.reason if self._holding else "")

    # ---- its life

    async def start(self) -> Self:
        """Register, and wait until that is done. Raises RegistryError when the registry refuses, or after `timeout`."""
        if self._holding is not None:
            return self
        if self._wish.drain_on_signals:
            self._registrar.signals.add(self, self.aclose, asyncio.get_running_loop())
        self._holding = self._registrar.want(self, self._wish.instance, self._wish.ttl_s)
        try:
            async with asyncio.timeout(self._wish.timeout_s):
                await self._settled.wait()
        except TimeoutError:
            await self.aclose(drain=0.0)
            raise RegistryUnavailable(
                f"{self._wish.instance.service} was not registered within {self._wish.timeout_s:g} s"
            ) from None
        except BaseException:
            await self.aclose(drain=0.0)
            raise
        if self._refusal is not None:
            await self.aclose(drain=0.0)
            raise self._refusal
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        return self.start().__await__()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self.aclose()
        if self._lost.is_set() and kind is None:
            raise self._loss()

    async def aclose(self, drain: float | None = None) -> None:
        """Drain for `drain` seconds (by default as asked for at first) and deregister. May be called more than once."""
        if self._holding is None:
            return
        self._registrar.signals.remove(self)
        if self._leaving is None:
            drain_s = self._wish.drain_s if drain is None else drain
            self._leaving = self._registrar.start_leaving(self._holding, drain_s)
        await asyncio.shield(self._leaving)

    # ---- what the registrar asks and tells

    @property
    def leaving(self) -> asyncio.Task[None] | None:
        """The task that drains and deregisters it, once it leaves."""
        return self._leaving

    def carry_out(self, call: asyncio.Task[None]) -> None:
        """A call on its behalf has begun."""
        self._call = call

    async def wait_idle(self) -> None:
        """Wait until no call on its behalf is under way, so that what it does cannot come after what follows."""
        if self._call is None:
            return
        await asyncio.wait([self._call], timeout=IDLE_S)
        self._call.cancel()
        await asyncio.gather(self._call, return_exceptions=True)

    def refused(self, error: RegistryError) -> None:
        """It will not be registered, whatever is tried. Without meaning once it was."""
        if not self._settled.is_set():
            self._refusal = error
            self._settled.set()

    def on_state(self) -> None:
        """Its state may have changed."""
        if self._holding is None:
            return
        if self._holding.epoch or self._holding.state is State.LOST:
            self._settled.set()
        if self._holding.state is State.LOST and not self._lost.is_set():
            log.error("registration lost: %s", self._holding.reason)
            self._lost.set()
