"""SHELL: a ZooKeeper as a backend: opens a session and begins a chronicle, or goes on with it; a clerk works."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING

from registry_server.stores.backend import Changed, Check, Everything
from registry_server.stores.base import StoreAway
from registry_server.stores.leased import Leased
from registry_server.stores.zookeeper.archive import Archive
from registry_server.stores.zookeeper.clerk import Clerk
from registry_server.stores.zookeeper.url import ZooKeeperURL
from registry_server.stores.zookeeper.znodes import Znodes

if TYPE_CHECKING:
    from registry_server.stores.zookeeper.chronicle import Chronicle


class ZooKeeperBackend:
    """Values under names, in the log of a ZooKeeper; see stores/backend.py."""

    most = 10_000

    def __init__(self, url: ZooKeeperURL) -> None:
        self._url = url
        self._turn = 0
        self._chronicle: Chronicle | None = None  # what was known last
        self._clerk: Clerk | None = None

    async def watch(self) -> AsyncGenerator[Everything | Changed]:
        """See Backend."""
        self._turn += 1
        znodes = Znodes(self._url, self._turn - 1)
        try:
            await znodes.open()
            clerk = await self._begin(znodes)
            everything = Everything(clerk.chronicle.revision, clerk.chronicle.items)
            work = asyncio.create_task(clerk.run())
            self._clerk = clerk
            try:
                yield everything
                async for change in clerk.changes():
                    yield change
                await work
            finally:
                self._clerk = None
                work.cancel()
                await asyncio.wait([work])
        finally:
            await znodes.aclose()

    async def _begin(self, znodes: Znodes) -> Clerk:
        """A clerk whose chronicle is as new as the log."""
        archive, chronicle = Archive(znodes, self._url.home), self._chronicle
        await znodes.sync("/")
        if chronicle is None or not await archive.is_at(chronicle):
            chronicle = await archive.begin()
        clerk = Clerk(znodes, archive, chronicle)
        await clerk.catch_up()
        if not await archive.is_at(chronicle):
            raise StoreAway("the log in ZooKeeper went on too fast to be read")
        self._chronicle = chronicle
        return clerk

    async def transact(self, checks: Sequence[Check], writes: Mapping[str, bytes | None]) -> int:
        """See Backend."""
        if self._clerk is None:
            raise StoreAway("ZooKeeper cannot be reached")
        return await self._clerk.ask(checks, writes)

    async def aclose(self) -> None:
        """See Backend. A session ends with its watch."""


def open_zookeeper(url: str) -> Leased:
    """The store of a URL. Raises BadStoreURL."""
    return Leased(ZooKeeperBackend(ZooKeeperURL.parse(url)))
