"""SHELL: the watch stream of a link, and the proof that it is alive: silence is broken by asking for progress."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable

import grpc.aio

from registry_api.registry.etcd.v3 import etcd_pb2 as etcd
from registry_server.illness import Pulse
from registry_server.records import Delta, StoreEvent
from registry_server.stores.epoch import OrderLost
from registry_server.stores.etcd.api import WatchCall
from registry_server.stores.etcd.link import REQUEST_S, BadCredentials, Link, LinkLost, hang_up
from registry_server.stores.etcd.telling import Telling
from registry_server.stores.pace import Pace
from registry_server.stores.teller import Told

STEP_S = 0.25
# So many records are told of in one step; in between, everybody else has a turn.
TOLD_AT_ONCE = 200


class Watch:
    """One watch of everything below the prefix."""

    def __init__(self, link: Link, pace: Pace) -> None:
        self._link = link
        self._pace = pace
        self._stream: WatchCall | None = None
        self._telling: Telling
        self._watch_id = 0
        self._answers_in_order = False
        self._heard = asyncio.Event()
        self._suspected = asyncio.Event()
        self._clock = asyncio.get_running_loop().time
        self._heard_at = self._clock()
        self._asked_at: float | None = None

    async def __aenter__(self) -> "Watch":
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._stream is not None:
            await hang_up(self._stream)

    async def open(self, telling: Telling) -> None:
        """Watch from `telling.told` on. Raises LinkLost, BadCredentials or OrderLost.

        From there itself, which is then left out, and not from the revision after it: etcd does not answer questions
        about the progress of a watch that begins in the future.
        """
        self._telling = telling
        self._answers_in_order = await self._link.answers_in_order()
        self._stream = self._link.open_watch()
        async with self._within(REQUEST_S):
            await self._call.write(telling.start())
            self._watch_id = (await self._read()).watch_id

    async def follow(self, before: Callable[[], None], tell: Callable[[Iterable[StoreEvent], Told], None]) -> None:
        """Hand over what etcd tells until the stream fails. Raises as `open` does.

        `before` is called first with every answer, while `unanswered_s` still tells how long it took.
        """
        while True:
            response = await self._read()
            before()
            self._note_heard()
            records = 0
            for event in self._events(response):
                tell([event], self._telling.told)
                records += len(event.puts) + len(event.deletes) if isinstance(event, Delta) else 1
                if records >= TOLD_AT_ONCE:
                    records = 0
                    await asyncio.sleep(0)

    @property
    def unanswered_s(self) -> float:
        """For how long nothing has been heard though etcd was asked, in seconds; 0 if its answer is not late."""
        if self._asked_at is None:
            return 0.0
        now = self._clock()
        return now - self._heard_at if now - self._asked_at > self._pace.ill_s else 0.0

    async def prove_alive(self) -> None:
        """Ask for progress after a silence, or at once when suspected. Raises LinkLost when no answer comes."""
        while True:
            if await self._is_quiet():
                limit_s = self._pace.suspect_s if self._suspected.is_set() else self._pace.patience_s
                async with self._within(limit_s):
                    await self._call.write(etcd.WatchRequest(progress=etcd.WatchProgressRequest()))
                await self._answer_comes(limit_s)
            self._suspected.clear()

    def suspect(self) -> None:
        """Some other request on this link failed or did not come back."""
        self._suspected.set()

    # ---- within

    @property
    def _call(self) -> WatchCall:
        assert self._stream is not None  # noqa: S101 - opened first
        return self._stream

    def _note_heard(self) -> None:
        self._heard_at, self._asked_at = self._clock(), None
        self._heard.set()

    async def _is_quiet(self) -> bool:
        """Wait for silence or for a suspicion. False when something was heard meanwhile, and nothing is suspected."""
        try:
            # By small steps, for what is silence may become shorter meanwhile.
            async with asyncio.timeout_at(min(self._heard_at + self._pace.idle_s, self._clock() + STEP_S)):
                await self._suspected.wait()
        except TimeoutError:
            if self._clock() < self._heard_at + self._pace.idle_s:
                return False
        self._heard.clear()
        self._asked_at = self._clock()
        return True

    async def _answer_comes(self, limit_s: float) -> None:
        """Raises LinkLost when nothing is heard for so long, without the time in which this process stood still."""
        pulse = Pulse(self._clock(), limit_s)
        while True:
            try:
                async with asyncio.timeout(limit_s):
                    await self._heard.wait()
            except TimeoutError:
                if not pulse.beat(self._clock()):
                    raise LinkLost(f"{self._link.endpoint}: no answer for {limit_s:g} s") from None
            else:
                return

    async def _read(self) -> etcd.WatchResponse:
        try:
            response = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise self._link.lost(error) from error
        if not isinstance(response, etcd.WatchResponse):
            raise LinkLost(f"{self._link.endpoint}: etcd ended the watch")
        if response.canceled:
            raise self._canceled(response)
        return response

    def _canceled(self, response: etcd.WatchResponse) -> Exception:
        if response.compact_revision:
            return OrderLost()
        reason = f"{self._link.endpoint}: {response.cancel_reason or 'etcd cancelled the watch'}"
        return BadCredentials(reason) if "permission denied" in reason else LinkLost(reason)

    def _events(self, response: etcd.WatchResponse) -> Iterable[StoreEvent]:
        if response.events or response.created:
            return self._telling.feed(response)
        # An answer to a request carries no watch id, and in old versions of etcd may overtake events.
        is_in_order = response.watch_id == self._watch_id or self._answers_in_order
        return [self._telling.progress(response.header.revision if is_in_order else 0)]

    @contextlib.asynccontextmanager
    async def _within(self, limit_s: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(limit_s):
                yield
        except TimeoutError:
            raise LinkLost(f"{self._link.endpoint}: no answer for {limit_s:g} s") from None
        except grpc.aio.AioRpcError as error:
            raise self._link.lost(error) from error
        except asyncio.InvalidStateError:
            raise LinkLost(f"{self._link.endpoint}: the watch has ended") from None
