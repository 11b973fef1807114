"""SHELL: several registries, each with its own state: registered in all of them, read from the first that works."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import secrets
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from random import SystemRandom
from typing import TYPE_CHECKING, Any, Self, TypeAlias, Unpack

from registry_client import checks
from registry_client.client import DEFAULT_DRAIN_S, RegistryClient, connect, places, reading
from registry_client.errors import ClientClosed, Misuse, NotFound, RegistryError, RegistryUnavailable
from registry_client.instance import check_registrable, update_to_proto
from registry_client.lease import State
from registry_client.papers import Shown
from registry_client.place import Place
from registry_client.pulse import within
from registry_client.registration import Registration, mark_used
from registry_client.signals import SignalDrains
from registry_client.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from registry_client.backoff import Backoff
    from registry_client.bridge.balanced import AnyPolicy
    from registry_client.instance import Fields, Instance
    from registry_client.session import CacheDir
    from registry_client.steps import WatchLimits

log = logging.getLogger(__name__)

OVER = (State.LOST, State.LEFT)
OTHERS_S = 1.0  # how long entering waits for the other registries once one has taken the instance
AGAIN_S = 30.0  # how often one that refused is asked again
RETRY_S = 1.0  # how often one that was away is told again what was updated

Outcome: TypeAlias = Registration | RegistryError
"""A registration, which may still be on its way (its `state` and `trouble` say so), or why it was refused."""
Updated: TypeAlias = "Instance | RegistryError"
"""An instance as one registry has it after an update, or why that one could not be told."""


class Options(Shown, total=False):
    """What `connect` takes beside the addresses."""

    namespace: str
    cache_dir: str | Path | CacheDir | None
    timeout: float
    backoff: Backoff | None
    cache_max_age: float
    watch_limits: WatchLimits | None


def connect_many(registries: Mapping[str, str | Sequence[str]], **options: Unpack[Options]) -> Registries:
    """A client of several registries by their names, the one to be preferred first:
    `connect_many({"primary": "h1:7400,h2:7400", "backup": "h3:7400"})`. Options as of `connect`, for each of them.

    Raises InvalidTarget for an address, InvalidArgument for the rest.
    """
    if not isinstance(registries, Mapping) or not registries:
        raise checks.wrong_type(
            "registries", "must be a dict", registries, "{'primary': 'h1:7400', 'backup': 'h2:7400'}"
        )
    return Registries(
        {checks.name("registries", name): connect(given, **options) for name, given in registries.items()}
    )


class Registries:
    """Several registries: use it with `async with`, in one event loop. One of them is `registries["backup"]`.

    `get`, `list`, `services`, `namespaces`, `why`, `watch`, `on_change`, `discover`, `balancer` and `channel` are
    those of a RegistryClient, and ask the first registry that works; they go back to a former one once that has worked
    for a while. What a watch has shown is kept then as when a registry begins anew: nothing leaves because another
    registry is asked, but what that one does not know after one ttl. Raises InvalidArgument for the same registry
    twice.
    """

    def __init__(self, clients: Mapping[str, RegistryClient]) -> None:
        self._clients = dict(clients)
        _check_apart(self._clients)
        self._exits: AsyncExitStack | None = None
        self._place: Place | None = None
        self._signals = SignalDrains()
        self.reader = reader = reading(clients.values())
        self.get, self.list = reader.get, reader.list
        self.services, self.namespaces, self.why = reader.services, reader.namespaces, reader.why
        self.watch, self.on_change = reader.watch, reader.on_change
        self.discover, self.balancer, self.channel = reader.discover, reader.balancer, reader.channel

    @property
    def names(self) -> tuple[str, ...]:
        """The registries, the one to be preferred first."""
        return tuple(self._clients)

    @property
    def policies(self) -> Mapping[str, AnyPolicy]:
        """The policy of each service, for `balancer` and `channel`."""
        return self.reader.policies

    @policies.setter
    def policies(self, given: Mapping[str, AnyPolicy]) -> None:
        self.reader.policies = given

    def __getitem__(self, name: str) -> RegistryClient:
        """The client of one of them, for all that is meant for that one alone. Raises KeyError."""
        return self._clients[name]

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for client in (*self._clients.values(), self.reader):
                await stack.enter_async_context(client)
            self._exits, self._place = stack.pop_all(), Place()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Deregister what is still registered, and close. May be called more than once.

        Does nothing in a process that was forked meanwhile: all of it is the parent's.
        """
        if self._exits is None or self._place is None or self._place.is_over:
            return
        self._place.check("the client")
        exits, self._exits = self._exits, None
        await exits.aclose()

    def register(
        self,
        instance: Instance,
        ttl: float | None = None,
        *,
        drain: float = DEFAULT_DRAIN_S,
        timeout: float | None = None,
        drain_on_signals: bool = False,
    ) -> InEach:
        """Keep an instance registered in each: `async with registries.register(…) as registered: registered.results`.

        It has the same id in all of them. Arguments as of `RegistryClient.register`. Raises InvalidArgument for what a
        registry would refuse.
        """
        checked = check_registrable(instance)
        named = replace(checked, id=checked.id or secrets.token_hex(8))
        seconds = None if timeout is None else checks.timeout(timeout)
        makers = {
            name: _Maker(functools.partial(client.register, ttl=ttl, drain=drain), named)
            for name, client in self._clients.items()
        }
        by_signals = checks.yes_or_no("drain_on_signals", drain_on_signals)
        return InEach(makers, seconds, self._signals if by_signals else None)


