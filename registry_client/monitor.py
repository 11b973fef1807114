"""SHELL: looks at the instances of a service from this process, and tells the registry of their health.

For instances without checks of their own, where whoever can tell whether they are well is not the registry. What
follows from what is found is the same as on a server: `registry_checks.ladder`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from random import SystemRandom
from typing import TYPE_CHECKING, Protocol, Self

from registry_checks.ask import ask
from registry_checks.ladder import LATE_S, Rung, Standing, looked, settle, unseen
from registry_checks.looks import Looks
from registry_checks.probes import Probe, Probes, Reach, Target, installed
from registry_checks.rules import limits_of, seconds_of
from registry_client.errors import Misuse, NotFound, RegistryError
from registry_client.health import Health, HealthCheck, HealthStats

if TYPE_CHECKING:
    from registry_client.callbacks import Subscription
    from registry_client.instance import Instance, Key
    from registry_client.place import Place
    from registry_client.watcher import Watch

log = logging.getLogger(__name__)

OwnCheck = Callable[["Instance"], Awaitable[object]]
LOOKS = 64  # at the same time


class Writer(Protocol):
    """Who tells the registry."""

    async def write(self, key: Key, health: Health) -> None:
        """It is so. Raises RegistryError."""

    async def remove(self, key: Key) -> None:
        """It has failed for too long. Raises RegistryError."""


class Monitor:
    """Looks until it is closed, or its client is: `async with registry.monitor("logic", HealthCheck.tcp())`, or without
    a block, with `aclose` at the end. Made by `RegistryClient.monitor`."""

    def __init__(self, watch: Watch, check: HealthCheck, own: OwnCheck | None, writer: Writer) -> None:
        self.check = check.to_proto()
        if self.check.WhichOneof("kind") == "ttl" and own is None:
            raise Misuse("a monitor looks by itself: a ttl check is for owners that report")
        self.limits = limits_of(self.check)
        self._watch = watch
        self._own = own
        self._writer = writer
        self._told: Subscription | None = None
        self._probes = Probes(Reach(loopback=True, link_local=True), installed())
        self._looks = Looks(time.monotonic, SystemRandom(), LOOKS)
        self._watched: dict[Key, _Look] = {}
        self._task: asyncio.Task[None] | None = None
        self._place: Place | None = None
        self._refused = False

    def begin(self, task: asyncio.Task[None], place: Place, told: Subscription | None) -> None:
        """`task` is what runs `run`, at that place. `told` is who is told of changes for as long."""
        self._task, self._place, self._told = task, place, told

    def stats(self) -> HealthStats:
        """How well the service is, as seen from here."""
        return HealthStats.of(look.health for look in self._watched.values())

    async def aclose(self) -> None:
        """Look no more. May be called more than once. Does nothing in a process that was forked meanwhile."""
        if self._task is not None and self._place is not None and not self._place.is_over:
            self._place.check("the monitor")
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # ---- its task

    async def run(self) -> None:
        """Follow the service and look at whoever is there, until cancelled."""
        try:
            async with self._watch, asyncio.TaskGroup() as tasks:
                tasks.create_task(self._looks.run())
                async for view in self._watch:
                    await self._follow(view.by_key)
        except* RegistryError as error:
            log.error("the monitor ends: %s", error.exceptions[0])  # noqa: TRY400 - an answer, its origin tells nothing
        finally:
            if self._told is not None:
                self._told.cancel()
            await self._follow({})

    async def _follow(self, instances: Mapping[Key, Instance]) -> None:
        for key, look in list(self._watched.items()):
            if key not in instances or instances[key].address != look.instance.address:
                del self._watched[key]
                self._looks.discard(look)
                await look.probe.aclose()
        for key, instance in instances.items():
            if key in self._watched:
                self._watched[key].show(instance)
            else:
                look = self._watched[key] = _Look(self, instance, self._probe(instance))
                self._looks.add(look, seconds_of(self.check.initial_delay))

    def _probe(self, instance: Instance) -> Probe:
        if self._own is not None:
            return _Own(self._own, instance)
        probe = self._probes.of(Target(instance.host, instance.port), self.check)
        assert probe is not None  # noqa: S101 - a ttl check has been refused
        return probe

    async def tell(self, instance: Instance, now: Rung) -> bool:
        """Tell the registry, which tells everybody else. Whether it knows."""
        try:
            if now is Rung.REMOVED:
                await self._writer.remove(instance.key)
            else:
                await self._writer.write(instance.key, Health(now))
        except NotFound:
            return True
        except RegistryError as error:
            log.log(logging.DEBUG if self._refused else logging.WARNING, "%s is %s: %s", instance.key, now, error)
            self._refused = True
            return False
        self._refused = False
        return True


class _Look:
    """One instance, as it is looked at again and again."""

    def __init__(self, monitor: Monitor, instance: Instance, probe: Probe) -> None:
        self.instance = instance
        self.probe = probe
        self.interval_s = seconds_of(monitor.check.interval)
        self._timeout_s = seconds_of(monitor.check.timeout)
        self._monitor = monitor
        self._told = Rung(instance.health.value)
        self._standing = Standing(self._told, time.monotonic())
        self._ended_at: float | None = None

    @property
    def health(self) -> Health:
        """As the registry was told."""
        return Health.CRITICAL if self._told is Rung.REMOVED else Health(self._told)

    def show(self, instance: Instance) -> None:
        """It is there like that by now. Who was registered anew has the health that it came with, whatever was told."""
        if _registered(instance) != _registered(self.instance):
            self._told = Rung(instance.health.value)
            if self._standing.rung is Rung.REMOVED:
                self._standing = Standing(self._told, time.monotonic())
        self.instance = instance

    async def look(self) -> None:
        """See Looked."""
        began = time.monotonic()
        if self._ended_at is not None:
            self._standing = unseen(self._standing, began - self._ended_at, self.interval_s, began)
        passed, _ = await ask(self.probe, self._timeout_s)
        ended = self._ended_at = time.monotonic()
        self._standing = unseen(self._standing, ended - began, self._timeout_s, ended)
        if not passed and ended - began > self._timeout_s + LATE_S:
            return  # this process stood still, and nobody can be blamed
        self._standing = settle(looked(self._standing, passed), self._monitor.limits, time.monotonic())
        rung = self._standing.rung
        if rung is not self._told and await self._monitor.tell(self.instance, rung):
            self._told = rung


def _registered(instance: Instance) -> tuple[object, ...]:
    """Another one after each registration that is not by the same owner, in the same registry."""
    return instance.generation, instance.create_revision, instance.registered_at


class _Own:
    """A check of the user's: a coroutine function of an instance that raises, or returns False, for a failure."""

    def __init__(self, check: OwnCheck, instance: Instance) -> None:
        self._check = check
        self._instance = instance

    async def look(self) -> str:
        try:
            result = await self._check(self._instance)
        except SystemExit as error:
            raise RegistryError(f"SystemExit: {error}") from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise  # the end of the look, or of its time
            raise RegistryError("it was cancelled") from error
        if result is False:
            raise RegistryError("it says no")
        return "it passes"

    async def aclose(self) -> None:
        """Nothing is kept that is ours."""
