"""What docs/stores.md shows, as it stands there: a backend, and the contract as tests of it; and a bad link to it."""

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from registry_server.stores.backend import Changed, Check, ChecksFailed, Everything, Item
from registry_server.stores.base import StoreError
from tests.support.source import ROOT

PAGE = ROOT / "docs" / "stores.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)

NAMES: dict[str, Any] = {}
for block in BLOCKS:
    exec(compile(block, PAGE.name, "exec"), NAMES)

DictBackend = NAMES["DictBackend"]
Documented = NAMES["TestMine"]


class Link:
    """One replica's way to a backend that several share. It can be cut, go deaf or silent, and refuse."""

    def __init__(self, shared: Any, *, most: int = 1_000, looks_now_and_then: bool = False) -> None:
        self.shared = shared
        self.most = most
        self.refuses = self.denies = self.fails_without_names = False
        self.is_cut = False
        self.hears = asyncio.Event()
        self.hears.set()
        self.answers = asyncio.Event()
        self.answers.set()
        self.transactions: list[dict[str, bytes | None]] = []
        self._looks_now_and_then = looks_now_and_then
        self._changes: asyncio.Queue[Changed | None] = asyncio.Queue()

    def cut(self) -> None:
        self.is_cut = True
        self._changes.put_nowait(None)

    def mend(self) -> None:
        self.is_cut = False

    async def watch(self) -> AsyncGenerator[Everything | Changed]:
        self._reach()
        self._changes = asyncio.Queue()
        self.shared.watchers.add(self._changes)
        try:
            told = dict(self.shared.items)
            yield Everything(self.shared.revision, tuple(told.values()))
            while (change := await self._changes.get()) is not None:
                await self.hears.wait()
                if self._looks_now_and_then:
                    change, told = self._difference(told), dict(self.shared.items)
                yield change
            raise OSError("the link is cut")
        finally:
            self.shared.watchers.discard(self._changes)

    def _difference(self, told: dict[str, Item]) -> Changed:
        """What is different by now, whatever there was in between."""
        while not self._changes.empty():
            self._changes.get_nowait()
        items: dict[str, Item] = self.shared.items
        puts = [item for name, item in items.items() if told.get(name) != item]
        return Changed(self.shared.revision, tuple(puts), tuple(name for name in told if name not in items))

    async def transact(self, checks: Sequence[Check], writes: Mapping[str, bytes | None]) -> int:
        self._reach()
        self.transactions.append(dict(writes))
        await self.answers.wait()
        self._reach()
        if self.refuses:
            raise OSError("it does not write just now")
        if self.denies:
            raise StoreError("the token may not write any more")
        if self.fails_without_names:
            raise ChecksFailed([])
        revision: int = await self.shared.transact(checks, writes)
        return revision

    def _reach(self) -> None:
        if self.is_cut:
            raise OSError("the link is cut")

    async def aclose(self) -> None:
        pass
