"""SHELL: one server at the head of a mirror: how it gets there, what it writes, and whom it brings up to date."""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass

from registry_server.stores.backend import Backend, Changed, Check, ChecksFailed, Everything
from registry_server.stores.base import Refused, StoreAway
from registry_server.stores.mirror.member import Member
from registry_server.stores.mirror.state import MOST, NOTHING, Ballot, Contents, Lot, Stand, begun, lacking, part_of

# So long may all take that has to be done before the first full set can be told.
OPEN_S = 5.0
# Who writes shows that it is there that often; it is gone when nothing was seen of it for so long. For so long at the
# most it is watched whether another one is there; then the telling begins anew.
BEAT_S, GONE_S, WATCHED_S = 1.5, 6.0, 15.0
LEAVE_S = 1.0
MAX_WAITING = MAX_UNTOLD = 10_000
# The largest transaction, and so many bytes go together.
MAX_BYTES, LOT_BYTES = 256 * 1024, 96 * 1024


@dataclass(frozen=True, slots=True)
class Terms:
    """Of how many backends a writer needs a promise, how many a write has to be in, and how long the others are waited
    for at the beginning, in seconds."""

    to_begin: int
    to_write: int
    grace_s: float


@dataclass(slots=True)
class _Waiting:
    checks: Sequence[Check]
    writes: Mapping[str, bytes | None]
    outcome: asyncio.Future[int]

    @property
    def size(self) -> int:
        return sum(len(name) + len(value or b"") for name, value in self.writes.items())

    def ends(self, outcome: Changed | ChecksFailed | StoreAway) -> None:
        if self.outcome.done():
            return
        if isinstance(outcome, Changed):
            self.outcome.set_result(outcome.revision)
        else:
            self.outcome.set_exception(outcome)


