"""SHELL: the store that keeps its records in an etcd cluster, over etcd's own gRPC API (version 3).

Its rooms: `wire`, `telling` and `leases` know what keys, watch responses and lease numbers mean, `link` is one
connection, `session` one connection in use. Here is what makes a store of them: which endpoint is in use, and when the
cluster counts as away. docs/etcd.md describes the layout of the keys and what happens in each kind of failure.
"""

import asyncio
import contextlib
import logging
import random
import secrets
import time
from collections.abc import Callable, Sequence

from registry_api.registry.etcd.v3 import etcd_pb2 as etcd
from registry_server.records import Commit, Lease, Outcome, Renewal
from registry_server.stores.base import Emit, NoSuchLease, Store, StoreAway, StoreError
from registry_server.stores.epoch import OrderLost
from registry_server.stores.etcd.leases import LeaseIds, ttl_of
from registry_server.stores.etcd.link import BadCredentials, LeaseTaken, LinkLost, lack_of_http2
from registry_server.stores.etcd.session import EtcdTeller, LinkInUse, Setup, open_session
from registry_server.stores.etcd.url import EtcdURL
from registry_server.stores.etcd.wire import Layout, whole_seconds
from registry_server.stores.pace import Pace
from registry_server.stores.teller import Absent

BACKOFF_S = 0.05
BACKOFF_MAX_S = 1.0
STEADY_S = 5.0  # a link that lived this long was a good one
VOUCH_S = 1.9  # a view that anybody vouched for so lately need not be vouched for again
MAX_FOREIGN = 1_000
# Lease numbers are random, so two that are alike are a rare accident.
NUMBERS = 5
# So many ids are looked at in one step.
STEP = 1_000

_log = logging.getLogger(__name__)


