"""SHELL. The stream on which leases are renewed: one for a link, shared fairly by all who want something of it."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import grpc.aio

from registry_api.registry.etcd.v3 import etcd_pb2 as etcd
from registry_server.stores.etcd.link import Link, LinkLost, hang_up, together
from registry_server.stores.etcd.turns import Turns

if TYPE_CHECKING:
    from registry_server.stores.etcd.api import RenewalCall

REOPEN_S = 0.2
# What is on its way before the first answer: enough to fill the way there and back, and no queue that others stand in.
MAX_ASKED = 256

_LOST_DETAILS = "Internal error from Core"  # what grpc.aio says instead when a write meets the end of a stream


class _Caller:
    """Somebody who waits for some leases, and what he was answered: seconds to live, 0 for a lease that is gone."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.answers: dict[int, int] = {}
        self.done = asyncio.Event()

    def answer(self, lease: int, ttl_s: int) -> None:
        self.answers[lease] = ttl_s
        if len(self.answers) == self._count:
            self.done.set()


class Renewals:
    """One LeaseKeepAlive stream for all leases.

    `on_answer` is called with the seconds that an answer took, before anybody gets it.
    """

    def __init__(self, link: Link, on_answer: Callable[[float], None]) -> None:
        self._link = link
        self._on_answer = on_answer
        self._turns: Turns[_Caller] = Turns(MAX_ASKED)
        self._callers: set[_Caller] = set()
        self._may_ask = asyncio.Event()
        self._is_over = False
        self._clock = asyncio.get_running_loop().time
        self._answered_at = 0.0

    async def renew(self, leases: Sequence[int], silence_s: float, most_s: float) -> dict[int, int]:
        """Renew leases, each named once. What is answered in time is in the result: seconds to live, 0 for a lease that
        is gone. It is waited for until etcd has been silent for so long, and no longer than `most_s`."""
        caller = _Caller(len(leases))
        if not leases or self._is_over:
            return caller.answers
        self._turns.want(caller, leases)
        self._callers.add(caller)
        self._may_ask.set()
        is_late = False
        try:
            is_late = not await self._is_answered(caller, silence_s, most_s)
        finally:
            self._turns.drop(caller, is_late=is_late)
            self._callers.discard(caller)
        return caller.answers

    async def _is_answered(self, caller: _Caller, silence_s: float, most_s: float) -> bool:
        began = self._clock()
        while not caller.done.is_set():
            deadline = min(max(self._answered_at, began) + silence_s, began + most_s)
            if self._clock() >= deadline:
                return False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await caller.done.wait()
        return True

    @property
    def unanswered_s(self) -> float:
        """For how long etcd has owed an answer, in seconds, whether anybody still waits for it or not; 0 if it owes
        none."""
        since = self._turns.unanswered_since
        return 0.0 if since is None else self._clock() - since

    def forgive(self) -> None:
        """It was told that answers are lost; they count no more."""
        self._turns.forgive()

    async def run(self) -> None:
        """Keep a stream open until cancelled. What breaks the stream alone (an election) does not break the link."""
        try:
            while True:
                await self._one_stream()
                await asyncio.sleep(REOPEN_S)
                self._turns.again()
                self._may_ask.set()
        finally:
            self._is_over = True
            for caller in self._callers:
                caller.done.set()

    async def _one_stream(self) -> None:
        token = self._link.token
        call = self._link.open_renewals()
        try:
            await together(self._send(call), self._receive(call))
        except (grpc.aio.AioRpcError, LinkLost):
            pass  # the watch decides about the link
        finally:
            await hang_up(call)
        if self._link.is_stale_token(await call.details(), _LOST_DETAILS):
            await self._link.login(instead_of=token)

    async def _send(self, call: "RenewalCall") -> None:
        # When writing fails the call has ended, and reading tells why: cancelling the reader would hide it.
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                await self._may_ask.wait()
                self._may_ask.clear()
                while (lease := self._turns.next(self._clock())) is not None:
                    await call.write(etcd.LeaseKeepAliveRequest(id=lease))

    async def _receive(self, call: "RenewalCall") -> None:
        while isinstance(response := await call.read(), etcd.LeaseKeepAliveResponse):
            asked_at, callers = self._turns.answered(response.id)
            self._answered_at = self._clock()
            self._may_ask.set()
            self._on_answer(self._answered_at - asked_at)
            for caller in callers:
                caller.answer(response.id, response.ttl)
        raise LinkLost("etcd ended the stream of renewals")
