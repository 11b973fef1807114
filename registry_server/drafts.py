"""CORE: what this server is about to write, so that it need not read what the store then tells of it.

Whoever writes an instance has it in hand, checked and whole. When the store tells of the very same bytes, the entry is
made of that, by the same code as of a record that has been read; only the reading and the checks are spared.
"""

from collections.abc import Iterable
from typing import NamedTuple

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.model import MAX_VALUE_BYTES, Entry
from registry_server.records import Key, Record


class Draft(NamedTuple):
    """The value that is written under a key, and the instance that it encodes, which belongs to nobody else."""

    key: Key
    value: bytes
    instance: pb.Instance


class Drafts:
    """At most one for each key, as only one of a server's writers has the turn of a key at a time."""

    def __init__(self) -> None:
        self._drafts: dict[Key, Draft] = {}

    def __len__(self) -> int:
        return len(self._drafts)

    def add(self, drafts: Iterable[Draft]) -> None:
        """These are about to be written."""
        for draft in drafts:
            self._drafts[draft.key] = draft

    def drop(self, drafts: Iterable[Draft]) -> None:
        """These are written, or will not be."""
        for draft in drafts:
            self._drafts.pop(draft.key, None)

    def entry(self, record: Record, fence: int) -> Entry:
        """What a record says; from its draft, which is of no more use then, if there is one. Raises BadRecord."""
        draft = self._drafts.pop(record.key, None)
        if draft is None or draft.value != record.value or len(record.value) > MAX_VALUE_BYTES:
            return Entry.of(record, fence)
        return Entry.made(draft.instance, record, fence)
