"""SHELL: the record of this server among the replicas that run checks: under a lease, so that it is gone with it."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.health.findings import is_replica
from registry_server.records import Commit, Delete, Key, Kind, Outcome, Put
from registry_server.settings import Settings
from registry_server.stores.base import Store, StoreError

log = logging.getLogger(__name__)

# Another replica takes over when one was silent for so long, in seconds.
TTL_S = 5.0
RETRY_S = 0.5
LEAVE_S = 1.0


class Replica:
    """This server, by a name of its own, under a lease of so many seconds. `settings` show who else is there."""

    def __init__(self, store: Store, settings: Settings, name: str, ttl_s: float = TTL_S) -> None:
        self.name = name
        self._ttl_s = ttl_s
        self._store = store
        self._settings = settings
        self._key = Key("", "", name, Kind.REPLICA)
        self._value = pb.Prober(name=name)
        self._lease_id = ""
        self._wanted = asyncio.Event()
        self._news = asyncio.Event()

    def all(self) -> Sequence[str]:
        """The names of all replicas that run checks."""
        return [record.key.id for record in filter(is_replica, self._settings.of(Kind.REPLICA))]

    def want(self) -> None:
        """There is something to look at: from now on it is there."""
        self._wanted.set()

    def tell(self, cut_off_at: float | None) -> None:
        """Let everybody see whether it is cut off, and since when (wall-clock seconds)."""
        self._value.ClearField("cut_off_at")
        if cut_off_at is not None:
            self._value.cut_off_at.FromMicroseconds(round(cut_off_at * 1e6))
        self._news.set()

    async def run(self) -> None:
        """Be there, once that is wanted, until cancelled."""
        await self._wanted.wait()
        while True:
            try:
                await self._keep()
            except Exception as error:  # whatever a store raises that somebody else wrote
                level = logging.DEBUG if isinstance(error, StoreError) else logging.WARNING
                log.log(level, "this server is not among those that look at instances: %r", error)
                await asyncio.sleep(RETRY_S)

    async def _keep(self) -> None:
        """Take a lease and renew it until it is gone. Raises StoreError."""
        lease = await self._store.grant(self._ttl_s)
        self._lease_id = lease.id
        self._news.set()
        while True:
            if self._news.is_set() or not self._is_shown():
                self._news.clear()
                await self._write()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(lease.ttl_s / 3):
                    await self._news.wait()
            [renewal] = await self._store.keep_alive([lease.id])
            if renewal.outcome is Outcome.UNKNOWN:
                return

    def _is_shown(self) -> bool:
        """Whether the record is there, and under the lease: somebody may have laid hands on it."""
        record = self._settings.get(self._key)
        return record is not None and record.lease_id == self._lease_id

    async def _write(self) -> None:
        record = self._settings.get(self._key)
        expect = record.revision if record else 0
        await self._store.commit(Commit((Put(self._key, self._value.SerializeToString(), self._lease_id, expect),)))

    async def leave(self) -> None:
        """Others take over at once, if the store can be told."""
        record = self._settings.get(self._key)
        with contextlib.suppress(Exception):
            async with asyncio.timeout(LEAVE_S):
                if record is not None:
                    await self._store.commit(Commit(deletes=(Delete(self._key, record.revision),)))
                if self._lease_id:
                    await self._store.release(self._lease_id)
