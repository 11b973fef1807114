"""SHELL: keeps what a client has registered registered: carries out what lease.py decides."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from contextvars import copy_context
from dataclasses import replace
from typing import TYPE_CHECKING

from registry_api.registry.v1 import registry_pb2 as pb
from registry_client import answers
from registry_client.errors import (
    ClientClosed,
    Conflict,
    InvalidAnswer,
    InvalidArgument,
    NotFound,
    RegistrationLost,
    RegistryError,
    RegistryUnavailable,
)
from registry_client.instance import Instance, update_to_proto
from registry_client.lease import NEVER, PAUSE_PART, Holding, Leases, LookUp, Register, State
from registry_client.renewals import Renewals
from registry_client.signals import SignalDrains
from registry_client.stay import Stay, Wish

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from registry_client.backoff import Backoff
    from registry_client.instance import Fields, Key
    from registry_client.link import Link
    from registry_client.place import Place
    from registry_client.tasks import Tasks

log = logging.getLogger(__name__)

CALLS = 64  # at most so many at a time
CALL_S = 5.0  # for one Register or look-up, over all addresses
LEAVE_S = 3.0  # how long leaving waits for a registry that does not answer; the lease then ends by itself
LEAVE_AGAIN_S = 30.0  # after that long it is waited for once more
IDLE_S = 1.0  # how long leaving waits for a call under way
TRIES = 5  # of a registration that was never accepted, with a registry that answers and makes no sense


class Farewell:
    """How long leaving may wait for a registry that does not answer: so long in all, however many leave."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until_s: float | None = None

    def left_s(self) -> float:
        """How long the next one may wait, in seconds."""
        now = self._clock()
        if self._until_s is None or now > self._until_s + LEAVE_AGAIN_S:
            self._until_s = now + LEAVE_S
        return max(0.0, self._until_s - now)

    def answered(self) -> None:
        """The registry answers."""
        self._until_s = None


