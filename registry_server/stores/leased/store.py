"""SHELL: the store that is made of a backend (stores/backend.py): telling, writes, renewals, and the ends of leases."""

import asyncio
import contextlib
import logging
import random
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from registry_server.illness import Pulse
from registry_server.records import Back, Commit, Delta, Lease, Outcome, Progress, Renewal, Snapshot, size
from registry_server.stores.backend import (
    ABSENT,
    PRESENT,
    Backend,
    Changed,
    Check,
    ChecksFailed,
    Everything,
)
from registry_server.stores.base import Conflict, Emit, NoSuchLease, Refused, Shelf, Store, StoreAway, StoreError
from registry_server.stores.epoch import Epoch, OrderLost
from registry_server.stores.leased import layout
from registry_server.stores.leased.silence import Silence
from registry_server.stores.leased.view import Ending, View
from registry_server.stores.names import path_of
from registry_server.stores.pace import Pace, hold_s, most_s
from registry_server.stores.renewals import Desk
from registry_server.stores.teller import Absent, Teller, Told
from registry_server.stores.together import together

# How often leases are looked at, in seconds.
TICK_S = 0.1
# How long the full set may take, and the answer to a write; then the backend is away.
LOAD_S = 30.0
ANSWER_S = 1.5
# The pause after renewals that could not be carried out.
AGAIN_S = 0.2
# So many names end in one transaction, at the most, and so many leases are renewed in one.
MOST = 200
BACKOFF_S, BACKOFF_MAX_S = 0.05, 1.0
# So many records are told of in one step.
TOLD_AT_ONCE = 200
ATTEMPTS = 5  # so often a new order is begun, or a release tried, without a pause
STEADY_S = 5.0  # a connection that lived this long was a good one

UNTOLD = "it refuses a write and does not say why"

_log = logging.getLogger(__name__)


