"""SHELL: one registration, as its owner sees it."""

from __future__ import annotations

import asyncio
import logging
import os
import warnings
from typing import TYPE_CHECKING, Any, Self, Unpack

from registry_client import checks
from registry_client.errors import (
    ClientClosed,
    Misuse,
    NeverRegistered,
    RegistrationLost,
    RegistryUnavailable,
)
from registry_client.lease import State
from registry_client.pulse import within

if TYPE_CHECKING:
    from collections.abc import Generator

    from registry_client.instance import Fields, Instance
    from registry_client.keeper import Keeper
    from registry_client.stay import Stay, Wish

log = logging.getLogger(__name__)


def mark_used(registration: Registration) -> None:
    """Somebody has tried to enter or to end it, wherever that failed: dropping it is no oversight."""
    registration._was_used = True  # noqa: SLF001 - its front for threads may fail before it gets here


class Registration:
    """One instance that is kept registered: `async with registry.register(…) as registration`.

    Entering waits until the registry has it, without limit unless `timeout` was given. From then on it is renewed,
    and registered again after any outage. Leaving drains and deregisters it, and raises RegistrationLost if somebody
    else has taken its id or had it leave meanwhile. `await registry.register(…)` is the same without the block;
    `aclose` ends it. It is entered once, in the event loop of its client.
    """

    def __init__(self, keeper: Keeper, wish: Wish) -> None:
        self._keeper = keeper
        self._wish = wish
        self._stay: Stay | None = None
        self._is_entered = False
        self._was_used = False  # entered, or ended before

    def __del__(self) -> None:
        if self._was_used or os.getpid() != self._keeper.place.pid:
            return
        it = self._wish.instance
        text = (
            f"registry.register({it.service} at {it.address}) was never entered or awaited: nothing was registered;"
            " write `async with registry.register(…)`, or await it (in threads `with`, or `.start()`)"
        )
        # Python shows the warning where it is asked to (pytest, -W default, -X dev), and the log to everybody else.
        log.warning("%s", text)
        warnings.warn(text, NeverRegistered, stacklevel=2, source=self)

    # ---- what its owner sees

    @property
    def instance(self) -> Instance:
        """As the registry stored it last, or as it is wanted while it was never registered."""
        return self._stay.holding.instance if self._stay else self._wish.instance

    @property
    def lease_id(self) -> str:
        """The lease that holds it; empty while there is none. Registrations with the same ttl share one."""
        return self._stay.holding.lease.id if self._stay else ""

    @property
    def ttl_s(self) -> float:
        """The time to live in force, in seconds."""
        return (self._stay.holding.lease.ttl_s if self._stay else 0.0) or self._wish.ttl_s

    @property
    def state(self) -> State:
        """How it stands; WANTED before it was entered. DOUBTED when for a ttl nobody could tell that it lives."""
        return self._stay.holding.state if self._stay else State.WANTED

    @property
    def invisible_for(self) -> float | None:
        """Seconds since the registry last was known to show it; None while it is."""
        return None if self._stay is None else self._stay.holding.invisible_for(self._keeper.clock())

    @property
    def trouble(self) -> str:
        """What was tried last to register it and why that failed; empty while all is well."""
        if self._stay is None or (self.state is State.REGISTERED and self.invisible_for is None):
            return ""
        return self._stay.trouble or self._keeper.trouble

    async def update(self, **fields: Unpack[Fields]) -> Instance:
        """Change what is named of it and leave the rest as it is; as it is now, and as it is registered again.

        Fields: `status`, `weight`, `metadata`, `tags`, `version`, `health`; with checks, only a ttl check takes a
        health. Raises NotFound while it is not registered, Misuse before it was entered, RegistrationLost when its
        place is somebody else's, whom it would change, and ClientClosed when it has ended.
        """
        self._keeper.place.check("the registration")
        if self._stay is None:
            raise Misuse("the registration was not entered yet")
        if self._stay.is_lost:
            raise self._stay.loss()
        if self._stay.leaving is not None:
            raise ClientClosed("the registration was ended by its owner")
        return await self._keeper.update(self.instance.key, fields, self._keeper.timeout_s)

    async def wait_lost(self) -> RegistrationLost:
        """Wait until somebody else has taken the id or had it leave, and return what says so; leaving the block then
        raises it. Raises ClientClosed when it is ended by its owner, Misuse before it was entered.
        """
        self._keeper.place.check("the registration")
        if self._stay is None:
            raise Misuse("the registration was not entered yet")
        await self._stay.ended.wait()
        if not self._stay.is_lost:
            raise ClientClosed("the registration was ended by its owner")
        return self._stay.loss()

    # ---- its life

    async def start(self) -> Self:
        """Register, and wait until that is done. Raises RegistryError when the registry refuses, or after `timeout`."""
        self._was_used = True
        self._keeper.check()
        is_first, stay = self._stay is None, self._stay
        if stay is None:
            if self._wish.drain_on_signals:
                self._keeper.signals.add(self, self.aclose, self._keeper.place.loop)
            stay = self._stay = self._keeper.want(self._wish)
        try:
            await self._wait_settled(stay)
        except BaseException:
            if is_first:
                await self.aclose(drain=0.0)
            raise
        return self

    async def _wait_settled(self, stay: Stay) -> None:
        timeout_s = self._wish.timeout_s
        try:
            await (stay.settled.wait() if timeout_s is None else within(stay.settled.wait(), timeout_s))
        except TimeoutError:
            why = self.trouble or "no answer yet"
            raise RegistryUnavailable(
                f"{self._wish.instance.service} was not registered within {timeout_s:g} s: {why}"
            ) from None
        if stay.refusal is not None:
            raise stay.refusal
        if stay.leaving is not None:
            raise ClientClosed("this registration has ended: make another by registry.register(…)")

    def __await__(self) -> Generator[Any, None, Self]:
        return self.start().__await__()

    async def __aenter__(self) -> Self:
        if self._is_entered:
            raise Misuse("this registration was entered already: make another by registry.register(…)")
        self._is_entered = True
        return await self.start()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self.aclose()
        if kind is None and self._stay is not None and self._stay.is_lost:
            raise self._stay.loss()

    async def aclose(self, drain: float | None = None) -> None:
        """Drain for `drain` seconds (by default as asked for at first) and deregister. May be called more than once.

        Does nothing in a process that was forked meanwhile: it is the parent that is registered.
        """
        drain_s = self._wish.drain_s if drain is None else checks.drain(drain)
        self._was_used = True
        if self._stay is None or os.getpid() != self._keeper.place.pid:
            return
        self._keeper.place.check("the registration")
        self._keeper.signals.remove(self)
        await asyncio.shield(self._keeper.leave(self._stay, drain_s))
