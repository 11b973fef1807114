"""SHELL: a link in use: where the telling starts, the watch that continues it, the renewals, and the writes."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from registry_server.records import Back, Commit, Snapshot
from registry_server.stores.base import Conflict, StoreAway, StoreError
from registry_server.stores.epoch import Epoch, OrderLost
from registry_server.stores.etcd.api import UnaryMethod
from registry_server.stores.etcd.leases import LeaseIds
from registry_server.stores.etcd.link import LOAD_S, Link, LinkLost, together
from registry_server.stores.etcd.renewals import Renewals
from registry_server.stores.etcd.telling import Loading, Odd, Reading, Telling
from registry_server.stores.etcd.url import EtcdURL
from registry_server.stores.etcd.watch import Watch
from registry_server.stores.etcd.wire import (
    Found,
    Layout,
    Vouched,
    epoch_name,
    outcomes,
    read_secret,
    written_at,
)
from registry_server.stores.etcd.writes import Writes
from registry_server.stores.pace import Pace, hold_s, most_s
from registry_server.stores.teller import Teller, Told

Q = TypeVar("Q")
R = TypeVar("R")

# A page of a full set has so many keys at the most, and about so many bytes.
PAGE = 2_000
PAGE_BYTES = 4_000_000
# A server that starts is told what happened since the last view that was vouched for, unless that is so much.
MAX_REPLAY = 200_000
# How often a missing key of the registry's own is written and read again; others may be at it too.
ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Setup:
    """What every link of one store is made with."""

    url: EtcdURL
    layout: Layout
    pace: Pace
    odd: Odd
    wall_clock: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Start:
    """What a server finds first: the keys of the registry's own as of one revision, and the cluster's id."""

    epoch: Found
    secret: Found
    vouched: Found
    cluster_id: int
    revision: int


@dataclass(slots=True)
class EtcdTeller(Teller):
    """Knows the secret of the leases as well, the last one that was seen."""

    secret: bytes | None = None


@contextlib.asynccontextmanager
async def open_session(endpoint: str, setup: Setup, teller: EtcdTeller) -> AsyncIterator["LinkInUse"]:
    """A link to an endpoint, through which nothing has been asked yet. Raises OSError when a file cannot be read."""
    link = Link(endpoint, setup.url)
    try:
        async with Watch(link, setup.pace) as watch:
            yield LinkInUse(link, watch, setup, teller)
    finally:
        await link.aclose()


class LinkInUse:
    """What one link does for the store."""

    def __init__(self, link: Link, watch: Watch, setup: Setup, teller: EtcdTeller) -> None:
        self.link = link
        self.renewals = Renewals(link, self._renewal_answered)
        self._writes = Writes(self._send)
        self.leases: LeaseIds
        self._watch = watch
        self._setup = setup
        self._layout = setup.layout
        self._teller = teller
        self._telling: Telling
        self._vouched_revision = 0
        self._vouched_at = -1e9

    async def start(self) -> None:
        """Log in, find out what was missed, open the watch, and only then tell.

        Raises LinkLost, BadCredentials or OrderLost.
        """
        await self.link.login()
        found = await self._start()
        self._vouched_revision = found.vouched.revision
        reading = Reading(self._layout, self.leases, self._setup.pace, self._setup.odd)
        opening, told = await self._opening(found, reading)
        self._telling = Telling(reading, told, self._teller.secret or b"")
        await self._watch.open(self._telling)
        self._teller.start(opening, told)

    async def run(self) -> None:
        """Tell what the watch says until the link fails, with the error that says how."""
        await together(
            self.renewals.run(),
            self._writes.run(),
            self._watch.prove_alive(),
            self._watch.follow(self._note_silence, self._teller.tell),
        )

    # ---- writes

    async def write(self, method: UnaryMethod[Q, R], request: Q) -> R:
        """A request of a writer. Raises StoreError; then the watch has to prove that the link is alive."""
        try:
            return await self.link.write(method, request)
        except StoreAway:
            self._watch.suspect()
            raise
        except asyncio.CancelledError:
            # Closing the link cancels the calls that are under way on it, and looks like a cancelled writer.
            if _is_cancelled():
                raise
            raise StoreAway("the link to etcd was closed") from None

    async def commit(self, commit: Commit) -> int:
        """See Store.commit; for a commit that changes something."""
        return await self._writes.commit(commit)

    async def _send(self, commits: Sequence[Commit]) -> Sequence[int | Conflict]:
        return outcomes(commits, await self.write(self.link.api.txn, self._layout.txn(commits, self.leases)))

    async def renew(self, numbers: Sequence[int], ttl_s: float) -> dict[int, float]:
        """Renew leases, each named once, that live for `ttl_s` at least; what is answered in time is in the result."""
        answers = await self.renewals.desk.renew(numbers, hold_s(ttl_s), most_s(ttl_s))
        if len(answers) < len(numbers):
            self._watch.suspect()
        return answers

    async def vouch(self, period_s: float) -> None:
        """Write down that the view is whole up to what was told, unless somebody did within so many seconds."""
        told = self._telling.told
        if self._telling.vouched_at > self._vouched_revision:
            self._vouched_revision, self._vouched_at = self._telling.vouched_at, self._teller.clock()
        if self._teller.clock() - self._vouched_at < period_s:
            return
        vouched = Vouched(told.epoch.partition(".")[2], told.revision)
        answer = await self.write(
            self.link.api.txn, self._layout.replace(self._layout.vouched, vouched.value, self._vouched_revision)
        )
        self._vouched_revision, self._vouched_at = written_at(answer), self._teller.clock()

    # ---- silence

    def _renewal_answered(self, took_s: float) -> None:
        if took_s > self._setup.pace.ill_s:
            self._ill(took_s)

    def _note_silence(self) -> None:
        """Before anything is told: whether what it says may be the fault of a silence."""
        owed_s = self.renewals.desk.unanswered_s
        silence_s = max(self._watch.unanswered_s, owed_s if owed_s > self._setup.pace.ill_s else 0.0)
        if silence_s > 0:
            self._ill(silence_s)
            self.renewals.desk.forgive()

    def _ill(self, silence_s: float) -> None:
        self._teller.ill(f"{self.link.endpoint} did not answer for {silence_s:.1f} s", silence_s)

    # ---- what is there

    async def _start(self) -> Start:
        """What etcd has of the registry's own keys, written anew where they are missing, broken, or of another time."""
        of_old = None
        for _ in range(ATTEMPTS):
            found = await self._look()
            secret = read_secret(found.secret.value)
            if secret is None:
                await self._write_own(self._layout.secret, found.secret, self._new_secret())
            elif self._went_back(found) and of_old in (None, found.secret.value):
                of_old = found.secret.value
                await self._forget_leases(found)
            elif self._has_no_epoch(found):
                await self._write_own(self._layout.epoch, found.epoch, self._new_epoch(found))
            else:
                self._teller.secret, self.leases = secret, LeaseIds(secret)
                return found
        raise LinkLost(f"{self.link.endpoint}: the registry's own keys do not stay as they are written")

    async def _look(self) -> Start:
        """Ranges, and no transaction: an older etcd whose database is full refuses those that only read, too."""
        ask, look = self.link.ask, self.link.api.range
        epoch = await ask(look, self._layout.look(self._layout.epoch))
        cluster_id, revision = epoch.header.cluster_id, epoch.header.revision
        secret, vouched = await asyncio.gather(
            ask(look, self._layout.look(self._layout.secret, revision)),
            ask(look, self._layout.look(self._layout.vouched, revision)),
        )
        return Start(Found.of(epoch.kvs), Found.of(secret.kvs), Found.of(vouched.kvs), cluster_id, revision)

    async def _write_own(self, name: bytes, seen: Found, value: bytes) -> None:
        if seen.revision and seen.value:
            self._setup.odd(name, "was replaced, for it did not hold what it should")
        await self.link.ask(self.link.api.txn, self._layout.replace(name, value, seen.revision))

    def _new_secret(self) -> bytes:
        """The one that is known: so the leases that were granted under it stay the registry's own."""
        return (self._teller.secret or secrets.token_bytes(32)).hex().encode()

    def _went_back(self, found: Start) -> bool:
        epoch = Epoch.read(found.epoch.value)
        return epoch is not None and self._teller.is_ahead_of(epoch_name(epoch, found.cluster_id), found.revision)

    async def _forget_leases(self, found: Start) -> None:
        """Of an etcd that was set back. Its leases hold what left since, and lack what came: nobody's renewal tells. So
        all owners register anew, under new leases, and the old ones run out."""
        self._setup.odd(self._layout.secret, "was replaced, for etcd was set back: all owners register again")
        value = secrets.token_bytes(32).hex().encode()
        await self.link.ask(self.link.api.txn, self._layout.replace(self._layout.secret, value, found.secret.revision))

    def _has_no_epoch(self, found: Start) -> bool:
        epoch = Epoch.read(found.epoch.value)
        return self._teller.needs_epoch(epoch, epoch_name(epoch, found.cluster_id) if epoch else "", found.revision)

    def _new_epoch(self, found: Start) -> bytes:
        """An epoch whose fence is above all that the epochs known here may have given out."""
        seen = Epoch.read(found.epoch.value)
        known = max(self._teller.given_out, (seen.fence if seen else 0) + found.revision)
        return Epoch.after(known, secrets.token_hex(8), self._setup.wall_clock()).value

    # ---- where the telling starts

    async def _opening(self, found: Start, reading: Reading) -> tuple[list[Snapshot | Back], Told]:
        """Back when the telling can go on just after what was told, else full sets.

        The first of all is the one that somebody vouched for, if etcd remembers it: what ran out since is then told as
        it happened, with what the guard needs to hold it back.
        """
        told, epoch = self._teller.told, Epoch.read(found.epoch.value)
        if epoch is None:
            raise OrderLost
        goes_on = self._teller.goes_on(epoch_name(epoch, found.cluster_id))
        if told is not None and goes_on and await self._remembers(told.revision):
            return [Back()], told
        self._setup.pace.begin()
        sets = [] if self._teller.has_started else await self._vouched_for(found, epoch, reading)
        if not sets or found.revision - sets[0].revision > MAX_REPLAY:
            sets.append(await self._load(reading))
        last = sets[-1]
        return [*sets], Told(last.epoch, last.revision, last.fence)

    async def _remembers(self, revision: int) -> bool:
        try:
            await self.link.ask(self.link.api.range, self._layout.where(revision))
        except OrderLost:
            return False
        return True

    async def _vouched_for(self, found: Start, epoch: Epoch, reading: Reading) -> list[Snapshot]:
        """The full set that was vouched for, if there is one and it can be had."""
        vouched = Vouched.read(found.vouched.value)
        if vouched is None and found.vouched.value:
            self._setup.odd(self._layout.vouched, "holds nothing that was vouched for")
        if vouched is None or vouched.token != epoch.token:
            return []
        if not found.epoch.revision <= vouched.revision <= found.revision:
            return []
        try:
            through = await self._barrier(found)
            return [await self._load(reading, vouched.revision, through)]
        except OrderLost:
            return []

    async def _barrier(self, found: Start) -> int:
        """A revision after all that has happened so far, at which something is told: there the replay has come to an
        end. etcd's word about progress would not do: old versions give it too early."""
        if found.vouched.revision == found.revision:
            return found.revision
        request = self._layout.replace(self._layout.vouched, found.vouched.value, found.vouched.revision)
        try:
            return written_at(await self.link.write(self.link.api.txn, request))
        except StoreError:  # a database that is full: begin without
            return 0

    async def _load(self, reading: Reading, at: int = 0, through: int = 0) -> Snapshot:
        """Everything as of one revision, 0 for now, page by page."""
        loading, start, revision, limit = Loading(reading), self._layout.root, at, PAGE
        while True:
            request = self._layout.page(start, limit, revision)
            page = await self.link.ask(self.link.api.range, request, LOAD_S)
            revision = revision or page.header.revision
            loading.add(page.kvs)
            if not page.more or not page.kvs:
                return loading.snapshot(page.header.cluster_id, revision, max(through, revision))
            start = page.kvs[-1].key + b"\0"
            limit = max(1, min(PAGE, PAGE_BYTES * len(page.kvs) // max(1, page.ByteSize())))


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
