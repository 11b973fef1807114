"""SHELL: carries writes out: asks the rules, commits to the store, and waits until the view shows it."""

import asyncio
import contextlib
import logging
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.errors import Contended, InvalidField, LimitExceeded, NotFound, OwnershipLost, Unavailable
from registry_server.feed import Feed
from registry_server.homes import NOWHERE, Homes
from registry_server.limits.quotas import NO_QUOTAS, Quotas
from registry_server.limits.room import Room
from registry_server.model import Entry
from registry_server.rarely import Rarely
from registry_server.records import UNSAID, Author, Cause, Commit, Delete, Key, Lease, Outcome, Put, Record, Renewal
from registry_server.rules import Leaving, Plan, Rival, Rules, shown
from registry_server.stores.base import Conflict, NoSuchLease, Refused, Store, StoreAway, StoreError, StoreFull
from registry_server.turns import Name, Turns
from registry_server.writer import NOBODY, Claimant, Left, Registered, Updated

log = logging.getLogger(__name__)

# How often a write is tried when other servers change the same instance at the same time: each loses half of the time
# to one other, and three times of four to three others.
ATTEMPTS = 50
# Writers that collide again draw apart by a random pause, which grows by so much with every attempt up to a limit.
PAUSE_S = 0.001
MAX_PAUSE_S = 0.01
# How many instances one write changes at the most. Stores have limits: etcd takes 128 operations in a transaction.
MAX_KEYS = 100
# How long to wait for the view to catch up: with a conflict, and with a write that was done.
CATCH_UP_S = 1.0
RETRY_AFTER_S = 1.0
# A lease is held for this part of its time to live, and then refused. Where that is not known it is the least there is.
HOLD_PART = 3
# Of so many leases it is remembered since when they are held.
MAX_HELD = 100_000
LEAST_TTL_S = 2.0
# Of so many that were thrown out in a minute the log says by whom: two that fight would fill it.
MOST_LOSSES = 100


class Written(NamedTuple):
    """What a write did: its revision, the instances as they are now, those that leave, and those whose owners lost an
    id or an address."""

    revision: int
    entries: tuple[Entry, ...]
    leaving: tuple[Key, ...] = ()
    losers: tuple[Entry, ...] = ()