class Keeper:
    """All registrations of one client, on as few leases as possible and one stream of renewals."""

    def __init__(
        self,
        link: Link,
        tasks: Tasks,
        place: Place,
        backoff: Backoff,
        rng: Random,
        clock: Callable[[], float],
        timeout: float,
    ) -> None:
        self._link = link
        self._tasks = tasks
        self.place = place
        self._backoff = backoff
        self._rng = rng
        self.clock = clock
        self.timeout_s = min(timeout, CALL_S)
        self.signals = SignalDrains()
        self._leases = Leases(backoff, rng)
        self._stays: dict[Holding, Stay] = {}
        self._renewals = Renewals(link, self._leases, backoff, rng, clock, self._renewed)
        self._work = asyncio.Event()
        self._calls = asyncio.Semaphore(CALLS)
        self._leaving = asyncio.Semaphore(CALLS)
        self._farewell = Farewell(clock)
        self._owed: dict[Holding, None] = {}  # they left, and the registry could not be told
        self._paying: asyncio.Task[None] | None = None
        self._has_complained = False  # in the log, since something was accepted
        self._started = False
        self._closed = False

    @property
    def trouble(self) -> str:
        """What was tried last and why it failed; empty while all is well."""
        return self._link.trouble

    @property
    def leases(self) -> Leases:
        """What is registered, and on which leases: to be looked at alone."""
        return self._leases

    def check(self) -> None:
        """Raises ClientClosed or Misuse if nothing can be registered here."""
        self.place.check("the registration")
        if self._closed:
            raise ClientClosed("the client of this registration was closed")

    def want(self, wish: Wish) -> Stay:
        """Begin to keep an instance registered."""
        for owed in [it for it in self._owed if it.instance.key == wish.instance.key]:
            del self._owed[owed]
        holding = self._leases.want(wish.instance, wish.ttl_s, self.clock(), if_absent=wish.if_absent)
        stay = self._stays[holding] = Stay(holding)
        if not self._started:
            self._started = True
            self._tasks.keep(self._keep_registered, "registry-registrations")
            self._tasks.keep(self._renewals.run, "registry-renewals")
        self._work.set()
        return stay

    async def update(self, key: Key, fields: Fields, timeout_s: float) -> Instance:
        """Change what is named of an instance; as it is now. Raises NotFound, InvalidArgument."""
        answer = await self._link.call(
            lambda stub: stub.Update,
            update_to_proto(key, fields),
            timeout_s,
            f"update {key}",
            check=lambda it: answers.check_found(it, key),
        )
        updated = Instance.from_proto(answer.instance)
        self._updated(updated)
        return updated

    def _updated(self, instance: Instance) -> None:
        """If the instance is one of ours, a re-registration must not undo it."""
        for holding in self._stays:
            if holding.instance.key == instance.key and holding.epoch and holding.state is not State.LEFT:
                holding.instance = replace(holding.instance.updated_like(instance), revision=instance.revision)

    # ---- leaving

    def leave(self, stay: Stay, drain_s: float) -> asyncio.Task[None]:
        """Stop keeping it, let it drain for so many seconds, and deregister it, in a task that `aclose` waits for."""
        if stay.leaving is None:
            stay.refused(ClientClosed("the registration was closed before the registry had it"))
            stay.ended.set()
            stay.leaving = self._tasks.start(self._leave(stay, drain_s), "registry-leave", copy_context())
        return stay.leaving

    async def _leave(self, stay: Stay, drain_s: float) -> None:
        """Failing to deregister is logged: its lease ends by itself, or it is made up for."""
        holding = stay.holding
        was_over = holding.state in (State.LOST, State.LEFT)
        self._leases.leave(holding)
        try:
            if not was_over:
                await stay.wait_idle(min(IDLE_S, self._farewell.left_s()))
            if holding.epoch and not was_over:
                if drain_s > 0 and await self._deregister(holding, drain_s, self._farewell.left_s()):
                    await asyncio.sleep(drain_s)
                await self._deregister(holding, 0.0, self._farewell.left_s())
        except RegistryError as error:
            self._complain(f"{holding.instance.key} was not deregistered and will expire by itself", error)
            if holding.lease.holders:  # who go on renewing it
                self._owed[holding] = None
        finally:
            self._stays.pop(holding, None)

    async def _deregister(self, holding: Holding, drain_s: float, timeout: float) -> bool:
        """Deregister it if it is still ours: somebody may have taken the id since, and must not pay for it."""
        key = holding.instance.key
        request = pb.DeregisterRequest(key=key.to_proto(), generation=holding.instance.generation)
        request.drain.FromNanoseconds(round(drain_s * 1e9))
        async with self._leaving:
            try:
                await self._goodbye(request, timeout, f"deregister {key}")
            except (NotFound, RegistrationLost):
                return False
        return True

    async def _goodbye(self, request: pb.DeregisterRequest, timeout: float, doing: str) -> None:
        if not timeout:
            raise RegistryUnavailable(self.trouble or "the registry does not answer")
        try:
            await self._link.call(lambda stub: stub.Deregister, request, timeout, doing)
        except RegistryUnavailable:
            raise
        except RegistryError:
            self._farewell.answered()
            raise
        self._farewell.answered()

    def _renewed(self, could_tell: bool) -> None:
        """Renewals were answered."""
        self._work.set()
        if could_tell:
            self._farewell.answered()
            if self._owed and (self._paying is None or self._paying.done()):
                self._paying = self._tasks.start(self._pay(), "registry-owed")

    async def _pay(self) -> None:
        """Deregister those that left while the registry was away, and whose lease is renewed on for others."""
        for holding in list(self._owed):
            with contextlib.suppress(RegistryUnavailable):
                try:
                    await self._deregister(holding, 0.0, self.timeout_s)
                except RegistryUnavailable:
                    raise
                except RegistryError as error:
                    log.warning("%s: %s", holding.instance.key, error)
                self._owed.pop(holding, None)

    async def aclose(self) -> None:
        """Leave with everything that is still registered, without draining, and wait for what is leaving already.

        One request per lease does it, which cannot hit what others have taken over since.
        """
        self._closed = True
        stays = list(self._stays.values())
        leaving = [stay.leaving for stay in stays if stay.leaving is not None]
        holdings = [*self._leases.leave_all(), *self._owed]
        idle_s = min(IDLE_S, self._farewell.left_s()) if stays else 0.0
        for stay in stays:
            stay.refused(ClientClosed("the client was closed before the instance was registered"))
            stay.ended.set()
        # The last of the calls under way may have brought a lease.
        await asyncio.gather(*(stay.wait_idle(idle_s) for stay in stays if stay.leaving is None))
        lease_ids = {holding.lease_id for holding in holdings if holding.lease_id}
        await asyncio.gather(*(self._end_lease(lease_id) for lease_id in lease_ids), *leaving, return_exceptions=True)

    async def _end_lease(self, lease_id: str) -> None:
        request, shown = pb.DeregisterRequest(lease_id=lease_id), answers.shown_lease(lease_id)
        try:
            await self._goodbye(request, self._farewell.left_s(), f"end lease {shown}")
        except NotFound:
            return
        except RegistryError as error:
            self._complain(f"lease {shown} was not ended and will expire by itself", error)

    # ---- registering and looking up

    async def _keep_registered(self) -> None:
        while True:
            self._work.clear()
            for action in self._leases.due(self.clock()):
                stay = self._stays.get(action.holding)
                context = None if stay is None else stay.context
                call = self._tasks.start(self._carry_out(action), "registry-call", context)
                if stay is not None:
                    stay.carry_out(action, call)
            pause_s = self._leases.wake_at() - self.clock()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, pause_s) if pause_s != NEVER else None):
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
        except Exception as error:
            self._failed(holding, RegistryError(f"{holding.instance.key}: unexpected: {error!r}"), error)
        finally:
            if holding.busy:  # the call was cancelled
                self._leases.failed(holding, self.clock())
            self._work.set()
            self._renewals.wake()
            if (stay := self._stays.get(holding)) is not None:
                stay.look()

    async def _register(self, holding: Holding, lease_id: str) -> None:
        wanted = holding.instance
        request = pb.RegisterRequest(instance=wanted.to_proto(), lease_id=lease_id, if_absent=holding.if_absent)
        if not lease_id:
            request.ttl.FromNanoseconds(round(holding.lease.wanted_ttl_s * 1e9))
        asked_at_s = self.clock()
        try:
            answer = await self._link.call(
                lambda stub: stub.Register,
                request,
                self.timeout_s,
                f"register {wanted.service} at {wanted.address}",
                check=lambda it: answers.check_registered(it, wanted, lease_id),
                cap_s=self._cap_s(holding),
                tell=lambda failure: self._note(holding, failure),
            )
        except RegistrationLost as error:
            self._leases.refused(holding, str(error))
        except NotFound:
            if not lease_id:
                raise
            self._leases.lease_missing(holding, lease_id, self.clock())
        except InvalidArgument as error:
            if not holding.epoch or error.field != "instance.generation":
                raise
            self._leases.unclaimed(holding, self.clock())
        else:
            self._has_complained = False
            self._farewell.answered()
            stored, ttl_s = Instance.from_proto(answer.instance), answer.ttl.ToNanoseconds() / 1e9
            told = answer.lease_id, ttl_s, answer.header.epoch, self.clock()
            self._leases.accepted(holding, stored, *told, asked_at_s)

    async def _look_up(self, holding: Holding) -> None:
        held = holding.instance

        def check(answer: pb.GetResponse) -> None:
            answers.check_proof(answer.header, holding.epoch, held.revision)
            answers.check_found(answer, held.key)

        request = pb.GetRequest(key=held.key.to_proto())
        try:
            answer = await self._link.call(
                lambda stub: stub.Get,
                request,
                self.timeout_s,
                f"look up {held.key}",
                check=check,
                cap_s=self._cap_s(holding),
            )
        except NotFound:
            await self._look_around(holding)
        else:
            self._farewell.answered()
            self._leases.seen(holding, Instance.from_proto(answer.instance), answer.header.epoch, self.clock())

    async def _look_around(self, holding: Holding) -> None:
        """It is gone, says somebody. Ask who has its address now, and whether whoever says so is in touch."""
        held, pages, now_there = holding.instance, answers.Pages(), None
        request = pb.ListRequest(namespace=held.key.namespace, service=held.service)
        while True:
            answer = await self._link.call(
                lambda stub: stub.List,
                request,
                self.timeout_s,
                f"list {held.service}",
                check=lambda it: answers.check_proof(it.header, holding.epoch, held.revision),
                cap_s=self._cap_s(holding),
            )
            for message in answer.instances:
                if message.id == held.id:
                    found = Instance.from_proto(message)
                    self._leases.seen(holding, found, answer.header.epoch, self.clock())
                    return
                is_newer = answer.header.epoch == holding.epoch and message.create_revision > held.create_revision
                if is_newer and (message.host, message.port) == (held.host, held.port):
                    now_there = Instance.from_proto(message)
            names = [(message.service, message.id) for message in answer.instances]
            request.page_token = pages.next_token(names, answer.ByteSize(), answer.next_page_token)
            if not request.page_token:
                break
        if now_there is None:
            self._leases.missing(holding)
        else:
            self._leases.displaced(holding, now_there)

    def _cap_s(self, holding: Holding) -> float:
        """The longest pause between tries, so that an owner is back before its watchers give it up."""
        return (holding.lease.ttl_s or holding.lease.wanted_ttl_s) / PAUSE_PART

    def _failed(self, holding: Holding, error: RegistryError, cause: BaseException | None = None) -> None:
        self._leases.failed(holding, self.clock())
        stay = self._note(holding, error)
        if stay is None:
            return
        if not holding.epoch and _is_final(error, holding.attempt):
            stay.refused(error)
        elif not isinstance(error, RegistryUnavailable):
            self._complain("trying again until it works", error, cause)

    def _note(self, holding: Holding, error: RegistryError) -> Stay | None:
        """Why it is not registered just now, for those who wait for it."""
        if (stay := self._stays.get(holding)) is not None:
            stay.trouble = str(error)
        return stay

    def _complain(self, what: str, error: RegistryError, cause: BaseException | None = None) -> None:
        """Say it once, until the registry has accepted something again: what has one cause is one line."""
        level = logging.DEBUG if self._has_complained else logging.WARNING
        self._has_complained = True
        log.log(level, "%s; %s", error, what, exc_info=cause)


def _is_final(error: RegistryError, tries: int) -> bool:
    """Whether a registration that was never accepted is given up: unless the registry is away, sooner or later."""
    if isinstance(error, RegistryUnavailable):
        return False
    may_pass = isinstance(error, Conflict | InvalidAnswer) or type(error) is RegistryError
    return not may_pass or tries >= TRIES