def _check_apart(clients: Mapping[str, RegistryClient]) -> None:
    """An instance that is registered twice in one registry takes its own place there, over and over."""
    names: dict[str, str] = {}
    for name, client in clients.items():
        for place in places(client):
            if names.setdefault(place, name) != name:
                raise checks.wrong("registries", f"{name} is the same registry as {names[place]}")


class _Maker:
    """Makes registrations of one instance in one registry, as it is wanted by now."""

    def __init__(self, register: Callable[[Instance], Registration], instance: Instance) -> None:
        self._register = register
        self.instance = instance

    def __call__(self) -> Registration:
        return self._register(self.instance)


class InEach:
    """One instance, registered in several registries and kept up in each.

    Entering waits until one of them has it, and a second at most for the others, which go on being tried. One that
    refuses it hinders nobody, and is asked again every 30 s. Entering raises RegistryError when all of them refuse it,
    or none has it after `timeout`. It is entered once. Leaving raises nothing: where somebody else has taken the id,
    the `state` of that registration is LOST.
    """

    def __init__(self, makers: Mapping[str, _Maker], timeout: float | None, signals: SignalDrains | None) -> None:
        self._makers = dict(makers)
        self._timeout_s = timeout
        self._signals = signals
        self._registrations = {name: make() for name, make in self._makers.items()}
        self._refused: dict[str, RegistryError] = {}
        self._started: set[str] = set()
        self._news = asyncio.Event()
        self._tasks = Tasks()
        self._telling: dict[str, asyncio.Task[None]] = {}
        self._place: Place | None = None
        self._is_over = False

    @property
    def results(self) -> Mapping[str, Outcome]:
        """What became of it in each registry."""
        return {**self._registrations, **self._refused}

    def mark_used(self) -> None:
        """Somebody has tried to enter or to end it: dropping it is no oversight."""
        for registration in self._registrations.values():
            mark_used(registration)

    async def __aenter__(self) -> Self:
        self.mark_used()
        if self._place is not None or self._is_over:
            raise Misuse("this registration was entered already: make another by registries.register(…)")
        self._place = place = Place()
        if self._signals is not None:
            self._signals.add(self, self.aclose, place.loop)
        for name, make in self._makers.items():
            self._tasks.start(self._keep(name, make), f"register-{name}")
        try:
            await (self._begun() if self._timeout_s is None else within(self._begun(), self._timeout_s))
        except TimeoutError:
            troubles = (f"{name}: {it.trouble or 'no answer yet'}" for name, it in self._registrations.items())
            await self.aclose()
            raise RegistryUnavailable(f"not registered within {self._timeout_s:g} s: {'; '.join(troubles)}") from None
        except BaseException:
            await self.aclose()
            raise
        return self

    async def _begun(self) -> None:
        """Wait until one has it; then a moment for the rest. Raises the first refusal if all refuse."""
        while not self._started:
            await self._news.wait()
            self._news.clear()
            if len(self._refused) == len(self._makers):
                raise next(iter(self._refused.values()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(OTHERS_S):
                while len(self._started) + len(self._refused) < len(self._makers):
                    await self._news.wait()
                    self._news.clear()

    async def _keep(self, name: str, make: _Maker) -> None:
        """Register it there, if not now, then later."""
        registration, rng = self._registrations[name], SystemRandom()
        with contextlib.suppress(ClientClosed):  # and so all that was in it has ended
            while not await self._start(name, registration):
                await asyncio.sleep(AGAIN_S * rng.uniform(0.75, 1.25))
                registration = make()
                mark_used(registration)

    async def _start(self, name: str, registration: Registration) -> bool:
        try:
            await registration.start()
        except RegistryError as error:
            if name not in self._refused and not isinstance(error, ClientClosed):
                log.warning("%s refuses it, and is asked again every %.0f s: %s", name, AGAIN_S, error)
            self._refused[name] = error
            if isinstance(error, ClientClosed):
                self._news.set()
                raise
        else:
            self._registrations[name] = registration
            self._refused.pop(name, None)
            self._started.add(name)
        self._news.set()
        return name in self._started

    # ---- changing it

    async def update(self, **fields: Unpack[Fields]) -> Mapping[str, Updated]:
        """Change what is named of it in each, as `Registration.update` does; what became of that in each registry.

        One that is away or has not taken it yet is told as soon as it can be. Raises InvalidArgument, and Misuse
        before it was entered.
        """
        if self._place is None or self._is_over:
            raise Misuse("the registration was not entered yet, or has ended")
        self._place.check("the registration")
        if "tags" in fields:  # which may be there to be read once
            fields["tags"] = checks.tags("instance.tags", fields["tags"])
        update_to_proto(next(iter(self._makers.values())).instance.key, fields)  # says what is wrong
        values: dict[str, Any] = dict(fields)
        for make in self._makers.values():
            make.instance = replace(make.instance, **values)
        done = await asyncio.gather(*(self._update(name, fields) for name in self._makers))
        return dict(zip(self._makers, done, strict=True))

    async def _update(self, name: str, fields: Fields) -> Updated:
        if name in self._refused:
            return self._refused[name]
        try:
            return await self._registrations[name].update(**fields)
        except (RegistryUnavailable, NotFound) as error:
            before = self._telling.get(name)
            self._telling[name] = self._tasks.start(self._tell(name, fields, before), f"update-{name}")
            return error
        except RegistryError as error:
            return error

    async def _tell(self, name: str, fields: Fields, before: asyncio.Task[None] | None) -> None:
        """Tell it later, after what it was to be told before."""
        if before is not None:
            await asyncio.wait([before])
        while self._registrations[name].state not in OVER:
            await asyncio.sleep(RETRY_S)
            with contextlib.suppress(RegistryUnavailable, NotFound):
                try:
                    await self._registrations[name].update(**fields)
                except (RegistryUnavailable, NotFound):
                    raise
                except RegistryError as error:
                    log.warning("%s was not updated: %s", name, error)
                return

    # ---- its end

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Drain and deregister in each. May be called more than once.

        Does nothing in a process that was forked meanwhile: it is the parent that is registered.
        """
        self.mark_used()
        if self._place is None or self._place.is_over:
            self._is_over = True
            return
        self._place.check("the registration")
        self._is_over = True
        if self._signals is not None:
            self._signals.remove(self)
        await self._tasks.aclose()
        await asyncio.gather(*(registration.aclose() for registration in self._registrations.values()))