class Registrar:
    """The Writer that writes to a store. `now` is wall-clock time in seconds, for people to read."""

    def __init__(
        self,
        store: Store,
        feed: Feed,
        now: Callable[[], float],
        rng: random.Random,
        quotas: Quotas = NO_QUOTAS,
        homes: Homes = NOWHERE,
    ) -> None:
        self._store = store
        self._room = Room(feed.catalog, quotas)
        self._feed = feed
        self._rng = rng
        self._held_since: OrderedDict[str, float] = OrderedDict()
        self._turns = Turns()
        self._homes = homes
        self._now = now
        self._rules = Rules(feed.catalog, feed.guard, now)
        say = partial(log.warning, "%s")
        self._losses, self._lacks = Rarely(say, MOST_LOSSES), Rarely(say, 1)

    async def register(self, wanted: pb.Instance, ttl_s: float, lease_id: str, by: Claimant = NOBODY) -> Registered:
        """See Writer, as for all of these."""
        self._room.check(wanted, lease_id)
        if wanted.generation:
            await self._check_given(wanted.generation)
        lease = await (self._existing(lease_id) if lease_id else self._granted(ttl_s))
        key = Key(wanted.namespace, wanted.service, wanted.id)
        address = (wanted.namespace, wanted.service, wanted.host, str(wanted.port))
        try:
            try:
                written = await self._write((key, address), lambda: self._rules.register(wanted, lease, by))
            except OwnershipLost:
                if not (rivals := await self._beaten(wanted, by)):
                    raise
                written = await self._write((key, address), lambda: self._rules.register(wanted, lease, by, rivals))
        except BaseException:
            if not lease_id:
                await self._release((lease.id,))
            raise
        for loser in written.losers:
            self._tell_of(loser, written.entries[0], by)
        return Registered(written.entries[0], written.revision, lease)

    async def _beaten(self, wanted: pb.Instance, by: Claimant) -> Sequence[Rival]:
        """Who has to give back what they have of a former owner's, as that is at its address and they are not; none if
        one of them may keep it."""
        rivals = self._rules.rivals(wanted)
        if not rivals or not await self._homes.is_at_home((wanted.host, wanted.port), by.peer):
            return ()
        for rival in rivals:
            if rival.may_stay and await self._homes.answers(rival.address):
                return ()
        return rivals

    async def deregister(self, key: Key, generation: int, drain_s: float, by: Claimant = NOBODY) -> Left:
        """See Writer."""
        if self._feed.catalog.get(key) is None:
            raise NotFound("instance", str(key))
        return await self._remove(Leaving((key,), generation=generation, by=by, author=by.author), drain_s)

    async def end_lease(self, lease_id: str, drain_s: float, author: Author = UNSAID) -> Left:
        """See Writer."""
        keys = self._feed.catalog.of_lease(lease_id)
        if not keys:
            raise NotFound.lease(lease_id)
        return await self._remove(Leaving(keys, lease_id, author=author), drain_s)

    async def _remove(self, who: Leaving, drain_s: float) -> Left:
        lease = await self._granted(drain_s) if drain_s > 0 else None
        until = self._now() + (lease.ttl_s if lease else 0.0)
        removed = revision = 0
        for start in range(0, len(who.keys), MAX_KEYS):
            if start:
                await asyncio.sleep(0)  # in between, everybody else has a turn
            some = who._replace(keys=who.keys[start : start + MAX_KEYS])
            written = await (self._drain(some, lease, until) if lease else self._leave(some))
            removed, revision = removed + len(written.leaving), written.revision
        return Left(removed, revision)

    async def _leave(self, who: Leaving) -> Written:
        written = await self._write(who.keys, lambda: self._rules.deregister(who))
        self._feed.let_go(written.leaving, Cause.DEREGISTERED, who.author)
        return written

    async def _drain(self, who: Leaving, lease: Lease, until: float) -> Written:
        try:
            return await self._write(who.keys, lambda: self._rules.drain(who, lease, until))
        except NotFound:  # of so many that the time to drain is over before it is the turn of these
            return await self._leave(who)
        except BaseException:
            await self._release((lease.id,))
            raise

    async def update(self, wanted: pb.Instance, paths: Sequence[str], by: Claimant = NOBODY) -> Updated:
        """See Writer."""
        key = Key(wanted.namespace, wanted.service, wanted.id)
        written = await self._write((key,), lambda: self._rules.update(wanted, paths, by))
        return Updated(written.entries[0], written.revision)

    async def found(self, key: Key, generation: int, results: Sequence[pb.CheckResult]) -> None:
        """Write what checks found of an instance, unless it has left or has another generation by now."""
        await self._write((key,), lambda: self._rules.found(key, generation, results))

    async def rule(self, wanted: Mapping[Key, Sequence[pb.HealthCheck]]) -> None:
        """Give instances the checks of their rules, all together, but for those that have left or have their own."""
        await self._write(tuple(wanted), lambda: self._rules.ruled(wanted))

    async def remove_sick(self, key: Key, generation: int) -> None:
        """Remove an instance whose checks failed for too long, unless it has another generation by now."""
        written = await self._write((key,), lambda: self._rules.remove_sick(key, generation))
        self._feed.let_go(written.leaving, Cause.UNHEALTHY)

    def instances_of(self, lease_id: str) -> int:
        """See Writer."""
        return self._feed.count_of_lease(lease_id)

    async def keep_alive(self, lease_ids: Sequence[str]) -> list[Renewal]:
        """See Writer.

        Raises Unavailable when one of them has been HELD for a third of its time to live: another replica may still
        reach the store, and will take it for dead.
        """
        asked_at = self._feed.now()
        try:
            renewals = await self._store.keep_alive(lease_ids)
        except asyncio.CancelledError:
            self._feed.renewal_dropped(asked_at)
            raise
        for renewal in renewals:
            if renewal.outcome is Outcome.RENEWED and renewal.ttl_s:
                self._feed.guard.store_renewed(renewal.lease_id, asked_at + renewal.ttl_s)
        held = [renewal for renewal in renewals if renewal.outcome is Outcome.HELD]
        if held:
            self._feed.renewal_failed()
        if self._held_since:
            for renewal in renewals:
                if renewal.outcome is not Outcome.HELD:
                    self._held_since.pop(renewal.lease_id, None)
        for renewal in held:
            self._hold(renewal, asked_at)
        return renewals

    def _hold(self, renewal: Renewal, asked_at: float) -> None:
        since = self._held_since.setdefault(renewal.lease_id, asked_at)
        if len(self._held_since) > MAX_HELD:
            self._held_since.popitem(last=False)
        ttl_s, held_for_s = renewal.ttl_s or LEAST_TTL_S, self._feed.now() - since
        if held_for_s >= ttl_s / HOLD_PART:
            pause_s = min(RETRY_AFTER_S, ttl_s / HOLD_PART / 2)
            raise Unavailable(f"the store could not renew for {held_for_s:.1f} s: renew on another replica", pause_s)

    # ---- settings

    async def set(self, key: Key, value: bytes) -> int:
        """See SettingWriter, as for all of these."""
        return await self._write_setting(key, lambda revision: Commit((Put(key, value, "", revision),)))

    async def set_if(self, key: Key, value: bytes, revision: int) -> int:
        """See SettingWriter."""
        try:
            reached = await self._commit(Commit((Put(key, value, "", revision),)))
        except Conflict as conflict:
            await self._feed.reach(conflict.revision, CATCH_UP_S)
            raise Contended(str(key)) from None
        await self._feed.reach(reached, CATCH_UP_S)
        return reached

    async def unset(self, key: Key) -> int:
        """See SettingWriter."""

        def commit(revision: int) -> Commit:
            if not revision:
                raise NotFound("setting", str(key))
            return Commit(deletes=(Delete(key, revision),))

        return await self._write_setting(key, commit)

    async def _write_setting(self, key: Key, commit: Callable[[int], Commit]) -> int:
        """`commit` is asked what to write over a setting of that revision, 0 for none."""
        for attempt in range(ATTEMPTS):
            known = self._feed.catalog.settings.get(key)
            seen = self._feed.catalog.revision
            try:
                revision = await self._commit(commit(known.revision if known is not None else 0))
            except Conflict as conflict:
                await self._catch_up(conflict, seen, attempt)
                continue
            await self._feed.reach(revision, CATCH_UP_S)
            return revision
        raise Contended(str(key))

    # ---- within

    async def _catch_up(self, conflict: Conflict, seen: int, attempt: int) -> None:
        await self._feed.reach(conflict.revision or seen + 1, CATCH_UP_S)
        await asyncio.sleep(self._rng.uniform(0, min(attempt * PAUSE_S, MAX_PAUSE_S)))

    async def _check_given(self, generation: int) -> None:
        """A generation that was never given out is nobody's. One that another replica has just given may be news."""
        catalog = self._feed.catalog
        if generation <= catalog.fence + catalog.revision:
            return
        reached = await self._commit(Commit())
        if generation > catalog.fence + reached:
            raise InvalidField("instance.generation", "was never given out by this registry; a new owner gives none")
        if not await self._feed.reach(generation - catalog.fence, CATCH_UP_S):
            raise Unavailable("the view lags behind the generation; try again", RETRY_AFTER_S)

    async def _write(self, names: Sequence[Name], plan: Callable[[], Plan]) -> Written:
        async with self._turns.of(names):
            for attempt in range(ATTEMPTS):
                seen = self._feed.catalog.revision
                try:
                    return await self._carry_out(plan())
                except Conflict as conflict:
                    await self._catch_up(conflict, seen, attempt)
        first = "/".join(names[0][:3])
        raise Contended(first if len(names) <= 2 else f"{len(names)} instances, {first} the first")

    async def _carry_out(self, plan: Plan) -> Written:
        """Raises Conflict if the store has moved on."""
        catalog = self._feed.catalog
        catalog.drafts.add(plan.drafts)
        try:
            revision = await self._commit(plan.commit) if plan.commit.changes else catalog.revision
            if catalog.revision < revision:
                await self._feed.reach(revision, CATCH_UP_S)
        finally:
            catalog.drafts.drop(plan.drafts)
        if plan.bereft:
            await self._release(plan.bereft)
        entries = tuple([self._entry(put, revision) for put in plan.commit.puts])
        return Written(revision, entries, plan.leaving, plan.losers)

    async def _commit(self, commit: Commit) -> int:
        try:
            return await self._store.commit(commit)
        except NoSuchLease:
            raise NotFound.lease(commit.puts[0].lease_id) from None
        except Refused as error:
            raise LimitExceeded("store", str(error)) from None
        except StoreAway as away:
            raise self._unavailable(away) from None

    def _entry(self, put: Put, revision: int) -> Entry:
        entry = self._feed.catalog.get(put.key)
        if entry is not None and entry.revision == revision:
            return entry
        created = revision if put.expect == 0 else entry.parse().create_revision if entry else revision
        return Entry.of(Record(put.key, put.value, put.lease_id, revision, created), self._feed.catalog.fence)

    async def _granted(self, ttl_s: float) -> Lease:
        try:
            return await self._store.grant(ttl_s)
        except StoreAway as away:
            raise self._unavailable(away) from None

    async def _existing(self, lease_id: str) -> Lease:
        [renewal] = await self.keep_alive([lease_id])
        if renewal.outcome is Outcome.HELD:
            raise self._unavailable()
        if renewal.ttl_s is None:
            raise NotFound.lease(lease_id)
        return Lease(lease_id, renewal.ttl_s)

    async def _release(self, lease_ids: Iterable[str]) -> None:
        """End the leases that hold nothing any more. If that fails they end by themselves."""
        empty = [lease_id for lease_id in lease_ids if not self._feed.catalog.count_of_lease(lease_id)]
        for lease_id in empty:
            with contextlib.suppress(StoreError):
                await self._store.release(lease_id)

    def _tell_of(self, loser: Entry, winner: Entry, by: Claimant) -> None:
        """Say who took what from whom. A process that is back with its id and its address is nothing to talk about."""
        is_back = loser.address == winner.address and loser.key == winner.key
        if not log.isEnabledFor(logging.DEBUG if is_back else logging.WARNING):
            return
        taken = f"{loser.key} {shown(loser.owner)} was taken over by {winner.key} {shown(winner.owner)}"
        text = f"{taken}, who called from {by.peer or 'within'}"
        if is_back:
            log.debug("%s", text)
        else:
            self._losses.tell(text, self._feed.now())

    def _unavailable(self, away: StoreAway | None = None) -> Unavailable:
        if isinstance(away, StoreFull):
            self._lacks.tell(f"the store takes no writes: {away}", self._feed.now())
            return Unavailable("the store is full and takes no writes; all else goes on", RETRY_AFTER_S)
        return Unavailable("the store cannot be reached; reads and watches go on from the last view", RETRY_AFTER_S)