class EtcdStore(Store):
    """Records in etcd, each attached to a lease of etcd's own."""

    def __init__(
        self, url: EtcdURL, rng: random.Random | None = None, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._foreign = _Foreign()
        self._pace = Pace()
        self._setup = Setup(url, Layout.below(url.prefix), self._pace, self._foreign.skip, wall_clock)
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, hides nothing
        self._endpoints = self._rng.sample(url.endpoints, len(url.endpoints))
        self._session: LinkInUse | None = None
        self._leases: LeaseIds | None = None

    @classmethod
    def from_url(cls, url: str) -> "EtcdStore":
        """The store for `etcd://…`. Raises BadStoreURL."""
        return cls(EtcdURL.parse(url))

    @property
    def endpoint(self) -> str | None:
        """The endpoint in use, `host:port`; None while the cluster is away."""
        return self._session.link.endpoint if self._session else None

    @property
    def skipped(self) -> int:
        """How often a key below the prefix was skipped: somebody else's, or one that holds what it should not."""
        return self._foreign.count

    # ---- events

    async def run(self, emit: Emit) -> None:
        """See Store. Raises BadCredentials when etcd refuses them before the first Snapshot."""
        loop = asyncio.get_running_loop()
        if lack := lack_of_http2(self._setup.url):
            _log.warning("calling etcd by grpcio, which costs more: the package ngh2 cannot be loaded: %s", lack)
        teller, absent = EtcdTeller(emit, loop.time), Absent("etcd", loop.time)
        failures = 0
        while True:
            began = loop.time()
            await self._serve(self._endpoints[0], teller, absent)
            failures = 0 if loop.time() - began > STEADY_S else failures + 1
            self._endpoints.append(self._endpoints.pop(0))
            await asyncio.sleep(self._pause(failures))

    def _pause(self, failures: int) -> float:
        """Seconds: none until every endpoint was tried once, then exponentially more, with full jitter."""
        rounds = failures // len(self._endpoints)
        if rounds == 0:
            return 0.0
        return self._rng.uniform(0, min(BACKOFF_MAX_S, BACKOFF_S * 2.0 ** min(rounds, 10)))

    async def _serve(self, endpoint: str, teller: EtcdTeller, absent: Absent) -> None:
        """Tell what happens, and take writes, through one endpoint until that fails."""
        reason = ""
        try:
            async with open_session(endpoint, self._setup, teller) as session:
                await session.start()
                self._session, self._leases = session, session.leases
                await session.run()
        except OrderLost:
            teller.forget()
        except LinkLost as lost:
            reason = str(lost)
        except OSError as unreadable:
            reason = f"credentials: {unreadable}"
        except BadCredentials as refused:
            if not teller.has_started:
                raise
            reason = str(refused)
        except Exception as unexpected:
            reason = f"{endpoint}: {unexpected!r}"
            _log.exception("what %s said could not be taken in", endpoint)
        finally:
            self._session = None
        if reason and not teller.has_started:
            absent.tell(reason)
        elif reason:
            teller.away(reason)

    async def aclose(self) -> None:
        """See Store. What is connected belongs to `run`, which lets go of it when it is cancelled."""
        self._session = None

    # ---- writes

    async def grant(self, ttl_s: float) -> Lease:
        """See Store. etcd counts in whole seconds and has a minimum of its own."""
        session, seconds = self._live(), whole_seconds(ttl_s)
        for _ in range(NUMBERS):
            number = session.leases.number(seconds, secrets.randbits(31))
            wanted = etcd.LeaseGrantRequest(ttl=seconds, id=number)
            try:
                granted = await session.write(session.link.api.grant, wanted)
            except LeaseTaken:
                continue
            except asyncio.CancelledError:
                with contextlib.suppress(StoreError):
                    await self._take_back(session, wanted)
                raise
            self._pace.uses(granted.ttl)
            return Lease(session.leases.id(number), float(granted.ttl))
        raise StoreAway("no lease number is free")

    async def _take_back(self, session: LinkInUse, wanted: etcd.LeaseGrantRequest) -> None:
        """End a lease that nobody waits for any more, and that may be granted all the same, now or in a moment: after
        another grant of that number it is there for certain."""
        with contextlib.suppress(LeaseTaken):
            await session.write(session.link.api.grant, wanted)
        await self.release(session.leases.id(wanted.id))

    async def release(self, lease_id: str) -> None:
        """See Store. Looking and revoking are two steps: etcd has no "revoke if empty"."""
        session = self._live()
        number = session.leases.find(lease_id)
        if number is None:
            return
        with contextlib.suppress(NoSuchLease):
            found = await session.write(session.link.api.look, etcd.LeaseTimeToLiveRequest(id=number, keys=True))
            if found.ttl >= 0 and not found.keys:
                await session.write(session.link.api.revoke, etcd.LeaseRevokeRequest(id=number))

    async def commit(self, commit: Commit) -> int:
        """See Store. A transaction of etcd, which may share its request with others. Raises Refused when it is larger
        than etcd takes."""
        session = self._live()
        if not commit.changes:
            return (await session.write(session.link.api.range, self._setup.layout.where())).header.revision
        for put in commit.puts:
            if put.needs_lease and session.leases.find(put.lease_id) is None:
                raise NoSuchLease(put.lease_id)
        return await session.commit(commit)

    async def vouch(self) -> None:
        """See Store."""
        await self._live().vouch(VOUCH_S)

    def _live(self) -> LinkInUse:
        if self._session is None:
            raise StoreAway("etcd cannot be reached")
        return self._session

    # ---- renewals

    async def keep_alive(self, lease_ids: Sequence[str]) -> list[Renewal]:
        """See Store. An id that this registry never gave is UNKNOWN without asking etcd."""
        if self._leases is None:
            return [Renewal(lease_id, Outcome.HELD, None) for lease_id in lease_ids]
        numbers = await _numbers(self._leases, lease_ids)
        answers = await self._renew(list(dict.fromkeys(number for number in numbers if number is not None)))
        return [_renewal(lease_id, number, answers) for lease_id, number in zip(lease_ids, numbers, strict=True)]

    async def _renew(self, leases: Sequence[int]) -> dict[int, float]:
        if not leases:
            return {}
        shortest_s = min(map(ttl_of, leases))
        self._pace.uses(shortest_s)
        return await self._session.renew(leases, shortest_s) if self._session else {}


async def _numbers(known: LeaseIds, lease_ids: Sequence[str]) -> list[int | None]:
    numbers: list[int | None] = []
    for start in range(0, len(lease_ids), STEP):
        numbers += map(known.find, lease_ids[start : start + STEP])
        if len(lease_ids) > STEP:
            await asyncio.sleep(0)
    return numbers


def _renewal(lease_id: str, number: int | None, answers: dict[int, float]) -> Renewal:
    if number is None:
        return Renewal(lease_id, Outcome.UNKNOWN, None)
    ttl_s = answers.get(number)
    if ttl_s is None:
        return Renewal(lease_id, Outcome.HELD, ttl_of(number))
    return Renewal(lease_id, Outcome.RENEWED, float(ttl_s)) if ttl_s > 0 else Renewal(lease_id, Outcome.UNKNOWN, None)


class _Foreign:
    """Keys below the prefix that are skipped: each is logged once, and all are counted."""

    def __init__(self) -> None:
        self.count = 0
        self._logged: set[bytes] = set()

    def skip(self, key: bytes, why: str) -> None:
        """Take note of a key."""
        self.count += 1
        if key in self._logged or len(self._logged) >= MAX_FOREIGN:
            return
        self._logged.add(key)
        _log.warning("%s in etcd %s", ascii(key.decode(errors="backslashreplace"))[:300], why)
        if len(self._logged) == MAX_FOREIGN:
            _log.warning("more such keys are counted only")
