"""CORE: what the store holds and should not, and what is to be written to mend it.

A *ghost* lost its address to an instance that another replica registered at the same time: it is deleted. A *stray* was
written by somebody else, and has no lease, or is no instance any more: it is put back as it was, under the lease that
held it, if that lives; if not, or if nobody knows it, it is deleted one time to live after it was first seen, so that
nothing is there for ever. What never was an instance is not ours to delete.

Every replica tries. The first does it, and the others find it done: each write says which revision it means.
"""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from registry_server.catalog import Flaw, ghosts
from registry_server.changes import Change
from registry_server.guard import whole_ttl_s
from registry_server.model import Entry
from registry_server.records import Cause, Commit, Delete, Key, Put
from registry_server.rules import storable

# How many records one write deletes at the most: stores have limits.
MAX_DELETES = 100


class _Stray(NamedTuple):
    """The revision of a record without a lease, when it was first seen, and what it was under its last lease."""

    revision: int
    seen_at: float
    ttl_s: int
    former: Entry | None


class Mending:
    """What waits to be written. `excused_until` says until when an end may be the fault of others (guard.py).

    Nothing is forgotten until it is done or needless; there is at most one entry for each record of the store.
    """

    def __init__(self, excused_until: Callable[[float], float]) -> None:
        self._excused_until = excused_until
        self._strays: dict[Key, _Stray] = {}
        self._puts: dict[Key, Put] = {}
        self._deletes: dict[Cause, dict[Key, int]] = {Cause.REPLACED: {}, Cause.EXPIRED: {}}
        # No stray is due before this.
        self._earliest = math.inf

    def __len__(self) -> int:
        """How many records are to be mended, now or later."""
        return len(self._strays) + len(self._deletes[Cause.REPLACED])

    def note(self, changes: Sequence[Change], deleted: Collection[Key], now: float) -> bool:
        """Look at what changed; `deleted` are those that the store has deleted itself. Whether there is more to do."""
        before = len(self)
        if not before and _is_usual(changes):
            return False
        for change in changes:
            if change.after is None or change.after.lease_id:
                self._forget(change.key)
            else:
                after = change.after
                self._note_stray(change.key, change.before, _Stray(after.revision, now, whole_ttl_s(after), None))
        if len(changes) > 1:
            self._deletes[Cause.REPLACED].update(ghosts(changes, deleted))
        return len(self) > before or bool(self._puts)

    def note_flaw(self, flaw: Flaw, shown: Entry | None, now: float) -> bool:
        """The catalog skipped a record; `shown` is the instance that stays in its place. Whether more is to be done."""
        entry = shown or flaw.entry
        if entry is None:
            return False
        self._note_stray(flaw.key, shown, _Stray(flaw.revision, now, whole_ttl_s(entry), None))
        return True

    def next(self, now: float) -> Commit | None:
        """What to write now; the same again until `done` or `failed` is told."""
        if self._earliest <= now:
            self._look_for_due(now)
        for cause, waiting in self._deletes.items():
            if waiting:
                some = [Delete(*it) for it, _ in zip(waiting.items(), range(MAX_DELETES), strict=False)]
                return Commit(deletes=tuple(some), cause=cause)
        return Commit(puts=(next(iter(self._puts.values())),)) if self._puts else None

    @property
    def next_due(self) -> float:
        """There will be nothing to write before this if nothing changes; infinity for never."""
        return self._earliest

    def done(self, commit: Commit) -> None:
        """All of it is written."""
        self._settle(commit, commit.items)
        for delete in commit.deletes:
            if (stray := self._strays.get(delete.key)) and stray.revision == delete.expect:
                del self._strays[delete.key]

    def failed(self, commit: Commit, keys: Collection[Key], now: float) -> None:
        """It will never work for these, or, if that is not known, for all of it. A stray has its time to live again."""
        failed = [it for it in commit.items if not keys or it.key in keys]
        self._settle(commit, failed)
        if not commit.puts:
            for item in failed:
                if (stray := self._strays.get(item.key)) and stray.revision == item.expect:
                    self._keep(item.key, stray._replace(seen_at=now))

    # ---- within

    def _note_stray(self, key: Key, before: Entry | None, stray: _Stray) -> None:
        known = self._strays.get(key)
        former = before if before is not None and before.lease_id else known.former if known else None
        self._forget(key)
        self._keep(key, stray._replace(former=former))
        if former is not None:
            self._puts[key] = Put(key, storable(former).SerializeToString(), former.lease_id, stray.revision)

    def _keep(self, key: Key, stray: _Stray) -> None:
        self._strays[key] = stray
        self._earliest = min(self._earliest, self._due(stray))

    def _look_for_due(self, now: float) -> None:
        waiting, self._earliest = self._deletes[Cause.EXPIRED], math.inf
        for key, stray in self._strays.items():
            due = self._due(stray)
            if due <= now:
                waiting.setdefault(key, stray.revision)
            else:
                self._earliest = min(self._earliest, due)

    def _forget(self, key: Key) -> None:
        """Something else is known of it now."""
        self._deletes[Cause.REPLACED].pop(key, None)
        if self._strays.pop(key, None):
            self._puts.pop(key, None)
            self._deletes[Cause.EXPIRED].pop(key, None)

    def _due(self, stray: _Stray) -> float:
        return max(stray.seen_at + stray.ttl_s, self._excused_until(stray.ttl_s))

    def _settle(self, commit: Commit, items: Iterable[Put | Delete]) -> None:
        """These need not be written any more, unless they mean another revision by now."""
        for item in items:
            waiting = self._puts if commit.puts else self._deletes[commit.cause]
            now_meant = waiting.get(item.key)
            expect = now_meant.expect if isinstance(now_meant, Put) else now_meant
            if expect == item.expect:
                del waiting[item.key]


def _is_usual(changes: Sequence[Change]) -> bool:
    """Whether all of them came or changed under a lease."""
    return not any(change.after is None or not change.after.lease_id for change in changes)