class Tenure:
    """From the first look at the backends until too few of them are reached, or another server takes over."""

    def __init__(self, backends: Mapping[str, Backend], terms: Terms, holder: str, rng: random.Random) -> None:
        self.members = [Member(name, backend, self._wake, rng) for name, backend in backends.items()]
        self.begun: asyncio.Future[Everything] = asyncio.get_running_loop().create_future()
        self.untold: deque[Changed] = deque()
        self.state = Contents(NOTHING, {})
        self._terms = terms
        self._holder = holder
        self._ballot: Ballot | None = None
        self._clock = asyncio.get_running_loop().time
        self._news = asyncio.Event()
        self.told = asyncio.Event()
        self._waiting: deque[_Waiting] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._catching: set[Member] = set()
        self._ready: set[Member] = set()
        self._written_at = 0.0

    # ---- how it gets there

    async def lead(self, known: Contents | None) -> None:
        """Take the mirror and write to it until that fails. Raises StoreAway. `known`: what this server had before."""
        if not await self._until(lambda: len(self._arrived) >= self._terms.to_begin, OPEN_S):
            raise StoreAway(self._lacking())
        await self._until(lambda: len(self._arrived) == len(self.members), self._terms.grace_s)
        await self._others_gone()
        await self._claim(known)
        if not await self._until(self._has_enough, OPEN_S):
            raise StoreAway(self._lacking())
        self.begun.set_result(Everything(self.state.version.revision, tuple(self.state.items.values())))
        self.told.set()
        self._written_at = self._clock()
        await self._carry()

    @property
    def _arrived(self) -> list[Member]:
        return [member for member in self.members if member.has_arrived]

    async def _others_gone(self) -> None:
        """Wait until nobody else writes. Raises StoreAway if somebody does."""
        began = self._clock()
        while True:
            others = [it for it in self._arrived if it.stand.is_held and it.stand.promise.holder != self._holder]
            left_s = max((it.heard_at for it in others), default=-GONE_S) + GONE_S - self._clock()
            if left_s <= 0:
                return
            if self._clock() > began + WATCHED_S:
                raise StoreAway("another server writes to this mirror; this one stands by")
            await asyncio.sleep(left_s)

    async def _claim(self, known: Contents | None) -> None:
        """Have enough backends follow this server, and go on from the furthest of them. Raises StoreAway."""
        asked = self._arrived
        ballot = Ballot(min(MOST, 1 + max((it.stand.promise.number for it in asked), default=0)), self._holder)
        self._ballot = ballot
        for member in self.members:
            member.ballot = ballot
        await asyncio.gather(
            *(it.write({}, Stand(ballot, True, it.stand.version)) for it in asked), return_exceptions=True
        )
        following = [it.state for it in asked if it.has_arrived and it.stand.promise == ballot]
        if len(following) < self._terms.to_begin:
            raise StoreAway(self._lacking())
        self.state = begun(ballot, [*following, *([known] if known else [])])

    def _has_enough(self) -> bool:
        self._admit()
        return (
            sum(it.is_joined and it.stand.version == self.state.version for it in self.members) >= self._terms.to_write
        )

    def _lacking(self) -> str:
        reasons = "; ".join(f"{it.name}: {it.reason}" for it in self.members if it.reason)
        return f"{len(self._arrived)} of {len(self.members)} stores of the mirror are reached: {reasons}"

    async def _until(self, condition: Callable[[], bool], within_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not condition():
                    self._news.clear()
                    await self._news.wait()
        return condition()

    # ---- who is brought up to date

    def _admit(self) -> None:
        """Between two writes: those that lack little get it with the next write, and all of these from then on."""
        for member in self.members:
            if member.has_arrived and not member.is_joined and member not in self._catching and member.held is not None:
                self._bring(member, lacking(member.held, self.state.items))

    def _bring(self, member: Member, names: Sequence[str]) -> None:
        writes = part_of(names, self.state.items, member.most - 1, LOT_BYTES)
        if len(writes) == len(names):
            member.is_joined, member.held = True, None
            self._start(member.write(writes, self._stand(self.state)))
        else:
            self._catching.add(member)
            self._start(self._catch_up(member, names))

    async def _catch_up(self, member: Member, names: Sequence[str]) -> None:
        """Write most of what it lacks. What it has in between is as of nothing."""
        try:
            while names:
                writes = part_of(names, self.state.items, member.most - 1, LOT_BYTES)
                await member.write(writes, self._stand(Contents(NOTHING, {})))
                names = names[len(writes) :]
        finally:
            self._catching.discard(member)

    def _stand(self, state: Contents) -> Stand:
        return Stand(self._ballot or Ballot(0, self._holder), True, state.version)

    def _start(self, work: Coroutine[object, object, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # the member knows
        self._wake()

    def _wake(self) -> None:
        self._news.set()

    # ---- what is written

    async def transact(self, checks: Sequence[Check], writes: Mapping[str, bytes | None]) -> int:
        """See Backend."""
        waiting = _Waiting(checks, writes, asyncio.get_running_loop().create_future())
        if waiting.size > MAX_BYTES:
            raise Refused(f"{waiting.size} bytes in one write, which are more than the {MAX_BYTES} of a mirror")
        if not self.begun.done() or len(self._waiting) >= MAX_WAITING:
            raise StoreAway("too many writes wait for the mirror" if self.begun.done() else "the mirror is not open")
        self._waiting.append(waiting)
        self._wake()
        return await waiting.outcome

    async def _carry(self) -> None:
        while True:
            self._news.clear()
            self._admit()
            if self._waiting or self._clock() - self._written_at > BEAT_S:
                await self._write_some()
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_S / 3):
                    await self._news.wait()

    async def _write_some(self) -> None:
        """What waits, as much as goes together, or the sign that this server is there. Raises StoreAway when it is in
        too few backends: then nobody knows whether it will be found."""
        lot = Lot(self.state)
        outcomes = list(self._take(lot))
        try:
            await self._write(lot)
        except BaseException:
            for waiting, _ in outcomes:
                waiting.ends(StoreAway("too few stores of the mirror have it; nobody knows whether it is written"))
            raise
        lot.take_effect()
        self._written_at = self._clock()
        for waiting, outcome in outcomes:
            if isinstance(outcome, Changed):
                self._tell(outcome)
            waiting.ends(outcome)

    def _take(self, lot: Lot) -> "Sequence[tuple[_Waiting, Changed | ChecksFailed]]":
        taken: list[tuple[_Waiting, Changed | ChecksFailed]] = []
        most = min(member.most for member in self.members) - 1
        while self._waiting and not lot.is_full and lot.size < LOT_BYTES:
            if lot.names and lot.names + len(self._waiting[0].writes) > most:
                break
            waiting = self._waiting.popleft()
            if waiting.outcome.done():  # its writer has gone
                continue
            try:
                taken.append((waiting, lot.transact(waiting.checks, waiting.writes)))
            except ChecksFailed as failed:
                taken.append((waiting, failed))
        return taken

    async def _write(self, lot: Lot) -> None:
        stand, writes = Stand(self._ballot or Ballot(0, self._holder), True, lot.version), lot.writes
        left = {self._start(member.write(writes, stand)) for member in self.members if member.is_joined}
        written = 0
        while written < self._terms.to_write:
            if written + len(left) < self._terms.to_write:
                raise StoreAway(self._lacking())
            done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            written += sum(not task.cancelled() and task.exception() is None for task in done)

    def _tell(self, change: Changed) -> None:
        if len(self.untold) >= MAX_UNTOLD:
            raise StoreAway("it was told of faster than that could be taken in")
        self.untold.append(change)
        self.told.set()

    # ---- the end

    async def leave(self) -> None:
        """Let another server have the mirror at once; nobody waits any more."""
        for waiting in self._waiting:
            waiting.ends(StoreAway("the mirror was closed"))
        self._waiting.clear()
        try:
            await self._let_go()
        finally:
            self.begun.cancel()
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)

    async def _let_go(self) -> None:
        if self.begun.done() and not self.begun.cancelled():
            stand = self._stand(self.state)._replace(is_held=False)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEAVE_S):
                    free = (it.write({}, stand) for it in self.members if it.is_joined and it.has_arrived)
                    await asyncio.gather(*free, return_exceptions=True)