class Leased(Store):
    """A store on any backend. Several of these on one backend are one registry, each of which ends what has run out."""

    def __init__(
        self,
        backend: Backend,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._wall_clock = wall_clock
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, hides nothing
        self._most = min(backend.most, MOST)
        self._pace = Pace()
        self._view = View(self._pace)
        self._silence = Silence()
        self._desk: Desk[str] | None = None  # there is one while the backend is reached
        self._teller = Teller(lambda event: None, clock)
        self._told_at = 0.0
        self._telling = asyncio.Event()
        self._unexpected = ""  # the last one: it is shown once, however often it is tried again
        # The latest revision that a write of this process got.
        self._written = 0

    # ---- events

    async def run(self, emit: Emit) -> None:
        """See Store. Raises what the backend raises that no retry can mend."""
        self._teller = Teller(emit, self._clock)
        absent, failures = Absent("what the store keeps its records in", self._clock), 0
        while True:
            began = self._clock()
            reason = await self._serve()
            failures = 0 if self._clock() - began > STEADY_S else failures + 1
            if reason and not self._teller.has_started:
                absent.tell(reason)
            elif reason:
                self._teller.away(reason)
            if reason or failures > ATTEMPTS:
                await asyncio.sleep(self._rng.uniform(0, min(BACKOFF_MAX_S, BACKOFF_S * 2.0 ** min(failures, 10))))

    async def _serve(self) -> str:
        """Tell what happens, and take writes, until that fails: why it did, or "" to begin anew at once."""
        try:
            async with contextlib.aclosing(self._backend.watch()) as changes:
                await self._open(await self._everything(changes), changes)
                self._desk = Desk(self._most)
                await together(
                    self._tell(changes), self._renew(self._desk), self._expire(), self._prove_alive(), least=StoreAway
                )
        except OrderLost:
            self._teller.forget()
            return ""
        except (StoreAway, OSError) as lost:
            return str(lost) or repr(lost)
        except StoreError as refused:
            if not self._teller.has_started:
                raise
            return str(refused)
        except Exception as unexpected:
            if repr(unexpected) != self._unexpected:
                _log.exception("what the store keeps its records in said what could not be taken in")
            self._unexpected = repr(unexpected)
            return self._unexpected
        finally:
            if self._desk is not None:
                self._desk.close()
                self._desk = None
        return "it ended the telling"

    async def _everything(self, changes: AsyncGenerator[Everything | Changed]) -> Everything:
        try:
            async with asyncio.timeout(LOAD_S):
                first = await anext(changes, None)
        except TimeoutError:
            raise StoreAway(f"no full set within {LOAD_S:g} s") from None
        if not isinstance(first, Everything):
            raise StoreAway("it told no full set")
        return first

    async def _open(self, everything: Everything, changes: AsyncGenerator[Everything | Changed]) -> None:
        """Tell where the telling begins, or goes on. Raises OrderLost to be called with what there is by then."""
        item = next((item for item in everything.items if item.name == layout.EPOCH), None)
        epoch = Epoch.read(item.value) if item else None
        if epoch is None or self._teller.needs_epoch(epoch, epoch.token, everything.revision):
            if epoch is not None and self._teller.is_ahead_of(epoch.token, everything.revision):
                await self._end_leases(everything)
            known = max(self._teller.given_out, (epoch.fence if epoch else 0) + everything.revision)
            new = Epoch.after(known, secrets.token_hex(8), self._wall_clock())
            with contextlib.suppress(ChecksFailed):  # another one was faster
                check = Check(layout.EPOCH, item.revision if item else ABSENT)
                await self._transact([check], {layout.EPOCH: new.value})
            raise OrderLost
        # That it can be written shows that it is there, and how far it is.
        reached = await self._transact([], {layout.BEAT: b""})
        now, told = self._clock(), self._teller.told
        if told is not None and self._teller.goes_on(epoch.token):
            self._view.leases.stood_still(now - self._told_at, now)
            self._teller.start([Back()], told)
            await self._take(self._view.difference(everything))
        else:
            self._begin(epoch, await _as_of(reached, everything, changes))
            self._written = reached  # what was written in another order means nothing in this one

    async def _end_leases(self, everything: Everything) -> None:
        """Of a backend that was set back. Its leases hold what left since, and lack what came: nobody's renewal tells.
        So all owners register anew, under new leases."""
        _log.warning("what the store keeps its records in was set back: all owners register again")
        names = [item.name for item in everything.items if layout.lease_at(item.name)]
        for start in range(0, len(names), self._most):
            await self._transact([], dict.fromkeys(names[start : start + self._most]))

    def _begin(self, epoch: Epoch, everything: Everything) -> None:
        """Every lease has its whole time from here on, so that nobody could renew before is no illness for anybody."""
        self._pace.begin()
        self._view, self._told_at = View(self._pace), self._clock()
        records = self._view.load(everything, self._told_at)
        snapshot = Snapshot(epoch.token, everything.revision, records, epoch.fence, everything.revision)
        self._teller.start([snapshot], Told(epoch.token, everything.revision, epoch.fence))

    async def _tell(self, changes: AsyncGenerator[Everything | Changed]) -> None:
        async for change in changes:
            if not isinstance(change, Changed):
                raise StoreAway("it told a full set in between")
            await self._take(change)
        raise StoreAway("it ended the telling")

    async def _take(self, change: Changed) -> None:
        now, told = self._clock(), self._teller.told
        if told is None or change.revision <= told.revision:
            return
        if (silence_s := self._silence.owed_s(now)) > self._pace.ill_s:
            self._ill(silence_s)
        self._told_at = now
        events = self._view.take(change, now)
        try:
            await self._tell_in_turns(events, told)
        except asyncio.CancelledError:  # what the view has is told, be it all at once
            self._teller.tell(events, replace(told, revision=change.revision))
            raise
        self._teller.tell((), replace(told, revision=change.revision))
        self._telling.set()
        self._telling = asyncio.Event()

    async def _tell_in_turns(self, events: Iterable[Delta | Progress], told: Told) -> None:
        """So many records at a time; in between, everybody else has a turn."""
        records = 0
        for event in events:
            self._teller.tell([event], replace(told, revision=event.revision))
            records += max(1, size(event))
            if records >= TOLD_AT_ONCE:
                records = 0
                await asyncio.sleep(0)

    async def is_told(self, revision: int, within_s: float) -> bool:
        """Wait until everything up to a revision was told, and say whether it was."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self._teller.told is None or self._teller.told.revision < revision:
                    await self._telling.wait()
                return True
        return False

    async def _prove_alive(self) -> None:
        """When nothing was told for a while, have something told. Raises StoreAway when that does not come about."""
        while True:
            await asyncio.sleep(self._pace.idle_s)
            if self._clock() - self._told_at < self._pace.idle_s:
                continue
            revision = await self._transact([], {layout.BEAT: b""})
            if not await self.is_told(revision, self._pace.patience_s):
                raise StoreAway(f"a write was not told of within {self._pace.patience_s:.1f} s")

    # ---- writes

    async def grant(self, ttl_s: float) -> Lease:
        """See Store. A lease is a value of its own, whose last change is its last renewal."""
        lease_id = layout.lease_id(ttl_s, secrets.token_hex(16))
        name = layout.lease_name(lease_id)
        try:
            await self._ask([], {name: b""})
        except asyncio.CancelledError:  # nobody waits for it, and it may be there all the same, now or in a moment
            with contextlib.suppress(StoreError):
                await self._ask([], {name: b""})  # after this it is there for certain
                await self.release(lease_id)
            raise
        return Lease(lease_id, layout.ttl_of(lease_id) or ttl_s)

    async def release(self, lease_id: str) -> None:
        """See Store. What holds nothing is seen in the view, once it has all that this process wrote."""
        if layout.ttl_of(lease_id) is None:
            return
        self._reached()
        if not await self.is_told(self._written, ANSWER_S):
            raise StoreAway("what was written has not been told of")
        for _ in range(ATTEMPTS):
            leases = self._view.leases
            if lease_id not in leases or leases.keys(lease_id):
                return
            try:
                await self._ask([self._view.check(lease_id)], {layout.lease_name(lease_id): None})
            except ChecksFailed as failed:  # it was renewed meanwhile, which does not keep it
                if not await self.is_told(failed.revision, ANSWER_S):
                    return
            else:
                return

    async def commit(self, commit: Commit) -> int:
        """See Store. One transaction, which also checks that the leases live."""
        if not commit.changes:
            return await self._ask([], {layout.BEAT: b""})
        items = commit.items
        lease_ids = dict.fromkeys(put.lease_id for put in commit.puts if put.needs_lease)
        for lease_id in lease_ids:
            if layout.ttl_of(lease_id) is None:
                raise NoSuchLease(lease_id)
        keys = {path_of(item.key): item.key for item in items}
        checks = [Check(path_of(item.key), item.expect) for item in items]
        checks += [Check(layout.lease_name(lease_id), PRESENT) for lease_id in lease_ids]
        if len(checks) + 1 > self._backend.most:
            raise Refused(f"{len(items)} records in one write, which are more than this store takes")
        try:
            return await self._ask(checks, self._writes(commit))
        except ChecksFailed as failed:
            differ = [key for name, key in keys.items() if name in failed.names]
            if differ:
                raise Conflict(differ, failed.revision) from None
            for lease_id in lease_ids:
                if layout.lease_name(lease_id) in failed.names:
                    raise NoSuchLease(lease_id) from None
            raise StoreAway(UNTOLD) from None

    def _writes(self, commit: Commit) -> dict[str, bytes | None]:
        gone = [path_of(delete.key) for delete in commit.deletes if delete.expect]
        writes: dict[str, bytes | None] = dict.fromkeys(gone)
        if gone:
            writes[layout.LEFT] = layout.left(commit, gone)
        return writes | {path_of(put.key): layout.packed(put.lease_id, put.value) for put in commit.puts}

    @property
    def shelf(self) -> Shelf | None:
        """See Store: whatever the backend has, if it has any."""
        found: Shelf | None = getattr(self._backend, "shelf", None)
        return found

    async def aclose(self) -> None:
        """See Store."""
        await self._backend.aclose()

    async def _ask(self, checks: Sequence[Check], writes: Mapping[str, bytes | None]) -> int:
        """A transaction of somebody who writes. Raises ChecksFailed, Refused or StoreAway."""
        self._reached()
        try:
            return await self._transact(checks, writes)
        except (ChecksFailed, Refused, StoreAway):
            raise
        except StoreError as denied:  # a token or a user who may not any more; others find out when it begins anew
            raise StoreAway(str(denied)) from None

    def _reached(self) -> None:
        if self._desk is None:
            raise StoreAway("the store cannot be reached")

    async def _transact(self, checks: Sequence[Check], writes: Mapping[str, bytes | None]) -> int:
        number = self._silence.asked(self._clock())
        try:
            async with asyncio.timeout(ANSWER_S):
                revision = await self._backend.transact(checks, writes)
        except (ChecksFailed, Refused):
            self._heard(number)
            raise
        except BaseException as lost:
            self._silence.failed(number)
            if isinstance(lost, OSError):  # a TimeoutError is one
                raise StoreAway(str(lost) or "no answer in time") from None
            raise
        self._heard(number)
        self._written = max(self._written, revision)
        return revision

    def _heard(self, number: int) -> None:
        now = self._clock()
        silence_s = self._silence.answered(number, now)
        if silence_s > self._pace.ill_s:
            self._view.leases.stood_still(silence_s, now)
            self._ill(silence_s)

    def _ill(self, silence_s: float) -> None:
        self._teller.ill(f"what the store keeps its records in did not answer for {silence_s:.1f} s", silence_s)

    # ---- renewals

    async def keep_alive(self, lease_ids: Sequence[str]) -> list[Renewal]:
        """See Store."""
        ttls = {lease_id: ttl_s for lease_id in lease_ids if (ttl_s := layout.ttl_of(lease_id)) is not None}
        answers: dict[str, float] = {}
        if ttls and self._desk is not None:
            shortest_s = min(ttls.values())
            answers = await self._desk.renew(list(ttls), hold_s(shortest_s), most_s(shortest_s))
        return [self._renewal(lease_id, ttls.get(lease_id), answers.get(lease_id)) for lease_id in lease_ids]

    def _renewal(self, lease_id: str, ttl_s: float | None, answer: float | None) -> Renewal:
        if answer:
            return Renewal(lease_id, Outcome.RENEWED, ttl_s)
        if ttl_s is None or answer is not None:
            return Renewal(lease_id, Outcome.UNKNOWN, None)
        return Renewal(lease_id, Outcome.HELD, ttl_s if lease_id in self._view.leases else None)

    async def _renew(self, desk: Desk[str]) -> None:
        """Carry out what is asked for at the desk: all that has come together meanwhile in one transaction."""
        while True:
            await desk.may_ask.wait()
            desk.may_ask.clear()
            while batch := list(iter(desk.next, None)):
                try:
                    await self._renew_all(desk, batch)
                except StoreAway:
                    await asyncio.sleep(AGAIN_S)
                    desk.again()

    async def _renew_all(self, desk: Desk[str], lease_ids: Sequence[str]) -> None:
        left = {layout.lease_name(lease_id): lease_id for lease_id in lease_ids}
        while left:
            try:
                await self._transact([Check(name, PRESENT) for name in left], dict.fromkeys(left, b""))
            except ChecksFailed as failed:
                gone = failed.names & left.keys()
                if not gone:
                    raise StoreAway(UNTOLD) from None
                for name in gone:
                    desk.answer(left.pop(name), 0.0)
            else:
                for lease_id in left.values():
                    desk.answer(lease_id, layout.ttl_of(lease_id) or 0.0)
                return

    # ---- the ends of leases

    async def _expire(self) -> None:
        while True:
            pulse = Pulse(self._clock(), TICK_S)  # anew: a backend that takes its time is no standstill of this process
            await asyncio.sleep(TICK_S)
            await self.tick(pulse.beat(self._clock()))

    async def tick(self, stood_still_s: float = 0.0) -> None:
        """End leases whose time has passed. Time in which this process stood still, and could not pass on a renewal,
        does not count; while the backend is silent, nothing ends."""
        now = self._clock()
        if stood_still_s:
            self._view.leases.stood_still(stood_still_s, now)
        again: list[Ending] = []
        view, wanted = self._view, self._desk if self._desk is not None else ()
        while not self._silence.is_doubtful(now, self._pace.ill_s):
            if not (endings := view.endings(now, self._most, wanted)):
                break
            again += await self._end(endings)
        for ending in again:
            view.put_back(ending)

    async def _end(self, endings: Sequence[Ending]) -> list[Ending]:
        """End all of it in one transaction; those that did not end."""
        checks = [check for ending in endings for check in ending.checks]
        try:
            await self._transact(checks, {check.name: None for check in checks})
        except ChecksFailed as failed:
            # A renewal came first, or another replica ended it.
            lost = [ending for ending in endings if any(check.name in failed.names for check in ending.checks)]
            rest = [ending for ending in endings if ending not in lost]
            return [*lost, *(await self._end(rest) if lost and rest else rest)]
        except (StoreAway, Refused):
            return list(endings)
        return []


async def _as_of(revision: int, everything: Everything, changes: AsyncGenerator[Everything | Changed]) -> Everything:
    """All that there is when what is told has come so far. Raises StoreAway when it does not, and OrderLost."""
    items, told = {item.name: item for item in everything.items}, everything.revision
    try:
        async with asyncio.timeout(ANSWER_S):
            while told < revision:
                change = await anext(changes, None)
                if not isinstance(change, Changed):
                    raise StoreAway("it told no change that was written")
                items.update({item.name: item for item in change.puts})
                for name in change.deletes:
                    items.pop(name, None)
                told = change.revision
                if layout.EPOCH in change.deletes or any(item.name == layout.EPOCH for item in change.puts):
                    raise OrderLost
    except TimeoutError:
        raise StoreAway(f"a write was not told of within {ANSWER_S:g} s") from None
    return Everything(told, tuple(items.values()))
