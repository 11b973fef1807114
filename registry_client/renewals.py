"""SHELL: the stream over which all leases of a client are renewed, at whichever address is of use."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from registry_api.registry.v1 import registry_pb2 as pb
from registry_client import answers
from registry_client.errors import RegistryError, RegistryUnavailable
from registry_client.lease import NEVER, Leases, Renewed
from registry_client.pulse import within

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from registry_client.backoff import Backoff
    from registry_client.link import Connection, Link

    KeepAlive = grpc.aio.StreamStreamCall[pb.KeepAliveRequest, pb.KeepAliveResponse]

REST_S = 1.0  # the longest sleep, so that a machine that was suspended renews at once
_OUTCOMES = {
    pb.Renewal.RENEWED: Renewed.RENEWED,
    pb.Renewal.HELD: Renewed.HELD,
    pb.Renewal.UNKNOWN: Renewed.UNKNOWN,
}


class Renewals:
    """Renews what `leases` says is due. `on_answer` is called after each answer: with True if somebody could tell."""

    def __init__(
        self,
        link: Link,
        leases: Leases,
        backoff: Backoff,
        rng: Random,
        clock: Callable[[], float],
        on_answer: Callable[[bool], None],
    ) -> None:
        self._link = link
        self._leases = leases
        self._backoff = backoff
        self._rng = rng
        self._clock = clock
        self._on_answer = on_answer
        self._news = asyncio.Event()

    def wake(self) -> None:
        """There may be something new to renew."""
        self._news.set()

    async def run(self) -> None:
        """Renew until cancelled."""
        attempt = 0
        while True:
            while self._leases.renew_at() == NEVER:
                self._news.clear()
                await self._news.wait()
            connection, begun_s = self._link.current, self._clock()
            failure = await self._renew_over(connection)
            self._leases.stream_lost(self._clock())
            if failure is None:
                continue
            self._link.failed(connection, failure)
            # A stream that ends as soon as it was of use is not asked for without pause either.
            cap_s = self._leases.longest_pause_s()
            attempt = 0 if self._clock() - begun_s > 2 * cap_s else attempt + 1
            await asyncio.sleep(self._pause_s(attempt, cap_s, failure))

    def _pause_s(self, attempt: int, cap_s: float, failure: RegistryError) -> float:
        """How long to wait before the next stream; not at all while there are addresses that were not asked yet."""
        rounds, rest = divmod(attempt, len(self._link.addresses))
        if rest:
            return 0.0
        asked_s = failure.retry_after_s if isinstance(failure, RegistryUnavailable) else None
        return max(self._backoff.capped(cap_s).delay(rounds, self._rng), min(asked_s or 0.0, cap_s / 2))

    async def _renew_over(self, connection: Connection) -> RegistryError | None:
        """Renew over one stream until it is of no more use, and return why; None when there is nothing to renew."""
        try:
            call = connection.stub.KeepAlive(metadata=await connection.dialer.metadata())
        except RegistryError as error:
            return error
        call.add_done_callback(lambda _: self._news.set())
        try:
            while self._leases.renew_at() < NEVER:
                await self._step(connection, call)
        except TimeoutError:
            self._link.retire(connection, self._leases.patience_s())
            return RegistryUnavailable("no answer to a renewal in time")
        except asyncio.InvalidStateError:
            return await self._link.judge_ended(connection, call)
        except grpc.aio.AioRpcError as error:
            return await self._link.judge(connection, error)
        except RegistryError as error:
            return error
        finally:
            await self._link.end(call)
        return None

    async def _step(self, connection: Connection, call: KeepAlive) -> None:
        """Renew what is due, or wait until something is. Raises as `_ask`, and RegistryError when it is of no use."""
        asked_at_s = self._clock()
        lease_ids = self._leases.renewals(asked_at_s)
        if lease_ids:
            patience_s = self._leases.patience_s()
            self._link.asking(connection)
            answer = await within(_ask(call, lease_ids), patience_s)
            self._take(connection, lease_ids, answer, asked_at_s)
        elif call.done():
            raise asyncio.InvalidStateError
        else:
            await self._rest()
        if self._leases.is_held_too_long(self._clock()):
            raise RegistryUnavailable("it cannot reach its store: renewals are held")

    def _take(
        self, connection: Connection, lease_ids: list[str], answer: pb.KeepAliveResponse, asked_at_s: float
    ) -> None:
        """One answer. About leases that it says nothing of, it cannot tell; of others nobody has asked."""
        answers.check_epoch(answer.header)
        told = {renewal.lease_id: renewal for renewal in answer.renewals}
        stale, now, could_tell = answer.header.HasField("stale_for"), self._clock(), False
        for lease_id in lease_ids:
            renewal = told.get(lease_id, pb.Renewal())
            outcome, ttl_s = _OUTCOMES.get(renewal.state, Renewed.HELD), renewal.ttl.ToNanoseconds() / 1e9
            self._link.counts.renewals[outcome.value] += 1
            could_tell = could_tell or (outcome is not Renewed.HELD and not stale)
            told_of = lease_id, outcome, ttl_s, renewal.instances, answer.header.epoch, now
            self._leases.renewed(*told_of, stale=stale, asked_at_s=asked_at_s)
        if could_tell:
            self._link.answered(connection, answer.header)
        self._on_answer(could_tell)

    async def _rest(self) -> None:
        """Until the next renewal is due, a lease is new, or the stream ends; or for a while."""
        self._news.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(REST_S, max(0.0, self._leases.renew_at() - self._clock()))):
                await self._news.wait()


async def _ask(call: KeepAlive, lease_ids: list[str]) -> pb.KeepAliveResponse:
    """One request and its answer. Raises AioRpcError if the stream breaks, InvalidStateError if it has ended."""
    await call.write(pb.KeepAliveRequest(lease_ids=lease_ids))
    answer = await call.read()
    if not isinstance(answer, pb.KeepAliveResponse):
        raise asyncio.InvalidStateError
    return answer
