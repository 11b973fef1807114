"""CORE: which instances are ours and which came from a neighbour, and what has to change so that it fits."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.changes import Change
from registry_server.errors import InvalidField
from registry_server.model import Entry
from registry_server.records import Key
from registry_server.rpc import validate

# A node of another system may have hundreds of checks: of so many it is shown what they found, who fails first. With
# all else at its limit, an instance then is no larger than a store takes it.
MAX_RESULTS = 10
# What the server says of an instance, and what an operator does with it here: no difference to what is there.
_NOT_THEIRS = (
    *("revision", "create_revision", "generation", "registered_at", "ttl", "leaves_at", "status"),
    *("changed_by", "changed_from"),
)


class Steps(NamedTuple):
    """What is to be registered here, and what is to leave."""

    register: tuple[pb.Instance, ...]
    remove: tuple[Entry, ...]


class Sides:
    """All instances here, on the two sides of a neighbour of that name. What came from other neighbours is on neither:
    nothing that was taken from one system is shown in another, so nothing goes in circles."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.ours: dict[Key, Entry] = {}
        self.theirs: dict[Key, Entry] = {}
        self._at: dict[tuple[str, str, str, int], Key] = {}
        # What was found to be there as it is wanted, under which lease.
        self._fitting: dict[Key, tuple[Entry, pb.Instance, str]] = {}

    def take(self, changes: Iterable[Change]) -> bool:
        """What changed here; whether any of it is ours."""
        touched = 0
        for change in changes:
            touched += self._drop(change.key)
            if change.after is not None:
                touched += self._put(change.key, change.after)
        return touched > 0

    def _drop(self, key: Key) -> bool:
        if self.theirs.pop(key, None) is not None:
            self._fitting.pop(key, None)
        entry = self.ours.pop(key, None)
        if entry is not None and self._at.get(address := _address(key, *entry.address)) == key:
            del self._at[address]
        return entry is not None

    def _put(self, key: Key, entry: Entry) -> bool:
        origin = entry.parse().origin
        if origin == self._name:
            self.theirs[key] = entry
        elif not origin:
            self.ours[key] = entry
            self._at[_address(key, *entry.address)] = key
        return not origin

    def lease_id(self) -> str:
        """The lease that most of theirs are under; empty if there is none."""
        counts: dict[str, int] = {}
        for entry in self.theirs.values():
            if not entry.owner.is_leaving:
                counts[entry.lease_id] = counts.get(entry.lease_id, 0) + 1
        return max(counts, key=lambda lease_id: (counts[lease_id], lease_id), default="")

    def steps(self, wanted: Mapping[Key, pb.Instance], lease_id: str) -> Steps:
        """What leads to exactly these being here, under that lease. An id and an address that are ours stay ours."""
        allowed = {
            key: it
            for key, it in wanted.items()
            if key not in self.ours and _address(key, it.host, it.port) not in self._at
        }
        found = (self._registered(key, it, lease_id) for key, it in allowed.items())
        remove = tuple(entry for key, entry in self.theirs.items() if key not in allowed)
        return Steps(tuple(it for it in found if it is not None), remove)

    def _registered(self, key: Key, wanted: pb.Instance, lease_id: str) -> pb.Instance | None:
        """What is to be registered, if it is not there like that."""
        entry = self.theirs.get(key)
        if entry is None:
            self._fitting.pop(key, None)
            return wanted
        if entry.owner.is_leaving:  # somebody drains it here
            return None
        known = self._fitting.get(key)
        if known is not None and known[0] is entry and known[1] is wanted and known[2] == lease_id:
            return None
        there = entry.parse()
        if entry.lease_id == lease_id and _theirs(there) == _theirs(wanted):
            self._fitting[key] = entry, wanted, lease_id
            return None
        it = pb.Instance()
        it.CopyFrom(wanted)
        it.status = there.status
        return it


def _address(key: Key, host: str, port: int) -> tuple[str, str, str, int]:
    return key.namespace, key.service, host, port


def _theirs(it: pb.Instance) -> pb.Instance:
    found = pb.Instance()
    found.CopyFrom(it)
    for name in _NOT_THEIRS:
        found.ClearField(name)  # type: ignore[arg-type]  # one of its own names
    return found


def _shown(results: Sequence[pb.CheckResult]) -> Sequence[pb.CheckResult]:
    return results if len(results) <= MAX_RESULTS else sorted(results, key=_is_well)[:MAX_RESULTS]


def _is_well(it: pb.CheckResult) -> bool:
    return it.health in (pb.UNKNOWN, pb.HEALTHY)


class Taken:
    """What a neighbour has, as it can be registered here, and why some of it cannot.

    Of those with the same address the last one counts, as with all who register here. What is as it was `before` is the
    same object, so that nobody looks at it again.
    """

    def __init__(self, origin: str, before: Mapping[Key, pb.Instance]) -> None:
        self.wanted: dict[Key, pb.Instance] = {}
        self.refused: list[str] = []
        self._origin = origin
        self._before = before
        self._at: dict[tuple[str, str, str, int], Key] = {}

    def take(self, found: Iterable[pb.Instance]) -> None:
        """Some of what it has."""
        for instance in found:
            try:
                it = validate.new_instance(instance, lambda: "")
            except InvalidField as wrong:
                self.refused.append(f"{instance.service}/{instance.id}: {wrong}")
                continue
            it.origin = self._origin
            it.ClearField("checks")  # somebody else looks at it
            it.check_results.extend(_shown(instance.check_results))
            key = Key(it.namespace, it.service, it.id)
            address = _address(key, it.host, it.port)
            self.wanted.pop(self._at.get(address, key), None)
            self._at[address] = key
            was = self._before.get(key)
            self.wanted[key] = was if was is not None and was == it else it


def taken_in(found: Iterable[pb.Instance], origin: str) -> tuple[dict[Key, pb.Instance], list[str]]:
    """All that a neighbour has, at once: what can be registered here, and why the rest cannot."""
    taken = Taken(origin, {})
    taken.take(found)
    return taken.wanted, taken.refused
