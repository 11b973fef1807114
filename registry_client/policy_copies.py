"""SHELL: traffic policies of one registry, kept up in another one as its instances are."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

import grpc

from registry_client.errors import NotFound, PermissionDenied, RegistryError, RegistryUnavailable, Unauthenticated

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry_client.client import RegistryClient
    from registry_client.policy import TrafficPolicy

# From one look at all policies to the next: at least so long, and so many times as long as the look took.
LOOK_S = 1.0
RESTS = 20.0
AGAIN_S = 10.0  # what was refused is tried again


class Scope(NamedTuple):
    """Whose policies are meant: of these services, or without any of all, in that namespace or in every one."""

    services: tuple[str, ...]
    namespace: str
    all_namespaces: bool


class Of(NamedTuple):
    """Which service a policy is of."""

    namespace: str
    service: str

    def __str__(self) -> str:
        return f"the policy of {self.namespace}/{self.service}"


class Heard(Protocol):
    """Who is told of what is done."""

    def policy(self, what: str, of: Of) -> None:
        """A copy was `added`, `updated` or `removed`."""

    def kept_out(self, what: object, why: str) -> None:
        """There is no copy of that one, for that reason."""


async def policies_of(registry: RegistryClient, scope: Scope) -> dict[Of, TrafficPolicy]:
    """All that are meant and can be followed. None of a registry that knows no policies. Raises RegistryError."""
    space = "" if scope.all_namespaces else scope.namespace
    try:
        found = await registry.policy.list(namespace=space, all_namespaces=scope.all_namespaces)
    except RegistryError as error:
        if error.code is not grpc.StatusCode.UNIMPLEMENTED:
            raise
        return {}
    return {
        Of(it.namespace, it.service): it
        for it in found
        if not it.flaw and (not scope.services or it.service in scope.services)
    }


@dataclass(slots=True)
class Due:
    """What brings the copies to what is wanted."""

    put: list[Of] = field(default_factory=list)
    delete: list[Of] = field(default_factory=list)
    adopt: list[Of] = field(default_factory=list)
    """They are there as they are wanted."""
    kept_out: dict[Of, str] = field(default_factory=dict)


def due(wanted: Mapping[Of, TrafficPolicy], held: Mapping[Of, TrafficPolicy], there: Mapping[Of, TrafficPolicy]) -> Due:
    """`held` are the copies as they were last put. What somebody else put there, changed or deleted stays so, until it
    is the same again."""
    todo = Due()
    for key, policy in wanted.items():
        now = there.get(key)
        if now == policy:
            todo.adopt.append(key)
        elif now == held.get(key):
            todo.put.append(key)
        else:
            todo.kept_out[key] = "somebody changed or deleted it there" if key in held else "there is another one"
    todo.delete += [key for key, it in held.items() if key not in wanted and there.get(key) == it]
    return todo


class PolicyCopies:
    """Copies from `source` to `target`, which both are open."""

    def __init__(self, source: RegistryClient, target: RegistryClient, scope: Scope, told: Heard) -> None:
        self._source = source
        self._target = target
        self._scope = scope
        self._told = told
        self._held: dict[Of, TrafficPolicy] = {}
        self._epoch = ""
        self._doubted: dict[Of, str] = {}
        self._said: dict[Of, str] = {}
        self._refused: dict[Of, tuple[TrafficPolicy, float]] = {}  # what, and until when it is not tried again

    async def run(self) -> None:
        """Copy until cancelled. Where that is not granted it says so, and copies none."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await self.round()
            except RegistryUnavailable:
                pass  # what is away says nothing new
            except (PermissionDenied, Unauthenticated) as error:
                self._told.kept_out("policies", str(error))
                await asyncio.Event().wait()
            except RegistryError as error:
                self._keep_out(Of("*", "*"), str(error))
            await asyncio.sleep(max(LOOK_S, RESTS * (loop.time() - began)))

    async def round(self) -> None:
        """Look at both, and do what is due. Raises RegistryError."""
        wanted = await policies_of(self._source, self._scope)
        if self._epoch != (epoch := self._source.epoch):
            self._epoch = epoch
            self._held.clear()  # what it has no more, it may have lost: the copies stay
        there = await policies_of(self._target, self._scope)
        todo = due(wanted, self._held, there)
        for key in todo.adopt:
            self._held[key] = wanted[key]
        for key in self._held.keys() - wanted.keys() - set(todo.delete):
            del self._held[key]
        await self._act(todo, wanted)
        self._doubted = self._tell(todo)

    async def _act(self, todo: Due, wanted: Mapping[Of, TrafficPolicy]) -> None:
        for key in todo.put:
            await self._put(key, wanted[key])
        for key in todo.delete:
            with contextlib.suppress(NotFound):
                await self._target.policy.delete(key.service, namespace=key.namespace)
            del self._held[key]
            self._told.policy("removed", key)

    async def _put(self, key: Of, policy: TrafficPolicy) -> None:
        now = asyncio.get_running_loop().time()
        refused, until = self._refused.get(key, (None, 0.0))
        if refused == policy and now < until:
            return
        try:
            kept = await self._target.policy.put(policy)
        except RegistryUnavailable:
            raise
        except RegistryError as error:
            self._refused[key] = policy, now + AGAIN_S
            self._keep_out(key, str(error))
        else:
            self._refused.pop(key, None)
            self._told.policy("updated" if key in self._held else "added", key)
            self._held[key] = kept

    def _tell(self, todo: Due) -> dict[Of, str]:
        """What is kept out for good: of registries that are synced both ways the other one may be about to follow."""
        for key, why in todo.kept_out.items():
            if self._doubted.get(key) == why:
                self._keep_out(key, why)
        for key in self._said.keys() - todo.kept_out.keys() - self._refused.keys():
            del self._said[key]
        return todo.kept_out

    def _keep_out(self, of: Of, why: str) -> None:
        if self._said.get(of) != why:
            self._said[of] = why
            self._told.kept_out(of, why)
