"""A story: what happens to all xDS clients at the same time, in parts, and what went wrong for each of them."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.building import NotBuilt
from tests.support.xds_clients import Client

RATE = 30

# Of a call that fails for a fault of the client's own: grpc-go gives calls the new routes just before the new clusters
# are known to what takes the calls to them (clientconn.go, applyServiceConfigAndBalancer).
ITS_OWN = {"go": "rpc error: code = Unavailable desc = unknown cluster selected for RPC"}
NOTHING = "no text begins so"
FEW = 3

Act = Callable[[Client], Awaitable[None]]


@dataclass
class Story:
    """The clients, and what went wrong for each of them in each part."""

    clients: dict[str, Client] = field(default_factory=dict)
    not_built: dict[str, NotBuilt] = field(default_factory=dict)
    wrong: dict[tuple[str, str], str] = field(default_factory=dict)
    told: dict[str, float] = field(default_factory=dict)
    """The parts, and how long each took, in seconds."""
    broken: str = ""

    async def part(self, name: str, act: Act) -> None:
        """All do the same at the same time."""
        began = time.monotonic()
        self.told.setdefault(name, 0.0)
        await asyncio.gather(*(self._one(name, it, act) for it in self.clients.values()))
        self.told[name] += time.monotonic() - began

    async def _one(self, name: str, it: Client, act: Act) -> None:
        try:
            await act(it)
        except Exception as error:  # whatever it is, the others go on
            self.wrong.setdefault((name, it.name), f"{type(error).__name__}: {error}")

    @asynccontextmanager
    async def under_load(self, name: str) -> AsyncIterator[None]:
        """All call all the time meanwhile, and no call may fail, but for a fault of its own."""
        await self.part(name, lambda it: it.load(RATE))
        try:
            yield
        finally:
            await self.part(name, self._stopped)

    async def _stopped(self, it: Client) -> None:
        came = await it.stop()
        assert came.failed <= (FEW if came.text.startswith(ITS_OWN.get(it.name, NOTHING)) else 0), came
        assert came.calls, came


class Tellings:
    """A story is told once for all tests of it, and once more for those that get a second chance."""

    def __init__(
        self, tell: Callable[[Story, Path], Awaitable[None]], folder: Callable[[], Path], limit_s: float
    ) -> None:
        self._tell = tell
        self._folder = folder
        self._limit_s = limit_s
        self._told: dict[int, Story] = {}

    def for_run(self, request: pytest.FixtureRequest) -> Story:
        """The one for this run of a test."""
        run = getattr(request.node, "execution_count", 1)
        if run not in self._told:
            self._told[run] = self._tell_it()
        return self._told[run]

    def _tell_it(self) -> Story:
        story = Story()

        async def tell() -> None:
            async with asyncio.timeout(self._limit_s):
                await self._tell(story, self._folder())

        try:
            asyncio.run(tell())
        except Exception:
            story.broken = f"{traceback.format_exc()}after {story.told}; until then {story.wrong}"
        return story
