"""CORE: what a Watch stream is told: the topic of a query, its checksum, and the tokens to resume by."""

import re
from array import array
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from registry_server.catalog import Catalog
from registry_server.changes import Change
from registry_server.errors import InvalidField
from registry_server.hub import ALL, Interest
from registry_server.model import CHECKSUM_MODULUS, Entry, Query
from registry_server.rows import Block
from registry_server.rpc import answers
from registry_server.rpc.steps import AT_ONCE, Difference, FullSet, Pieces, State, WatchStep

_TOKEN = re.compile(r"([^/]{1,128})/([0-9]{1,19})/([0-9a-f]{8})/([0-9a-f]{16})")

# Of how many earlier versions the way to the current one is kept.
MAX_STEPS = 64
# The checksums that are remembered for tokens, at the most.
MAX_SUMS = 32_768


class Claim(NamedTuple):
    """What the holder of a token says it knows: the state at a revision, and its checksum."""

    epoch: str
    revision: int
    checksum: int


def claim_of(token: str, query: Query) -> Claim | None:
    """What a resume token says; None for no token.

    Raises InvalidField for a token that is none, or belongs to another query.
    """
    if not token:
        return None
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise InvalidField("resume_token", "is not one that this service gave out")
    epoch, revision, fingerprint, checksum = match.groups()
    if fingerprint != query.fingerprint:
        raise InvalidField("resume_token", "was given out for another namespace, other services or another filter")
    return Claim(epoch, int(revision), int(checksum, 16))


