"""CORE: what is set beside the instances: records of every kind but theirs, as the store tells of them.

What a value means is known to the room that wrote it. Nothing of what happens to instances happens to a setting: it is
never held back, never counted, in no List and no Watch.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from registry_server.records import Delta, Key, Kind, Record, Snapshot


class SettingChange(NamedTuple):
    """One setting before and after: it came (`before` is None), changed, or left (`after` is None)."""

    revision: int
    key: Key
    before: Record | None
    after: Record | None


class Settings:
    """All settings by key, and what changed since that was last asked."""

    def __init__(self) -> None:
        self._records: dict[Key, Record] = {}
        self._changes: list[SettingChange] = []

    def __len__(self) -> int:
        """How many there are."""
        return len(self._records)

    # ---- reading

    def get(self, key: Key) -> Record | None:
        """The setting of that name."""
        return self._records.get(key)

    def of(self, kind: Kind, namespace: str | None = None, service: str | None = None) -> Iterator[Record]:
        """All of one kind, and of these names where they are given, in no order that means anything."""
        for key, record in self._records.items():
            if key.kind is kind and namespace in (None, key.namespace) and service in (None, key.service):
                yield record

    def take_changes(self) -> Sequence[SettingChange]:
        """What changed since this was last asked, in order."""
        if not self._changes:
            return ()
        found, self._changes = self._changes, []
        return found

    # ---- writing: by events alone

    def load(self, snapshot: Snapshot) -> None:
        """Become what a full set has of settings."""
        found = {record.key: record for record in snapshot.records if record.key.kind is not Kind.INSTANCE}
        for key in [key for key in self._records if key not in found]:
            self._set(snapshot.revision, key, None)
        for key, record in found.items():
            if self._records.get(key) != record:
                self._set(snapshot.revision, key, record)

    def apply(self, delta: Delta) -> None:
        """Take in what one revision changed in settings."""
        for key, *_ in delta.deletes:
            if key in self._records:
                self._set(delta.revision, key, None)
        for record in delta.puts:
            if record.key.kind is not Kind.INSTANCE:
                self._set(delta.revision, record.key, record)

    def _set(self, revision: int, key: Key, after: Record | None) -> None:
        before = self._records.pop(key, None)
        if after is not None:
            self._records[key] = after
        self._changes.append(SettingChange(revision, key, before, after))
