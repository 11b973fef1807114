"""CORE. What a Watch stream is told: the topic of a query, its checksum, and the tokens to resume by."""

import re
from collections.abc import Callable, Sequence

from protos.registry.v1 import registry_pb2 as pb
from registry_server.catalog import Catalog, Change
from registry_server.errors import InvalidField
from registry_server.model import CHECKSUM_MODULUS, Entry, Query, checksum
from registry_server.rpc import answers
from registry_server.stores.base import Key

_TOKEN = re.compile(r"([^/]{1,128})/(\d{1,19})/([0-9a-f]{8})/([0-9a-f]{16})")


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
        self._full: tuple[pb.ResponseHeader, int, list[bytes]] | None = None
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
        changes = None if since is None else self._catalog.changes(self.query, since)
        if changes is None:
            return self._render_full()
        upserts, removed = self._difference(changes)
        if not upserts and not removed:
            return []
        return answers.watch_step(self._header(), upserts, removed, self._checksum, self._token(), reset=False)

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
        return since if since is not None and self._checksum_at(since) == int(held, 16) else None

    # ---- within

    def _start(self) -> None:
        self._seq = self._version = self._catalog.seq
        self._checksum = checksum(self._catalog.select(self.query))

    def _follow(self, changes: Sequence[Change]) -> None:
        self._seq = self._catalog.seq
        for change in changes:
            before, after = self._meant(change.before), self._meant(change.after)
            if before is not None or after is not None:
                self._version = change.seq
                self._checksum += (after.digest if after else 0) - (before.digest if before else 0)
        self._checksum %= CHECKSUM_MODULUS

    def _difference(self, changes: Sequence[Change]) -> tuple[list[Entry], list[Key]]:
        """What was before the first of the changes against what is now."""
        upserts, removed = [], []
        for key, first in _earliest(changes).items():
            before, after = self._meant(first), self._meant(self._catalog.get(key))
            if after is None:
                if before is not None:
                    removed.append(key)
            elif before is None or before.encoded != after.encoded:
                upserts.append(after)
        upserts.sort(key=lambda entry: entry.revision)
        return upserts, removed

    def _checksum_at(self, since: int) -> int | None:
        """The checksum as it was at an earlier version, found by going back from the current one."""
        changes = self._catalog.changes(self.query, since)
        if changes is None:
            return None
        total = self._checksum
        for key, first in _earliest(changes).items():
            before, after = self._meant(first), self._meant(self._catalog.get(key))
            total += (before.digest if before else 0) - (after.digest if after else 0)
        return total % CHECKSUM_MODULUS

    def _render_full(self) -> list[bytes]:
        """The full set, kept for the next reader as long as it is the current one."""
        head = self._header()
        if self._full is not None and self._full[:2] == (head, self._catalog.seq):
            return self._full[2]
        entries = list(self._catalog.select(self.query))
        parts = answers.watch_step(head, entries, (), self._checksum, self._token(), reset=True)
        self._full = (head, self._catalog.seq, parts)
        return parts

    def _meant(self, entry: Entry | None) -> Entry | None:
        return entry if entry is not None and (self._takes_all or self.query.matches(entry)) else None

    def _header(self) -> pb.ResponseHeader:
        return answers.header(self._catalog.epoch, self._catalog.revision, self._stale_for_s())

    def _token(self) -> str:
        return f"{self._catalog.epoch}/{self._catalog.revision}/{self._fingerprint}/{self._checksum:016x}"


def _earliest(changes: Sequence[Change]) -> dict[Key, Entry | None]:
    """What each changed instance was before the first of the changes."""
    earliest: dict[Key, Entry | None] = {}
    for change in changes:
        earliest.setdefault(change.key, change.before)
    return earliest
