"""SHELL: the resolver of a channel that shares the watch of its client."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

import balancer
from registry_client.bridge.traffic import DEFAULT_POLICY
from registry_client.bridge.translate import FIRST_VIEW_S, Translator
from registry_client.errors import ClientClosed

if TYPE_CHECKING:
    from collections.abc import Callable

    from registry_api.registry.v1 import policies_pb2
    from registry_client.errors import RegistryError
    from registry_client.live import Live
    from registry_client.traffic import Traffic
    from registry_client.view import View

log = logging.getLogger(__name__)


class LiveResolver:
    """Tells a channel of the instances of one service. The channel may live in another loop than the client does."""

    default_policy = DEFAULT_POLICY

    def __init__(self, service: str, live: Live, traffic: Traffic, *, filtered: bool) -> None:
        self._service = self.name = service
        self._live = live
        self._traffic = traffic
        self._filtered = filtered
        self._translator = Translator(service)

    def left_out(self) -> tuple[balancer.EndpointWhy, ...]:
        """The instances that get no calls, and why: see balancer.resolvers.Resolver."""
        return self._translator.left_out()

    @property
    def trouble(self) -> str:
        """Why no registry tells of changes just now; empty while one does."""
        return self._live.trouble

    async def run(self, push: Callable[[balancer.Resolution], None]) -> None:
        """Push what every view says until cancelled, or the client is closed: then the channel goes on with whom it
        knows. Raises RegistryError when the registry refuses the watch."""
        try:
            await self._run(push)
        except ClientClosed as error:  # which no trying again mends
            log.info("the channel to %s hears of no changes any more: %s", self._service, error)
            push(balancer.Failed(str(error)))

    async def _run(self, push: Callable[[balancer.Resolution], None]) -> None:
        here, home = asyncio.get_running_loop(), self._live.place.loop
        if home.is_closed():
            raise ClientClosed("the client of the channel was closed")
        ended: asyncio.Future[None] = here.create_future()
        translator = self._translator = Translator(self._service)
        told = _Told(push, ended, translator, self._none if self._filtered else None)
        try:
            if here is home:
                self._begin(told)
            else:
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._follow(told), home))
            while not told.has_seen and not (await asyncio.wait([ended], timeout=FIRST_VIEW_S))[0]:
                if not told.has_seen:
                    push(balancer.Failed(f"the registry cannot be reached: {self._live.trouble or 'no answer yet'}"))
            await ended
        finally:
            with contextlib.suppress(RuntimeError):  # home is closed
                home.call_soon_threadsafe(self._end, told)

    async def _follow(self, told: _Told) -> None:
        self._begin(told)

    def _begin(self, told: _Told) -> None:
        self._live.follow(told)
        self._traffic.follow(told)

    def _end(self, told: _Told) -> None:
        self._live.unfollow(told)
        self._traffic.unfollow(told)

    @property
    def _none(self) -> balancer.Absent:
        return balancer.Absent(f"no instance of {self._service} matches the filter")

    def resolve_now(self) -> None:
        """Nothing to do: the watch tells of every change by itself."""


def under(translator: Translator, policy: policies_pb2.Policy | None) -> balancer.Resolution | None:
    """What the translator says under that policy; a policy that cannot be is said, and not followed."""
    try:
        return translator.under(policy)
    except ValueError as error:
        log.warning("the traffic policy of %s is not followed: %s", translator.service, error)
        return None


class _Told:
    """Follows in the loop of the client, and tells in that of the channel, for which it is made."""

    def __init__(
        self,
        push: Callable[[balancer.Resolution], None],
        ended: asyncio.Future[None],
        translator: Translator,
        none: balancer.Absent | None,
    ) -> None:
        self.has_seen = False
        self._seen: balancer.Resolution | None = None
        self._knows_policy = False
        self._push = push
        self._ended = ended
        self._loop = ended.get_loop()
        self._translator = translator
        self._none = none

    def seen(self, view: View) -> None:
        self._seen = self._translator.resolution(view)
        self._go()

    def told(self, policy: policies_pb2.Policy | None) -> None:
        self._knows_policy = True
        self._seen = under(self._translator, policy) or self._seen
        self._go()

    def _go(self) -> None:
        """Tell what is known, once both are: no call goes where the policy would not have it."""
        resolution = self._seen
        if resolution is None or not self._knows_policy:
            return
        if isinstance(resolution, balancer.Absent) and self._none is not None:
            resolution = self._none
        self._call(self._tell, resolution)

    def _tell(self, resolution: balancer.Resolution) -> None:
        self.has_seen = True
        self._push(resolution)

    def ended(self, error: RegistryError) -> None:
        self._call(self._end, error)

    def _end(self, error: RegistryError) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)

    def _call(self, function: Callable[..., None], value: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, value)
