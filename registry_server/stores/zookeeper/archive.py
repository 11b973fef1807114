"""SHELL: where the log and its checkpoints are in ZooKeeper; how a chronicle is begun from them, and kept as a new one.

| below `grpc-registry` | what |
|---|---|
| `log/NUMBER` | a page |
| `current` | which checkpoint a chronicle begins with; nothing before there is one |
| `checkpoints/NAME/NUMBER` | its parts |
| `keeper` | ephemeral: somebody is about to write a checkpoint |

Pages and checkpoints stay until the next checkpoint but one, so that whoever reads them has time to.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

from registry_server.stores.base import StoreAway, StoreError
from registry_server.stores.zookeeper.chronicle import Checkpoint, Chronicle, Garbled, pack_items, read_items
from registry_server.stores.zookeeper.znodes import Kept, Multi, NodeExists, NoSuchNode, Znodes

# A part of a checkpoint is about so large, in bytes: one is read in some milliseconds, then others have a turn.
PART = 1 << 17
# So many nodes are removed in one request.
AT_ONCE = 200
# So often a chronicle is begun anew when a checkpoint was replaced meanwhile.
ATTEMPTS = 5


class Archive:
    """The nodes of one registry, by one session."""

    def __init__(self, znodes: Znodes, home: str) -> None:
        self._znodes = znodes
        self.home = home
        self._current = f"{home}/current"
        self._log = f"{home}/log"
        self._checkpoints = f"{home}/checkpoints"

    def page(self, number: int) -> str:
        """Where a page is."""
        return f"{self._log}/{number:010}"

    # ---- to begin

    async def begin(self) -> Chronicle:
        """A chronicle of what is kept; pages may follow. Makes what is not there yet. Raises StoreError."""
        for _ in range(ATTEMPTS):
            with contextlib.suppress(NoSuchNode):
                return await self._load(self._checkpoint(await self._znodes.get(self._current)))
            await self._prepare()
        raise StoreAway("what is kept in ZooKeeper was replaced faster than it could be read")

    async def is_at(self, chronicle: Chronicle) -> bool:
        """Whether the last page of a chronicle is one of this log, so that what follows leads on from it."""
        with contextlib.suppress(NoSuchNode):
            return (await self._znodes.get(self.page(chronicle.number))).data == chronicle.mark
        return False

    async def _prepare(self) -> None:
        await self._znodes.ensure(self._log)
        await self._znodes.ensure(self._checkpoints)

        def first(transaction: Multi) -> None:
            transaction.create(self._current, b"")
            transaction.create(self.page(0), secrets.token_bytes(16))  # no other log begins like that

        with contextlib.suppress(NodeExists):  # another one was faster
            await self._znodes.commit(first)

    async def _load(self, checkpoint: Checkpoint | None) -> Chronicle:
        if checkpoint is None:
            return Chronicle(0, 0, (await self._znodes.get(self.page(0))).data)
        mark = (await self._znodes.get(self.page(checkpoint.number))).data
        folder = self._folder(checkpoint)
        items = []
        for part in range(checkpoint.parts):
            try:
                items += read_items((await self._znodes.get(f"{folder}/{part:06}")).data)
            except Garbled:
                raise StoreError(f"{folder} in ZooKeeper is not what a registry wrote") from None
        return Chronicle(checkpoint.number, checkpoint.revision, mark, items)

    def _checkpoint(self, kept: Kept) -> Checkpoint | None:
        try:
            return Checkpoint.read(kept.data) if kept.data else None
        except Garbled:
            raise StoreError(f"{self._current} in ZooKeeper is not what a registry wrote") from None

    def _folder(self, checkpoint: Checkpoint) -> str:
        return f"{self._checkpoints}/{checkpoint.name:016x}"

    # ---- to keep

    async def keep(self, chronicle: Chronicle) -> int:
        """See to it that who begins has little to read: the size of the checkpoint that he begins with, in bytes.

        Does nothing if another one does it. Raises StoreError.
        """
        number, revision, items = chronicle.number, chronicle.revision, chronicle.items
        async with self._alone() as alone:
            kept = await self._znodes.get(self._current)
            before = self._checkpoint(kept)
            chronicle.begins_at(before.number if before else 0)
            if not alone or not chronicle.is_long(before.size if before else 0):
                return before.size if before else 0
            name = secrets.randbits(64)
            sizes = [size async for size in self._parts(f"{self._checkpoints}/{name:016x}", pack_items(items, PART))]
            checkpoint = Checkpoint(name, number, revision, len(sizes), sum(sizes))
            await self._replace(kept, checkpoint)
            chronicle.begins_at(number)
            await self._tidy(before, checkpoint)
            return checkpoint.size

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[bool]:
        """Whether nobody else writes a checkpoint meanwhile."""
        path = f"{self.home}/keeper"
        try:
            await self._znodes.create(path, ephemeral=True)
        except NodeExists:
            yield False
            return
        try:
            yield True
        except asyncio.CancelledError:
            raise  # the session ends, and the node with it
        except Exception:
            await self._znodes.delete(path)
            raise
        else:
            await self._znodes.delete(path)

    async def _parts(self, folder: str, parts: Iterable[bytes]) -> AsyncIterator[int]:
        await self._znodes.create(folder)
        for number, part in enumerate(parts):
            await self._znodes.create(f"{folder}/{number:06}", part)
            yield len(part)

    async def _replace(self, kept: Kept, checkpoint: Checkpoint) -> None:
        def replace(transaction: Multi) -> None:
            transaction.check(self.page(checkpoint.number), -1)
            transaction.set_data(self._current, checkpoint.pack(), kept.version)

        await self._znodes.commit(replace)

    async def _tidy(self, before: Checkpoint | None, checkpoint: Checkpoint) -> None:
        """Remove what nobody needs any more, the oldest first."""
        oldest = before.number if before else 0
        await self._remove(
            self._log, [name for name in await self._znodes.children(self._log) if _is_before(name, oldest)]
        )
        stays = {f"{it.name:016x}" for it in (before, checkpoint) if it}
        for name in await self._znodes.children(self._checkpoints):
            if name not in stays:
                folder = f"{self._checkpoints}/{name}"
                await self._remove(folder, await self._znodes.children(folder))
                await self._remove(self._checkpoints, [name])

    async def _remove(self, folder: str, names: Sequence[str]) -> None:
        paths = [f"{folder}/{name}" for name in sorted(names)]
        for at in range(0, len(paths), AT_ONCE):
            some = paths[at : at + AT_ONCE]
            await self._znodes.commit(_removal(some))


def _removal(paths: Sequence[str]) -> Callable[[Multi], None]:
    def remove(transaction: Multi) -> None:
        for path in paths:
            transaction.delete(path)

    return remove


def _is_before(name: str, number: int) -> bool:
    return name.isdecimal() and int(name) < number
