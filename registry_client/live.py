"""SHELL: one watch that many read: discoveries, balancers and channels of one client that ask the same."""

from __future__ import annotations

import asyncio
import time
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from registry_client.errors import ClientClosed, RegistryError
from registry_client.view import Changes

if TYPE_CHECKING:
    from registry_client.instance import Instance
    from registry_client.place import Place
    from registry_client.tasks import Tasks
    from registry_client.view import View
    from registry_client.watcher import Watch


class Follower(Protocol):
    """Who is told of every view."""

    def seen(self, view: View) -> None:
        """The next view, in order; in the first, everything is added."""

    def ended(self, error: RegistryError) -> None:
        """There will be no other."""


class Live:
    """What a question has for an answer just now. Lives as long as somebody holds it, and no longer than its client."""

    def __init__(self, watch: Watch, tasks: Tasks, place: Place) -> None:
        self._pump = pump = _Pump(watch)
        self.place = place
        self._task = tasks.start(pump.run(), "registry-live")
        # As with a watch: nobody says that it is no longer wanted but the collector.
        weakref.finalize(self, _cancel_soon, self._task).atexit = False

    @property
    def view(self) -> View | None:
        """The latest view; None before there is one."""
        return self._pump.view

    @property
    def routable(self) -> tuple[Instance, ...]:
        """Those of it that get traffic: the very same tuple until another view comes."""
        return self._pump.routable

    @property
    def stale_for(self) -> float | None:
        """None while the registry confirms the view, else the seconds since it last did, or since nobody has."""
        return self._pump.stale_for(time.monotonic())

    @property
    def trouble(self) -> str:
        """Why no registry tells of changes just now; empty while one does."""
        return self._pump.watch.trouble

    @property
    def is_over(self) -> bool:
        """True when no view will come any more."""
        return self._pump.failure is not None

    async def first(self) -> View:
        """The view, once there is one. Raises RegistryError when the registry refuses the question."""
        pump = self._pump
        if pump.failure is None and pump.view is None:
            await pump.begun.wait()
        if pump.failure is not None:
            raise pump.failure.with_traceback(None)
        assert pump.view is not None  # noqa: S101 - which is what was waited for
        return pump.view

    def follow(self, follower: Follower) -> None:
        """Tell it of the view as it is, if there is one, and of all that come; until `unfollow`."""
        self._pump.follow(follower)

    def unfollow(self, follower: Follower) -> None:
        """Tell it no more, if it was told."""
        self._pump.unfollow(follower)


class _Pump:
    """What the task of a `Live` needs, so that it does not hold the `Live` itself."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.view: View | None = None
        self.routable: tuple[Instance, ...] = ()
        self.failure: RegistryError | None = None
        self.begun = asyncio.Event()
        self._seen_at_s = time.monotonic()
        self._followers: dict[Follower, None] = {}

    async def run(self) -> None:
        failure: RegistryError = ClientClosed("the client was closed")
        try:
            async with self.watch:
                async for view in self.watch:
                    self._take(view)
        except RegistryError as error:
            failure = error
        finally:
            self.failure = failure
            self.begun.set()
            for follower in list(self._followers):
                follower.ended(failure)

    def _take(self, view: View) -> None:
        self.view, self._seen_at_s = view, time.monotonic()
        self.routable = tuple(endpoint.instance for endpoint in view.endpoints)
        self.begun.set()
        for follower in list(self._followers):
            follower.seen(view)

    def stale_for(self, now: float) -> float | None:
        since_s = now - self._seen_at_s
        if self.view is None:
            return since_s
        return None if self.view.stale_for is None else self.view.stale_for + since_s

    def follow(self, follower: Follower) -> None:
        self._followers[follower] = None
        if self.view is not None:
            follower.seen(replace(self.view, changes=Changes(added=self.view.instances)))
        if self.failure is not None:
            follower.ended(self.failure)

    def unfollow(self, follower: Follower) -> None:
        self._followers.pop(follower, None)


def _cancel_soon(task: asyncio.Task[None]) -> None:
    loop = task.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(task.cancel)
