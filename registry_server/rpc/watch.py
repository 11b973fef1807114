"""CORE. What a Watch stream is told: the topic of a query, its checksum, and the tokens to resume by."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from protos.registry.v1 import registry_pb2 as pb
from registry_server.catalog import Catalog, Change
from registry_server.errors import InvalidField
from registry_server.model import CHECKSUM_MODULUS, Entry, Query, checksum
from registry_server.rpc import answers
from registry_server.stores.base import Key

_TOKEN = re.compile(r"([^/]{1,128})/(\d{1,19})/([0-9a-f]{8})/([0-9a-f]{16})")


# Of how many earlier versions the way to the current one is kept.
MAX_STEPS = 64


class _Step(NamedTuple):
    """The way from an earlier version to the current one, and the checksum of the earlier one."""

    body: list[bytes]
    checksum_before: int
    reset: bool


class WatchTopic:
    """A query whose answer is kept up: a hub.Topic.

    The instances themselves stay in the catalog; the topic keeps the checksum of those the query means, and puts each
    difference together from the catalog's log.
    """

    def __init__(self, catalog: Catalog, query: Query, stale_for_s: Callable[[], float | None]) -> None:
        self.query = query
        self._catalog = catalog
        self._stale_for_s = stale_for_s
        self._takes_all = query.takes_all
        self._fingerprint = query.fingerprint
        self._steps: dict[int | None, _Step] = {}
        self._start()

    def refresh(self) -> int:
        """Take in what changed; return the `seq` of the last change that mattered."""
        if self._seq != self._catalog.seq:
            changes = self._catalog.changes(self.query, self._seq)
            if changes is None:
                self._start()
            else:
                self._follow(changes)
        return self._version

    def render(self, since: int | None) -> Sequence[bytes]:
        """The messages that lead from `since`, or from nothing, to the current state."""
        step = self._step(since)
        if step.reset or step.body != [b""]:
            return answers.watch_step(self._header(), step.body, self._checksum, self._token(), reset=step.reset)
        return []

    def bookmark(self) -> Sequence[bytes]:
        """The message that proves that the set is still good."""
        return answers.watch_bookmark(self._header(), self._checksum, self._token())

    def resume(self, token: str) -> int | None:
        """The version that the holder of the token knows; None if it must be told everything.

        Raises InvalidField for a token that is none, or belongs to another query.
        """
        if not token:
            return None
        match = _TOKEN.fullmatch(token)
        if match is None:
            raise InvalidField("resume_token", "is not one that this service gave out")
        epoch, revision, fingerprint, held = match.groups()
        if fingerprint != self._fingerprint:
            raise InvalidField("resume_token", "was given out for another namespace, other services or another filter")
        self.refresh()
        since = self._catalog.seq_at(int(revision)) if epoch == self._catalog.epoch else None
        return since if since is not None and self._step(since).checksum_before == int(held, 16) else None

    # ---- within

    def _start(self) -> None:
        self._seq = self._version = self._catalog.seq
        self._checksum = checksum(self._catalog.select(self.query))
        self._steps.clear()

    def _follow(self, changes: Sequence[Change]) -> None:
        self._seq = self._catalog.seq
        for change in changes:
            before, after = self._meant(change.before), self._meant(change.after)
            if before is not None or after is not None:
                self._version = change.seq
                self._checksum += _digest(after) - _digest(before)
                self._steps.clear()
        self._checksum %= CHECKSUM_MODULUS

    def _step(self, since: int | None) -> "_Step":
        """What leads from `since` to the current version: worked out once, however many readers come back at a time."""
        step = self._steps.get(since)
        if step is None:
            changes = None if since is None else self._catalog.changes(self.query, since)
            step = self._full() if changes is None else self._difference(changes)
            if len(self._steps) < MAX_STEPS:
                self._steps[since] = step
        return step

    def _full(self) -> "_Step":
        return _Step(answers.watch_body(self._catalog.select(self.query), ()), 0, reset=True)

    def _difference(self, changes: Sequence[Change]) -> "_Step":
        """What was before the first of the changes against what is now."""
        upserts, removed = [], []
        was = self._checksum
        for key, first in _earliest(changes).items():
            before, after = self._meant(first), self._meant(self._catalog.get(key))
            was += _digest(before) - _digest(after)
            if after is None:
                if before is not None:
                    removed.append(key)
            elif before is None or before.encoded != after.encoded:
                upserts.append(after)
        upserts.sort(key=lambda entry: entry.revision)
        return _Step(answers.watch_body(upserts, removed), was % CHECKSUM_MODULUS, reset=False)

    def _meant(self, entry: Entry | None) -> Entry | None:
        return entry if entry is not None and (self._takes_all or self.query.matches(entry)) else None

    def _header(self) -> pb.ResponseHeader:
        return answers.header(self._catalog.epoch, self._catalog.revision, self._stale_for_s())

    def _token(self) -> str:
        return f"{self._catalog.epoch}/{self._catalog.revision}/{self._fingerprint}/{self._checksum:016x}"


def _digest(entry: Entry | None) -> int:
    return entry.digest if entry is not None else 0


def _earliest(changes: Sequence[Change]) -> dict[Key, Entry | None]:
    """What each changed instance was before the first of the changes."""
    earliest: dict[Key, Entry | None] = {}
    for change in changes:
        earliest.setdefault(change.key, change.before)
    return earliest
