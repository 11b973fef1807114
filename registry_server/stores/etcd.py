"""The store that keeps its records in an etcd cluster, over etcd's own gRPC API (version 3).

`etcd_wire` knows what the keys, transactions and watch responses mean, `etcd_link` one connection. Here is what makes a
store of them: which endpoint is in use, where the telling goes on after an outage, and when the cluster counts as away.
docs/etcd.md describes the layout of the keys and what happens in each kind of failure.
"""

import asyncio
import contextlib
import logging
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

from aetcd.rpc import rpc_pb2

from registry_server.stores.base import (
    Away,
    Back,
    Commit,
    Conflict,
    Emit,
    Lease,
    NoSuchLease,
    Outcome,
    Renewal,
    Snapshot,
    Store,
    StoreAway,
    StoreEvent,
)
from registry_server.stores.etcd_link import (
    LOAD_S,
    BadCredentials,
    Link,
    LinkLost,
    Renewals,
    Watch,
    together,
)
from registry_server.stores.etcd_url import EtcdURL
from registry_server.stores.etcd_wire import (
    Epoch,
    EpochChanged,
    Layout,
    Told,
    conflicts,
    epoch_of,
    lease_name,
    lease_number,
    snapshot,
    whole_seconds,
)

HOLD_S = 1.5  # how long a renewal may take
BACKOFF_S = 0.05
BACKOFF_MAX_S = 1.0
STEADY_S = 5.0  # a link that lived this long was a good one
PAGE = 5_000
MAX_REMEMBERED = 200_000

_log = logging.getLogger(__name__)


