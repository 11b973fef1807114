"""CORE: the instances of one service in the order of their ids, in blocks that are shared with whoever reads them.

A block that was handed out does not change any more: the next change works on a copy of it. So a snapshot costs a few
references, readers that stand still share all that did not change meanwhile, and what was made of a block (its encoded
form, say) is good for as long as the block is.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import chain

from registry_server.model import Entry

# A block with more than this is cut in two: rows, and bytes of encoded instances.
MAX_ROWS = 512
MAX_BYTES = 128 * 1024
# Neighbours that are together no larger than this part of a full block become one.
MERGE_PART = 2


class Block:
    """Consecutive instances. `digest` is the sum of theirs. `born` says how many snapshots there were before it: once
    there is another one, it is handed out and does not change any more."""

    __slots__ = ("born", "digest", "entries", "ids", "size")

    def __init__(self, ids: list[str], entries: list[Entry], born: int) -> None:
        self.ids = ids
        self.entries = entries
        self.size = sum(len(entry.encoded) for entry in entries)
        self.digest = sum(entry.digest for entry in entries)
        self.born = born


class Rows:
    """The instances of one service. `digest` is the sum of theirs."""

    __slots__ = ("_blocks", "_firsts", "_flat", "_snapshot", "_snapshots", "digest")

    def __init__(self) -> None:
        self.digest = 0
        self._blocks: list[Block] = []
        self._firsts: list[str] = []
        self._snapshot: tuple[Block, ...] | None = ()
        self._snapshots = 0
        self._flat: tuple[Entry, ...] | None = ()

    def snapshot(self) -> tuple[Block, ...]:
        """All blocks, none of them empty; made at most once per change."""
        if self._snapshot is None:
            self._snapshot = tuple(self._blocks)
            self._snapshots += 1
        return self._snapshot

    def flat(self) -> tuple[Entry, ...]:
        """All instances; made at most once per change."""
        if self._flat is None:
            self._flat = tuple(chain.from_iterable([block.entries for block in self._blocks]))
        return self._flat

    def after(self, id_: str) -> Iterator[Entry]:
        """The instances whose ids come after this one. To be used up before anything changes."""
        place = self._place(id_)
        for block in self._blocks[place : place + 1]:
            yield from block.entries[bisect_right(block.ids, id_) :]
        for block in self._blocks[place + 1 :]:
            yield from block.entries

    def put(self, before: Entry | None, after: Entry) -> None:
        """Add an instance, or put another in the place of the one with its id."""
        self._flat = None
        id_ = after.key.id
        if before is not None:
            self._replace(before, after)
            return
        self.digest += after.digest
        if not self._blocks:
            self._snapshot = None
            self._insert(0, Block([id_], [after], self._snapshots))
            return
        place = self._place(id_)
        block = self._own(place)
        at = bisect_left(block.ids, id_)
        block.ids.insert(at, id_)
        block.entries.insert(at, after)
        if not at:
            self._firsts[place] = id_
        block.size += len(after.encoded)
        block.digest += after.digest
        if _is_too_large(block):
            self._split(place)

    def _replace(self, before: Entry, after: Entry) -> None:
        place = self._place(after.key.id)
        block = self._own(place)
        block.entries[bisect_left(block.ids, after.key.id)] = after
        differs = after.digest - before.digest
        self.digest += differs
        block.digest += differs
        block.size += len(after.encoded) - len(before.encoded)
        if _is_too_large(block):
            self._split(place)

    def remove(self, before: Entry) -> None:
        """Take an instance out."""
        self._flat = None
        self.digest -= before.digest
        place = self._place(before.key.id)
        block = self._own(place)
        at = bisect_left(block.ids, before.key.id)
        del block.ids[at], block.entries[at]
        block.size -= len(before.encoded)
        block.digest -= before.digest
        if block.ids:
            self._firsts[place] = block.ids[0]
            self._merge(place)
        else:
            del self._blocks[place], self._firsts[place]

    # ---- within

    def _place(self, id_: str) -> int:
        """Of the block to which the id belongs."""
        place = bisect_right(self._firsts, id_)
        return place - 1 if place else 0

    def _own(self, place: int) -> Block:
        """The block there, to be changed."""
        self._snapshot = None
        block = self._blocks[place]
        if block.born < self._snapshots:  # it was handed out
            block = self._blocks[place] = Block(block.ids.copy(), block.entries.copy(), self._snapshots)
        return block

    def _insert(self, place: int, block: Block) -> None:
        self._blocks.insert(place, block)
        self._firsts.insert(place, block.ids[0])

    def _split(self, place: int) -> None:
        """Cut the block in two, and what is still too large again: instances differ in size."""
        block = self._blocks[place]
        if not _is_too_large(block) or len(block.ids) == 1:
            return
        middle = len(block.ids) // 2
        self._blocks[place] = Block(block.ids[:middle], block.entries[:middle], self._snapshots)
        self._insert(place + 1, Block(block.ids[middle:], block.entries[middle:], self._snapshots))
        self._split(place + 1)
        self._split(place)

    def _merge(self, place: int) -> None:
        """Join the block with its neighbour if both are small."""
        left = max(0, place - 1)
        pair = self._blocks[left : left + 2]
        rows, size = sum(len(block.ids) for block in pair), sum(block.size for block in pair)
        if len(pair) == 2 and rows <= MAX_ROWS // MERGE_PART and size <= MAX_BYTES // MERGE_PART:
            ids, entries = [*pair[0].ids, *pair[1].ids], [*pair[0].entries, *pair[1].entries]
            self._blocks[left : left + 2] = [Block(ids, entries, self._snapshots)]
            del self._firsts[left + 1]


def _is_too_large(block: Block) -> bool:
    return len(block.ids) > MAX_ROWS or block.size > MAX_BYTES
