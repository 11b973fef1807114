"""SHELL: keeps copies of the instances of one registry in another, until it is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, cast

from registry_client.copies import copies_of, plan
from registry_client.errors import Misuse, NotFound, RegistryError, RegistryUnavailable
from registry_client.instance import Fields
from registry_client.lease import State
from registry_client.policy_copies import PolicyCopies, Scope

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType

    from registry_client.client import RegistryClient
    from registry_client.instance import Instance, Key
    from registry_client.policy_copies import Of
    from registry_client.registration import Registration
    from registry_client.view import View
    from registry_client.watcher import Watch

REST_S = 0.1  # from one round to the next
AGAIN_S = 10.0  # who was refused is tried again


class Round(Protocol):
    """Things that are done together: entered before the first one."""

    def advance(self) -> None:
        """One of them is done, or cannot be."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Listener(Protocol):
    """Who is told of what is done."""

    def round(self, number: int) -> Round:
        """So many things are about to be done."""

    def done(self, what: str, instance: Instance) -> None:
        """A copy was `added`, `updated` or `removed`."""

    def policy(self, what: str, of: Of) -> None:
        """The same of a traffic policy."""

    def kept_out(self, what: object, why: str) -> None:
        """There is no copy of that one, for that reason."""


class _Held(NamedTuple):
    told: Instance
    registration: Registration


class Syncing:
    """Copies from `source` to `target`, which both are open. `name` is where the copies say that they come from."""

    def __init__(
        self, source: RegistryClient, target: RegistryClient, name: str, ttl: float, listener: Listener
    ) -> None:
        self._source = source
        self._target = target
        self._name = name
        self._ttl_s = ttl
        self._listener = listener
        self._held: dict[Key, _Held] = {}
        self._yielded: set[Key] = set()
        self._said: dict[Key, str] = {}
        self._news = asyncio.Event()
        self._again_at_s = float("inf")

    async def run(self, *services: str, namespace: str, all_namespaces: bool) -> None:
        """Copy until cancelled. Raises RegistryError when a registry refuses to be watched, Misuse if they are one."""
        asked = {"namespace": namespace, "all_namespaces": all_namespaces}
        async with (
            self._source.watch(*services, **asked) as source,  # type: ignore[arg-type]  # no filters
            self._target.watch(*services, **asked) as target,  # type: ignore[arg-type]
        ):
            policies = PolicyCopies(
                self._source, self._target, Scope(services, namespace, all_namespaces), self._listener
            )
            works = self._follow(source), self._follow(target), policies.run()
            followed = [asyncio.create_task(work) for work in works]
            working = asyncio.create_task(self._work(source, target))
            try:
                done, _ = await asyncio.wait([*followed, working], return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in (*followed, working):
                    task.cancel()
                await asyncio.gather(*followed, working, return_exceptions=True)

    async def _follow(self, watch: Watch) -> None:
        async for _ in watch:
            self._news.set()

    async def _work(self, source: Watch, target: Watch) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._again_at_s):
                    await self._news.wait()
            self._news.clear()
            self._again_at_s = loop.time() + AGAIN_S
            # A target that is away is written to when it is back; a source that is away says nothing new.
            if source.view is not None and target.view is not None and target.view.stale_for is None:
                await self._round(source.view, target.view)
            await asyncio.sleep(REST_S)

    async def _round(self, source: View, target: View) -> None:
        if source.epoch == target.epoch:
            raise Misuse("both are the same registry: there is nothing to copy")
        await self._let_go_of_lost(target)
        wanted, without = copies_of(source.by_key, self._name)
        held = {key: it.told for key, it in self._held.items()}
        todo = plan(wanted, held, target.by_key, self._yielded)
        work = (
            *(self._begin(it, target.by_key.get(it.key)) for it in todo.begin),
            *(self._change(it) for it in todo.change),
            *(self._leave(key) for key in todo.leave),
        )
        with self._listener.round(len(work)) as step:
            await asyncio.gather(*(_counted(it, step) for it in work))
        for key, why in (*todo.kept_out.items(), *without.items()):
            self._keep_out(key, why)
        for key in self._said.keys() - wanted.keys() - without.keys():
            del self._said[key]
        if todo.leave:
            self._news.set()  # who moved begins anew

    async def _let_go_of_lost(self, target: View) -> None:
        """Another keeper, or its owner, has taken the place of a copy: that is theirs until it is free."""
        self._yielded = {key for key in self._yielded if key in target.by_key}
        for key, it in list(self._held.items()):
            if _is_lost(it.registration, target):
                del self._held[key]
                await it.registration.aclose(0.0)
                if key in target.by_key:
                    self._yielded.add(key)
                    self._keep_out(key, "another one has taken its place there")

    async def _begin(self, copy: Instance, present: Instance | None) -> None:
        """Register it if nobody is there, or nobody but that copy of it: whoever came meanwhile keeps the place."""
        wanted = replace(copy, generation=present.generation) if present is not None else copy
        registration = self._target.register(wanted, self._ttl_s, drain=0.0, timeout=self._ttl_s, if_absent=True)
        try:
            await registration.start()
        except RegistryError as error:
            self._keep_out(copy.key, str(error))
            return
        self._held[copy.key] = _Held(copy, registration)
        self._said.pop(copy.key, None)
        self._listener.done("added", copy)

    async def _change(self, copy: Instance) -> None:
        it = self._held[copy.key]
        try:
            await it.registration.update(**_changed(it.told, copy, has_checks=bool(it.registration.instance.checks)))
        except (RegistryUnavailable, NotFound):
            self._again_at_s = asyncio.get_running_loop().time() + 1.0
            return
        except RegistryError as error:
            self._keep_out(copy.key, str(error))
        else:
            self._listener.done("updated", copy)
        self._held[copy.key] = it._replace(told=copy)

    async def _leave(self, key: Key) -> None:
        it = self._held.pop(key)
        await it.registration.aclose(0.0)
        self._listener.done("removed", it.told)

    def _keep_out(self, key: Key, why: str) -> None:
        if self._said.get(key) != why:
            self._said[key] = why
            self._listener.kept_out(key, why)


async def _counted(work: Coroutine[Any, Any, None], step: Round) -> None:
    await work
    step.advance()


def _is_lost(registration: Registration, target: View) -> bool:
    """As its keeper knows by now, or as the registry shows before that."""
    held, there = registration.instance, target.by_key.get(registration.instance.key)
    if registration.state is State.LOST:
        return True
    return target.revision >= held.revision if there is None else there.generation > held.generation


def _changed(before: Instance, now: Instance, *, has_checks: bool) -> Fields:
    """What an update is to say. With checks of the other registry, its health is what these find."""
    fields: dict[str, Any] = {
        name: getattr(now, name) for name in Fields.__annotations__ if getattr(now, name) != getattr(before, name)
    }
    if has_checks:
        fields = {name: value for name, value in fields.items() if name != "health"}
    asked: Any = fields or {"weight": now.weight}
    return cast("Fields", asked)