class EtcdStore(Store):
    """Records in etcd, each attached to a lease of etcd's own."""

    def __init__(
        self, url: EtcdURL, rng: random.Random | None = None, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._url = url
        self._wall_clock = wall_clock
        self._layout = Layout.below(url.prefix)
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, hides nothing
        self._endpoints = self._rng.sample(url.endpoints, len(url.endpoints))
        self._session: _Session | None = None
        self._ttls_s: dict[int, float] = {}

    @classmethod
    def from_url(cls, url: str) -> "EtcdStore":
        """The store for `etcd://…`. Raises BadStoreURL."""
        return cls(EtcdURL.parse(url))

    @property
    def endpoint(self) -> str | None:
        """The endpoint in use, `host:port`; None while the cluster is away."""
        return self._session.link.endpoint if self._session else None

    # ---- events

    async def run(self, emit: Emit) -> None:
        """See Store. Raises BadCredentials when etcd refuses them before the first Snapshot."""
        teller = _Teller(emit)
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            started = loop.time()
            await self._serve(self._endpoints[0], teller)
            failures = 0 if loop.time() - started > STEADY_S else failures + 1
            self._endpoints.append(self._endpoints.pop(0))
            await asyncio.sleep(self._pause(failures))

    def _pause(self, failures: int) -> float:
        """Seconds: none until every endpoint was tried once, then exponentially more, with full jitter."""
        rounds = failures // len(self._endpoints)
        if rounds == 0:
            return 0.0
        return self._rng.uniform(0, min(BACKOFF_MAX_S, BACKOFF_S * 2.0 ** min(rounds, 10)))

    async def _serve(self, endpoint: str, teller: "_Teller") -> None:
        """Tell what happens, and take writes, through one endpoint until that fails."""
        try:
            async with _session(endpoint, self._url, self._layout, self._wall_clock) as session:
                await session.start(teller)
                self._session = session
                await session.run(teller)
        except EpochChanged:
            teller.forget()
        except LinkLost as lost:
            teller.away(str(lost))
        except OSError as unreadable:
            teller.away(f"credentials: {unreadable}")
        except BadCredentials as refused:
            if not teller.has_started:
                raise
            teller.away(str(refused))
        finally:
            self._session = None

    async def aclose(self) -> None:
        """See Store. What is connected belongs to `run`, which lets go of it when it is cancelled."""
        self._session = None

    # ---- writes

    async def grant(self, ttl_s: float) -> Lease:
        """See Store. etcd counts in whole seconds and has a minimum of its own."""
        session = self._live()
        request = rpc_pb2.LeaseGrantRequest(TTL=whole_seconds(ttl_s))
        granted = await session.write(session.link.leases.LeaseGrant, request)
        self._remember(granted.ID, granted.TTL)
        return Lease(lease_name(granted.ID), float(granted.TTL))

    async def release(self, lease_id: str) -> None:
        """See Store. Looking and revoking are two steps: etcd has no "revoke if empty"."""
        session, number = self._live(), lease_number(lease_id)
        if number is None:
            return
        with contextlib.suppress(NoSuchLease):
            request = rpc_pb2.LeaseTimeToLiveRequest(ID=number, keys=True)
            found = await session.write(session.link.leases.LeaseTimeToLive, request)
            if found.TTL >= 0 and not found.keys:
                await session.write(session.link.leases.LeaseRevoke, rpc_pb2.LeaseRevokeRequest(ID=number))
                self._ttls_s.pop(number, None)

    async def commit(self, commit: Commit) -> int:
        """See Store. One transaction of etcd. Raises Refused when it is larger than etcd takes."""
        session = self._live()
        if not commit.changes:
            # A Range asks the leader how far it is; a Txn without one does not.
            question = rpc_pb2.RangeRequest(key=self._layout.epoch, count_only=True)
            return int((await session.write(session.link.kv.Range, question)).header.revision)
        for put in commit.puts:
            if lease_number(put.lease_id) is None:
                raise NoSuchLease(put.lease_id)
        response = await session.write(session.link.kv.Txn, self._layout.txn(commit))
        if not response.succeeded:
            raise Conflict(conflicts(commit, response))
        return int(response.header.revision)

    def _live(self) -> "_Session":
        if self._session is None:
            raise StoreAway("etcd cannot be reached")
        return self._session

    # ---- renewals

    async def keep_alive(self, lease_ids: Sequence[str]) -> list[Renewal]:
        """See Store. All questions are on the wire before the first answer is waited for."""
        numbers = [lease_number(lease_id) for lease_id in lease_ids]
        answers = await self._renew({number for number in numbers if number is not None})
        return [
            Renewal(lease_id, Outcome.UNKNOWN, None) if number is None else self._renewal(number, answers.get(number))
            for lease_id, number in zip(lease_ids, numbers, strict=True)
        ]

    async def _renew(self, numbers: Iterable[int]) -> dict[int, int | None]:
        session = self._session
        asked = {number: session.renewals.ask(number) for number in numbers} if session else {}
        if session is None or not asked:
            return {}
        try:
            done, late = await asyncio.wait(asked.values(), timeout=HOLD_S)
        finally:
            for answer in asked.values():
                answer.cancel()
        if late:
            session.suspect()
        return {number: answer.result() for number, answer in asked.items() if answer in done}

    def _renewal(self, number: int, ttl_s: int | None) -> Renewal:
        name = lease_name(number)
        if ttl_s is None:
            return Renewal(name, Outcome.HELD, self._ttls_s.get(number))
        if ttl_s <= 0:
            self._ttls_s.pop(number, None)
            return Renewal(name, Outcome.UNKNOWN, None)
        self._remember(number, ttl_s)
        return Renewal(name, Outcome.RENEWED, float(ttl_s))

    def _remember(self, number: int, ttl_s: float) -> None:
        self._ttls_s.pop(number, None)
        self._ttls_s[number] = float(ttl_s)
        if len(self._ttls_s) > MAX_REMEMBERED:
            del self._ttls_s[next(iter(self._ttls_s))]  # the one not renewed for longest


@contextlib.asynccontextmanager
async def _session(
    endpoint: str, url: EtcdURL, layout: Layout, wall_clock: Callable[[], float]
) -> AsyncIterator["_Session"]:
    link = Link(endpoint, url)
    try:
        async with Watch(link) as watch:
            yield _Session(link, watch, layout, wall_clock)
    finally:
        await link.aclose()


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class _Teller:
    """What has been told so far, by whichever link, so that each Away comes once and nothing is told twice."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._is_away = False
        self.has_started = False
        self.told: Told | None = None
        # At least what any epoch told so far may have given out, see Snapshot.fence.
        self.given_out = 0

    def start(self, opening: Snapshot | Back, told: Told) -> None:
        """A link is up: the full set, or the sign that the telling goes on."""
        if isinstance(opening, Snapshot) or self._is_away:
            self._emit(opening)
        self._is_away, self.has_started = False, True
        self._has_told(told)

    def tell(self, events: Iterable[StoreEvent], told: Told) -> None:
        """Events that lead up to `told`."""
        for event in events:
            self._emit(event)
        self._has_told(told)

    def _has_told(self, told: Told) -> None:
        self.told, self.given_out = told, max(self.given_out, told.fence + told.revision)

    def forget(self) -> None:
        """What was told leads nowhere; the next link starts with the full set."""
        self.told = None

    def away(self, reason: str) -> None:
        """The link is lost. Before the first Snapshot there is nobody to tell but the log."""
        if self._is_away:
            return
        _log.warning("etcd is away: %s", reason)
        if self.has_started:
            self._is_away = True
            self._emit(Away(reason))


class _Session:
    """A link in use: where the telling starts, the watch that continues it, the renewals, and the writes."""

    def __init__(self, link: Link, watch: Watch, layout: Layout, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self.link = link
        self.renewals = Renewals(link)
        self._watch = watch
        self._layout = layout

    async def start(self, teller: _Teller) -> None:
        """Log in, find out what was missed, open the watch, and only then tell."""
        await self.link.login()
        opening, told = await self._opening(teller)
        await self._watch.open(self._layout, told)
        teller.start(opening, told)

    async def run(self, teller: _Teller) -> None:
        """Tell what the watch says until the link fails, with the error that says how."""
        await together(self.renewals.run(), self._watch.prove_alive(), self._watch.follow(teller.tell))

    async def write(self, method: Any, request: Any) -> Any:
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

    def suspect(self) -> None:
        """Something did not answer."""
        self._watch.suspect()

    # ---- where the telling starts

    async def _opening(self, teller: _Teller) -> tuple[Snapshot | Back, Told]:
        """Back when the telling can go on just after what was told, else the full set.

        A watch from a revision that the cluster has not reached would wait in silence, so a cluster that has gone
        backwards (restored from a backup) gets a new epoch.
        """
        told, epoch = teller.told, await self._epoch()
        if not epoch.name:
            await self._new_epoch(epoch, teller.given_out)
        elif told is not None and told.epoch == epoch.name:
            if epoch.cluster_revision < told.revision:
                await self._new_epoch(epoch, teller.given_out)
            elif await self._remembers(told.revision):
                return Back(), told
        full = await self._load()
        return full, Told(full.epoch, full.revision, full.fence)

    async def _epoch(self) -> Epoch:
        return epoch_of(await self.link.ask(self.link.kv.Range, rpc_pb2.RangeRequest(key=self._layout.epoch)))

    async def _new_epoch(self, seen: Epoch, given_out: int) -> None:
        """Begin an epoch in place of the one seen, unless another server did so meanwhile.

        Its fence is above all that the epochs known here may have given out, also when the wall clock was set back.
        """
        fence = max(int(self._wall_clock() * 1e6), seen.fence + seen.cluster_revision + 1, given_out + 1)
        request = self._layout.create_epoch(secrets.token_hex(8), fence, seen.key_revision)
        await self.link.ask(self.link.kv.Txn, request)

    async def _remembers(self, revision: int) -> bool:
        request = rpc_pb2.RangeRequest(key=self._layout.epoch, revision=revision, count_only=True)
        try:
            await self.link.ask(self.link.kv.Range, request)
        except EpochChanged:
            return False
        return True

    async def _load(self) -> Snapshot:
        """Everything as of one revision, page by page."""
        kvs: list[Any] = []
        start, revision = self._layout.root, 0
        while True:
            page = await self.link.ask(self.link.kv.Range, self._layout.page(start, PAGE, revision), LOAD_S)
            revision = revision or page.header.revision
            kvs.extend(page.kvs)
            if not page.more:
                return snapshot(self._layout, page.header.cluster_id, revision, kvs)
            start = page.kvs[-1].key + b"\0"
