"""CORE: the steps of a Watch, in messages that are made one at a time and shared by the readers that are in step.

A full set is told block by block (rows.py) and a large difference piece by piece, so no set is ever encoded in one go,
and a reader that stands still holds the head of one message of its own: all else it shares.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import attrgetter
from typing import NamedTuple, TypeVar

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.changes import Change
from registry_server.hub import Chunks
from registry_server.model import Entry, Query
from registry_server.records import Cause, Key
from registry_server.rows import MAX_BYTES, Block
from registry_server.rpc import answers

# Encoded blocks that are kept, of all topics together.
MAX_KEPT_BYTES = 32 * 1024 * 1024
# The latest messages of a step that are kept for readers who come to them a little later.
KEPT_PARTS = 4
# The changes, or the instances, that are looked at in one moment.
AT_ONCE = 2_000


Item = TypeVar("Item")

_REVISION = attrgetter("revision")


class Pieces:
    """Encoded blocks, by who asked for them: the latest used, within a limit in bytes."""

    def __init__(self, max_bytes: int = MAX_KEPT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[tuple[object, Block], bytes] = OrderedDict()

    def of(self, owner: object, block: Block, make: Callable[[], bytes]) -> bytes:
        """The piece that `make` gives, or gave before to the same owner for this block."""
        name = (owner, block)
        piece = self._kept.get(name)
        if piece is not None:
            self._kept.move_to_end(name)
            return piece
        piece = self._kept[name] = make()
        self._bytes += len(piece)
        while self._bytes > self._max_bytes:
            self._bytes -= len(self._kept.popitem(last=False)[1])
        return piece

    def __len__(self) -> int:
        """How many bytes are kept."""
        return self._bytes


class State(NamedTuple):
    """What a step leads to: the version of the topic, the revision up to which it holds, the checksum of the set."""

    epoch: str
    version: int
    revision: int
    checksum: int
    fingerprint: str

    @property
    def token(self) -> str:
        """To resume by from here."""
        return f"{self.epoch}/{self.revision}/{self.fingerprint}/{self.checksum:016x}"

    def header(self, stale_for_s: float | None) -> pb.ResponseHeader:
        """Of a message about this state."""
        return answers.header(self.epoch, self.revision, stale_for_s)


class _Part(NamedTuple):
    """A message as it was put together for readers of one state; its piece is the same in every state."""

    state: State
    piece: bytes
    chunks: Chunks
    following: int | None


class WatchStep:
    """A hub.Step. `state` may be put on to a later revision while nothing changes."""

    reset = False

    def __init__(self, state: State, stale_for_s: Callable[[], float | None]) -> None:
        self.state = state
        self.version = state.version
        self._stale_for_s = stale_for_s
        self._kept: dict[int, _Part] = {}

    def part(self, place: int) -> tuple[Chunks | None, int | None]:
        """See hub.Step. The piece is a chunk of its own: readers who are told other heads still share it."""
        kept, stale_for_s = self._kept.get(place), self._stale_for_s()
        if kept is None:
            piece, following = self._piece(place)
        elif kept.state is self.state and stale_for_s is None:
            return kept.chunks, kept.following
        else:
            piece, following = kept.piece, kept.following
        if piece is None:
            return None, following
        head = self._head(piece, stale_for_s, reset=self.reset and place == 0, is_last=following is None)
        chunks = (head, piece) if piece else (head,)
        if stale_for_s is None:
            self._keep(place, _Part(self.state, piece, chunks, following))
        return chunks, following

    def _head(self, piece: bytes, stale_for_s: float | None, *, reset: bool, is_last: bool) -> bytes:
        """The message but for its piece."""
        state, header = self.state, self.state.header(stale_for_s)
        if not is_last:
            return answers.watch_part(header, reset=reset)
        if piece or self.reset:
            return answers.watch_end(header, state.checksum, state.token, reset=reset)
        return answers.watch_bookmark(header, state.checksum, state.token)

    def _piece(self, place: int) -> tuple[bytes | None, int | None]:
        """What is at a place, and the place after it."""
        raise NotImplementedError

    def _keep(self, place: int, part: _Part) -> None:
        if place not in self._kept and len(self._kept) >= KEPT_PARTS:
            del self._kept[next(iter(self._kept))]
        self._kept[place] = part


class FullSet(WatchStep):
    """From nothing to all: a place is a block."""

    reset = True

    def __init__(
        self,
        state: State,
        stale_for_s: Callable[[], float | None],
        blocks: Sequence[Block],
        query: Query | None,
        pieces: Pieces,
    ) -> None:
        super().__init__(state, stale_for_s)
        self._blocks = blocks
        self._query = query
        self._pieces = pieces

    def _piece(self, place: int) -> tuple[bytes | None, int | None]:
        if not self._blocks:
            return b"", None
        following = place + 1 if place + 1 < len(self._blocks) else None
        piece = self._encoded(self._blocks[place])
        if not piece and following is not None and place:
            return None, following  # the filter lets none of these in
        return piece, following

    def _encoded(self, block: Block) -> bytes:
        query = self._query
        if query is None:
            return self._pieces.of(None, block, lambda: answers.upserts(block.entries))
        return self._pieces.of(query, block, lambda: answers.upserts(filter(query.matches, block.entries)))


class _Ends(NamedTuple):
    """What was before the first change of an instance, what is after the last, and why it left, if it did."""

    before: Entry | None
    after: Entry | None
    cause: Cause | None


class Difference(WatchStep):
    """From an earlier version to a later one. A place is the number of changed instances before it."""

    def __init__(
        self,
        state: State,
        stale_for_s: Callable[[], float | None],
        changes: Sequence[Change],
        meant: Callable[[Entry | None], Entry | None],
    ) -> None:
        super().__init__(state, stale_for_s)
        self._meant = meant
        self._changes = iter(changes)
        self._ends: dict[Key, _Ends] = {}
        self._compared: Iterator[tuple[Key, _Ends]] | None = None
        self._upserts: list[Entry] = []
        self._removed: list[tuple[Key, Cause | None]] = []
        self._is_known = False
        self._learn()

    @property
    def is_nothing(self) -> bool:
        """Whether it is known already that nothing differs."""
        return self._is_known and not self._upserts and not self._removed

    def _learn(self) -> None:
        """Look at some more of the changes, and then at the instances they are about."""
        left = AT_ONCE
        if self._compared is None:
            left -= self._collect(left)
        if left:
            self._compared = self._compared or iter(self._ends.items())
            self._is_known = self._compare(self._compared, left) < left
        if self._is_known:
            self._upserts.sort(key=_REVISION)
            self._ends = {}

    def _collect(self, at_most: int) -> int:
        count, ends = 0, self._ends
        for change in islice(self._changes, at_most):
            known = ends.get(change.key)
            before = change.before if known is None else known.before
            ends[change.key] = _Ends(before, change.after, change.cause)
            count += 1
        return count

    def _compare(self, ends: Iterator[tuple[Key, _Ends]], at_most: int) -> int:
        count = 0
        for key, (first, last, cause) in islice(ends, at_most):
            before, after = self._meant(first), self._meant(last)
            if after is None:
                if before is not None:
                    self._removed.append((key, cause if last is None else None))
            elif before is None or before.encoded != after.encoded:
                self._upserts.append(after)
            count += 1
        return count

    def _piece(self, place: int) -> tuple[bytes | None, int | None]:
        if not self._is_known:
            self._learn()
            return None, place
        upserts = _that_fit(islice(self._upserts, place, None), lambda entry: len(entry.encoded))
        place += len(upserts)
        first = place - len(self._upserts)
        removed = _that_fit(islice(self._removed, first, None), lambda it: len(str(it[0]))) if first >= 0 else []
        place += len(removed)
        is_last = place == len(self._upserts) + len(self._removed)
        return answers.upserts(upserts) + answers.removals(removed), None if is_last else place


def _that_fit(items: Iterable[Item], size: Callable[[Item], int]) -> list[Item]:
    """As many as one message takes, but for one at least."""
    fitting: list[Item] = []
    total = 0
    for item in items:
        total += size(item)
        if total > MAX_BYTES and fitting:
            break
        fitting.append(item)
    return fitting
