"""SHELL: several registries, each with its own state: registered in all of them, read from the first that works."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Self, TypeAlias, TypedDict, Unpack

from registry_client import checks
from registry_client.client import DEFAULT_DRAIN_S, CacheDir, RegistryClient, connect, reading
from registry_client.errors import RegistryError
from registry_client.registration import Registration
from registry_client.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import grpc

    from registry_client.backoff import Backoff
    from registry_client.instance import Instance
    from registry_client.steps import WatchLimits

OTHERS_S = 1.0  # how long entering waits for the other registries once one has taken the instance

Outcome: TypeAlias = Registration | RegistryError
"""A registration, which may still be on its way (its `state` and `trouble` say so), or why it was refused."""


class Options(TypedDict, total=False):
    """What `connect` takes beside the addresses."""

    namespace: str
    credentials: grpc.ChannelCredentials | None
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
    clients = {checks.name("registries", name): connect(given, **options) for name, given in registries.items()}
    return Registries(clients)


class Registries:
    """Several registries: use it with `async with`, in one event loop. One of them is `registries["backup"]`.

    `get`, `list`, `services`, `namespaces`, `watch`, `on_change`, `discover`, `balancer` and `channel` are those of a
    RegistryClient, and ask the first registry that works; who changes over stays there while that one works. What a
    watch has shown is kept then as when a registry begins anew: nothing leaves because another registry is asked, but
    what that one does not know after one ttl.
    """

    def __init__(self, clients: Mapping[str, RegistryClient]) -> None:
        self._clients = dict(clients)
        self._exits = AsyncExitStack()
        self._reader = reader = reading(clients.values())
        self.get, self.list = reader.get, reader.list
        self.services, self.namespaces = reader.services, reader.namespaces
        self.watch, self.on_change = reader.watch, reader.on_change
        self.discover, self.balancer, self.channel = reader.discover, reader.balancer, reader.channel

    @property
    def names(self) -> tuple[str, ...]:
        """The registries, the one to be preferred first."""
        return tuple(self._clients)

    def __getitem__(self, name: str) -> RegistryClient:
        """The client of one of them, for all that is meant for that one alone. Raises KeyError."""
        return self._clients[name]

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for client in (*self._clients.values(), self._reader):
                await stack.enter_async_context(client)
            self._exits = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Deregister what is still registered, and close. May be called more than once."""
        await self._exits.aclose()

    def register(self, instance: Instance, ttl: float | None = None, *, drain: float = DEFAULT_DRAIN_S) -> InEach:
        """Keep an instance registered in each: `async with registries.register(…) as registered: registered.results`.

        It has the same id in all of them. Raises InvalidArgument for what a registry would refuse.
        """
        named = replace(instance, id=instance.id or secrets.token_hex(8))
        return InEach({name: client.register(named, ttl, drain=drain) for name, client in self._clients.items()})


class InEach:
    """One instance, registered in several registries and kept up in each.

    Entering waits until one of them has it, and a second at most for the others, which go on being tried. It raises
    RegistryError when all of them refuse it.
    """

    def __init__(self, registrations: Mapping[str, Registration]) -> None:
        self._registrations = dict(registrations)
        self._refused: dict[str, RegistryError] = {}
        self._tasks = Tasks()

    @property
    def results(self) -> Mapping[str, Outcome]:
        """What became of it in each registry."""
        return {**self._registrations, **self._refused}

    async def __aenter__(self) -> Self:
        starting = {self._tasks.start(self._start(name), f"register-{name}") for name in self._registrations}
        try:
            await self._one_of(starting)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def _one_of(self, starting: set[asyncio.Task[bool]]) -> None:
        """Wait until one has come to a good end; then a moment for the rest. Raises the first refusal if none does."""
        pending = starting
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if any(task.result() for task in done):
                if pending:
                    await asyncio.wait(pending, timeout=OTHERS_S)
                return
        raise next(iter(self._refused.values()))

    async def _start(self, name: str) -> bool:
        try:
            await self._registrations[name].start()
        except RegistryError as error:
            self._refused[name] = error
        return name not in self._refused

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Drain and deregister in each. May be called more than once."""
        await self._tasks.aclose()
        await asyncio.gather(*(registration.aclose() for registration in self._registrations.values()))