class WatchTopic:
    """A query whose answer is kept up: a hub.Topic.

    The instances themselves stay in the catalog; the topic keeps the checksum of those the query means, and puts each
    difference together from the catalog's history. What the holder of a token knows is checked by the checksum that the
    set had at the revision of the token, before any difference is put together for it.
    """

    def __init__(
        self, catalog: Catalog, query: Query, stale_for_s: Callable[[], float | None], pieces: Pieces | None = None
    ) -> None:
        self.query = query
        self.version = 0
        self._catalog = catalog
        self._stale_for_s = stale_for_s
        self._pieces = pieces or Pieces()
        self._takes_all = query.takes_all
        self._fingerprint = query.fingerprint
        self._steps: dict[int | None, WatchStep | None] = {}
        # How far it has taken in the catalog's changes, those it is at, and what it has worked out up to there.
        self._seq = self._latest = self._sum = self._checksum = self._taken = 0
        self._pending: list[Change] = []
        self._unscanned: Iterator[Block] | None = None
        self._sums: Sums | None = None
        self._recall: _Recall | None = None
        self._is_asked_for_sums = False
        self._state = self._state_now()
        self._begin()

    # ---- what changed

    @property
    def interests(self) -> Collection[Interest]:
        """See hub.Topic."""
        namespace, services = self.query.namespace, self.query.services
        if not namespace:
            return [ALL]
        return [(namespace, service) for service in services] or [(namespace,)]

    def advance(self) -> bool:
        """See hub.Topic."""
        left = AT_ONCE
        while done := self._work(left):
            left -= done
            if left <= 0:
                return False
        if self._state.revision != self._catalog.revision:
            self._state = self._state_now()
        return True

    def expect(self, claim: Claim) -> None:
        """See hub.Topic."""
        self._is_asked_for_sums = self._is_asked_for_sums or claim.epoch == self._catalog.epoch

    def known(self, claim: Claim) -> int | None:
        """See hub.Topic."""
        if claim.epoch != self._catalog.epoch:
            return None
        since = self._catalog.seq_at(self.query, claim.revision)
        if since is None:
            if claim.revision > self._catalog.revision:
                return None
            # What happened then is forgotten, or was before this server began; nothing did, if that was the set then.
            since = self._catalog.known_since(self.query)
        if since >= self.version:
            return self.version if claim.checksum == self._checksum else None
        return since if self._sums is not None and self._sums.at(since) == claim.checksum else None

    # ---- what is told

    def step(self, since: int | None) -> WatchStep | None:
        """See hub.Topic. It is put together once, however many readers come back at a time."""
        if since in self._steps:
            step = self._steps[since]
            if step is not None:
                step.state = self._state
            return step
        step = self._make_step(since)
        if len(self._steps) < MAX_STEPS:
            self._steps[since] = step
        return step

    def bookmark(self) -> bytes:
        """See hub.Topic."""
        return answers.watch_bookmark(self._state.header(self._stale_for_s()), self._state.checksum, self._state.token)

    # ---- within: telling

    def _make_step(self, since: int | None) -> WatchStep | None:
        if since is None:
            query = None if self._takes_all else self.query
            return FullSet(self._state, self._stale_for_s, self._catalog.blocks(self.query), query, self._pieces)
        if since == self.version:
            return None
        changes = self._catalog.changes(self.query, since)
        if changes is None:
            return self.step(None)
        difference = Difference(self._state, self._stale_for_s, changes, self._meant)
        return None if difference.is_nothing else difference

    def _meant(self, entry: Entry | None) -> Entry | None:
        return entry if entry is not None and (self._takes_all or self.query.matches(entry)) else None

    # ---- within: taking in, a piece of the work at a time

    def _begin(self) -> None:
        """Start from what there is now. With a filter every instance has to be looked at."""
        self._seq = self._latest = self._catalog.seq
        self._pending, self._taken = [], 0
        self._sums = self._recall = None
        self._is_asked_for_sums = False
        self._sum = self._catalog.checksum(self.query) if self._takes_all else 0
        self._unscanned = None if self._takes_all else iter(self._catalog.blocks(self.query))
        self._commit()

    def _commit(self) -> None:
        """What was worked out is the state from here on."""
        self._checksum = self._sum % CHECKSUM_MODULUS
        self.version = self._latest
        self._steps.clear()
        self._state = self._state_now()

    def _state_now(self) -> State:
        catalog = self._catalog
        return State(catalog.epoch, self.version, catalog.revision, self._checksum, self._fingerprint)

    def _work(self, at_most: int) -> int:
        """Do some of what is to be done before anybody can be told anything; return how much, 0 if there is nothing."""
        if self._unscanned is not None:
            return self._scan(self._unscanned, at_most)
        if self._taken < len(self._pending):
            return self._follow(at_most)
        if self._seq != self._catalog.seq:
            return self._look()
        if self._recall is not None:
            return self._walk_back(self._recall, at_most)
        if self._is_asked_for_sums and self._sums is None:
            return self._begin_recall()
        return 0

    def _scan(self, blocks: Iterator[Block], at_most: int) -> int:
        scanned = 0
        for block in blocks:
            self._sum += sum(entry.digest for entry in filter(self.query.matches, block.entries))
            scanned += len(block.entries)
            if scanned >= at_most:
                return scanned
        self._unscanned = None
        self._commit()
        return scanned + 1

    def _look(self) -> int:
        changes = self._catalog.changes(self.query, self._seq)
        if changes is None:
            self._begin()
            return 1
        self._seq = self._catalog.seq
        self._pending, self._taken = changes, 0
        return 1

    def _follow(self, at_most: int) -> int:
        changes = self._pending[self._taken : self._taken + at_most]
        for change in changes:
            before, after = self._meant(change.before), self._meant(change.after)
            if before is not None or after is not None:
                self._latest = change.seq
                self._sum += _digest(after) - _digest(before)
                self._note_sum(change.seq)
        self._taken += len(changes)
        if self._taken == len(self._pending):
            self._pending, self._taken = [], 0
            if self._latest != self.version:
                self._commit()
        return len(changes)

    # ---- within: what the checksum was

    def _note_sum(self, seq: int) -> None:
        if self._sums is not None:
            self._sums.append(seq, self._sum % CHECKSUM_MODULUS)
        elif self._recall is not None:
            self._recall.newer.append((seq, self._sum % CHECKSUM_MODULUS))

    def _begin_recall(self) -> int:
        floor = self._catalog.known_since(self.query)
        changes = self._catalog.changes(self.query, floor) or []
        self._recall = _Recall(floor, reversed(changes), self._sum)
        return 1

    def _walk_back(self, recall: "_Recall", at_most: int) -> int:
        walked = 0
        for change in islice(recall.changes, at_most):
            walked += 1
            before, after = self._meant(change.before), self._meant(change.after)
            if before is not None or after is not None:
                recall.older.append((change.seq, recall.sum % CHECKSUM_MODULUS))
                recall.sum += _digest(before) - _digest(after)
        if walked < at_most:
            self._recall, self._sums = None, Sums(recall.floor, recall.sum % CHECKSUM_MODULUS)
            for seq, sum_ in (*reversed(recall.older), *recall.newer):
                self._sums.append(seq, sum_)
        return walked + 1


@dataclass(eq=False, slots=True)
class _Recall:
    """A walk back through the changes that are known: from the latest, where the sum was known, to the floor."""

    floor: int
    changes: Iterator[Change]
    sum: int
    older: list[tuple[int, int]] = field(default_factory=list)
    newer: list[tuple[int, int]] = field(default_factory=list)


class Sums:
    """The checksum of a set after each change that mattered to it, from `floor` on, where it was `base`."""

    def __init__(self, floor: int, base: int, limit: int = MAX_SUMS) -> None:
        self._floor = floor
        self._base = base
        self._limit = limit
        self._seqs = array("q")
        self._sums = array("Q")

    def append(self, seq: int, checksum: int) -> None:
        """Add what it was after the latest change."""
        if len(self._seqs) >= self._limit:
            half = self._limit // 2
            self._floor, self._base = self._seqs[half - 1], self._sums[half - 1]
            del self._seqs[:half], self._sums[:half]
        self._seqs.append(seq)
        self._sums.append(checksum)

    def at(self, seq: int) -> int | None:
        """What it was when all changes up to `seq` were done; None if that is not known any more."""
        if seq < self._floor:
            return None
        place = bisect_right(self._seqs, seq)
        return self._sums[place - 1] if place else self._base


def _digest(entry: Entry | None) -> int:
    return entry.digest if entry is not None else 0
