"""SHELL: what a client is told when it is made, and what it has while it is open."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from enum import Enum
from os import PathLike, fspath
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Protocol
from weakref import WeakValueDictionary

from registry_api.clocks import steady
from registry_api.limits import DEFAULT_TTL_S
from registry_client import checks
from registry_client.cache import Disk, default_dir
from registry_client.counts import ClientNumbers
from registry_client.keeper import Keeper
from registry_client.link import Link, Reach
from registry_client.papers import Dialer, Papers
from registry_client.place import FORKS, Place
from registry_client.pulse import Pulse
from registry_client.tasks import Tasks
from registry_client.watcher import Links, Means

if TYPE_CHECKING:
    from registry_client.backoff import Backoff
    from registry_client.health import HealthCheck
    from registry_client.inside import Inside
    from registry_client.live import Live
    from registry_client.steps import WatchLimits
    from registry_client.traffic import Traffic


class CacheDir(Enum):
    """Where views are kept when nothing is said: in the user's cache directory."""

    DEFAULT = "default"


class Addressed(Protocol):
    """Who knows where a registry is."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """All addresses of the registry."""


def check_cache_dir(given: object) -> Path | None:
    """Where views are kept on disk; None for nowhere. Raises InvalidArgument for what is no path."""
    if isinstance(given, CacheDir):
        return default_dir()
    if given is None or isinstance(given, str | PathLike):
        if given is None:
            return None
        if not (path := checks.text("cache_dir", fspath(given))):
            raise checks.wrong("cache_dir", "must not be empty; None is for nowhere")
        return Path(path)
    raise checks.wrong_type("cache_dir", "must be a path or None", given)


@dataclass(frozen=True, slots=True)
class Settings:
    """What `connect` was told; times in seconds."""

    addresses: tuple[str, ...]
    namespace: str
    papers: Papers
    cache_dir: Path | None
    timeout_s: float
    backoff: Backoff
    cache_max_age_s: float
    watch_limits: WatchLimits
    store: str = field(default="", repr=False)  # in place of addresses; it may have a password in it
    first: int = 0  # so many of the addresses are preferred; 0 for all
    # Whose addresses are meant, in place of addresses, with the papers for them.
    of: tuple[tuple[Addressed, Papers], ...] = ()
    ttl_s: float = DEFAULT_TTL_S
    checks: tuple[HealthCheck, ...] = ()


def _dialers(it: Settings, inside: Inside | None) -> dict[str, Dialer]:
    """All addresses, and how each is dialed."""
    if inside is not None:
        return {inside.address: Dialer(it.papers)}
    dialers: dict[str, Dialer] = {}
    for addresses, papers in [(client.addresses, papers) for client, papers in it.of] or [(it.addresses, it.papers)]:
        dialers |= dict.fromkeys(addresses, Dialer(papers))
    return dialers


class Session:
    """What a client has while it is open: all of it lives in one event loop."""

    def __init__(self, it: Settings, inside: Inside | None = None) -> None:
        dialers = _dialers(it, inside)
        self.addresses, self.dialers = tuple(dialers), dialers
        first = len(it.of[0][0].addresses) if it.of else it.first
        self._inside = inside
        self.place = Place()
        rng = SystemRandom()  # shared by nobody and seeded by nobody
        self.reach = Reach(steady)
        self.tasks = Tasks()

        def make() -> Link:
            return Link(dialers, it.backoff, rng, self.reach, self.tasks, first)

        self.link = make()
        # Connections of their own: a registry takes so many streams of each, and no watch may keep a renewal waiting.
        self._watch_links = Links(make)
        self._disk = Disk(time.time)
        self.means = Means(
            self._watch_links, it.backoff, rng, Pulse(time.monotonic), self._disk, self.place, it.watch_limits
        )
        self.keeper = Keeper(self.link, self.tasks, self.place, it.backoff, rng, steady, it.timeout_s)
        self.lives: WeakValueDictionary[bytes, Live] = WeakValueDictionary()  # by the question
        self.traffics: WeakValueDictionary[tuple[str, str], Traffic] = WeakValueDictionary()  # by the service

    def numbers(self) -> ClientNumbers:
        """What there is to tell of it. May be asked for in any thread."""
        return ClientNumbers(
            is_up=self.reach.is_up,
            counts=self.reach.counts,
            registrations=self.keeper.leases.states(),
            leases=self.keeper.leases.alive,
            watches=tuple(it.told() for it in list(self.means.followed)),
            connections=self.link.connections + self._watch_links.connections,
        )

    async def aclose(self) -> None:
        """Deregister, end what runs, and close the channels, whatever fails on the way."""
        try:
            await self.keeper.aclose()
        finally:
            self.reach.close()
            try:
                await self.tasks.aclose()
                await self._disk.flush()
            finally:
                FORKS.closed()
                await asyncio.gather(self.link.aclose(), self._watch_links.aclose())
                if self._inside is not None:
                    await self._inside.aclose()
