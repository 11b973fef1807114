"""SHELL: one registration as the keeper keeps it: what was asked for, and how it stands."""

from __future__ import annotations

import asyncio
import logging
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry_client.errors import RegistrationLost
from registry_client.lease import Register, State

if TYPE_CHECKING:
    from registry_client.errors import RegistryError
    from registry_client.instance import Instance
    from registry_client.lease import Holding, LookUp

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wish:
    """What the owner of a registration asked for; times in seconds."""

    instance: Instance
    ttl_s: float
    drain_s: float
    timeout_s: float | None
    drain_on_signals: bool
    if_absent: bool = False


class Stay:
    """One registration as the keeper keeps it, from being wanted to having left."""

    def __init__(self, holding: Holding) -> None:
        self.holding = holding
        self.settled = asyncio.Event()  # registered once, lost, or refused
        self.ended = asyncio.Event()  # lost, or leaving
        self.is_lost = False
        self.refusal: RegistryError | None = None
        self.leaving: asyncio.Task[None] | None = None
        self.trouble = ""  # why it is not registered just now
        # What is called until it is settled belongs to the trace of who asked for it.
        self._asked_in: Context | None = copy_context()
        self._call: asyncio.Task[None] | None = None
        self._may_change = False  # that call may have changed something in the registry

    @property
    def context(self) -> Context | None:
        """Of who waits for its next call; None if nobody does."""
        if self.settled.is_set():
            self._asked_in = None
        return None if self._asked_in is None else self._asked_in.copy()

    def carry_out(self, action: Register | LookUp, call: asyncio.Task[None]) -> None:
        """A call on its behalf has begun."""
        self._call, self._may_change = call, isinstance(action, Register)

    async def wait_idle(self, seconds: float) -> None:
        """Wait until no call on its behalf is under way, so that what it does cannot come after what follows."""
        if self._call is None:
            return
        await asyncio.wait([self._call], timeout=seconds if self._may_change else 0.0)
        self._call.cancel()
        await asyncio.gather(self._call, return_exceptions=True)

    def refused(self, error: RegistryError) -> None:
        """It will not be registered, whatever is tried. Without meaning once it was."""
        if not self.settled.is_set():
            self.refusal = error
            self.settled.set()

    def look(self) -> None:
        """Its state may have changed."""
        holding = self.holding
        if holding.state is State.LOST and not self.is_lost:
            self.is_lost = True
            if holding.epoch:
                log.error("registration lost: %s", holding.reason)
            else:
                self.refused(self.loss())
            self.ended.set()
        if holding.epoch or self.is_lost:
            self.settled.set()
        if holding.state is State.REGISTERED:
            self.trouble = ""

    def loss(self) -> RegistrationLost:
        """What says that it was lost, and why."""
        return RegistrationLost(self.holding.reason)
