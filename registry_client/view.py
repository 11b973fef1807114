"""CORE: a watch folded into a view.

Two sets are kept apart. The *folded* set is exactly what the stream says, so that its checksum can be proven. The
*shown* set is what users get: the folded set, and for a while what an epoch that ended had (see `ViewFold`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING

from registry_client.instance import DEFAULT_NAMESPACE, Endpoint, FrozenDict, Instance, Key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from protos.registry.v1 import registry_pb2 as pb

SILENCE_S = 15.0  # the server sends something every 5 s at least: a stream this silent is dead
KEEP_AT_MOST_S = 60.0  # how long an ended epoch's instances are kept for, whatever their ttl
LAG_AT_MOST_S = 60.0  # how long a replica may lag behind what was shown before it is believed
_MODULUS = 1 << 64
_ROUNDING_S = 1e-6


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs from the view yielded before: `updated` as they are now, `removed` as they were last."""

    added: tuple[Instance, ...] = ()
    updated: tuple[Instance, ...] = ()
    removed: tuple[Instance, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.updated or self.removed)


@dataclass(frozen=True)
class View:
    """The instances a watch stands for, at one moment; immutable through and through.

    `stale_for`: None while the registry confirms it, else the seconds since it last did. `changes`: what differs from
    the view yielded before; in the first, everything is added. `unconfirmed`: names of instances that a restarted
    registry has not heard of again yet; they are among `instances`, for one ttl and 60 s at most.
    """

    by_key: Mapping[Key, Instance] = field(repr=False)
    epoch: str
    revision: int
    stale_for: float | None
    changes: Changes = field(default=Changes(), repr=False)
    unconfirmed: frozenset[Key] = frozenset()

    def __post_init__(self) -> None:
        if not isinstance(self.by_key, FrozenDict):
            object.__setattr__(self, "by_key", FrozenDict(self.by_key))

    @cached_property
    def instances(self) -> tuple[Instance, ...]:
        """All of them, in the order of namespace, service and id, whether they get traffic or not."""
        return tuple(self.by_key[key] for key in sorted(self.by_key))

    @cached_property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Where calls may go: the addresses of the routable instances, in the order of `instances`."""
        return tuple(Endpoint(instance.address, instance) for instance in self.instances if instance.routable)


class Folded(Enum):
    """What a response did to the view."""

    PART = "part"  # a part of a step: nothing to show yet
    PROVEN = "proven"  # nothing new, but the set is confirmed
    CHANGED = "changed"  # the shown set is another one
    MISMATCH = "mismatch"  # something was missed: the stream is of no use, watch again


class _Kept:
    """What an ended epoch had, by name and by address, until its time is over.

    Time is what went by with the registry in reach, as counted by the one who asks. Nothing here costs more than what
    it is asked about, so that thousands who come back at once are no burden.
    """

    def __init__(self) -> None:
        self.first_over_s = float("inf")  # when the next one may be over, or a little earlier than that
        self._by_key: dict[Key, tuple[Instance, float]] = {}
        self._by_address: dict[tuple[str, str, str], Key] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def keys(self) -> frozenset[Key]:
        return frozenset(self._by_key)

    def get(self, key: Key) -> Instance | None:
        kept = self._by_key.get(key)
        return kept[0] if kept else None

    def add(self, instance: Instance, until_s: float) -> None:
        self._by_key[instance.key] = instance, until_s
        self._by_address[_place(instance)] = instance.key
        self.first_over_s = min(self.first_over_s, until_s)

    def free(self, key: Key, now_there: Instance | None) -> Iterator[Key]:
        """Let go of one that the new epoch knows about, and of one whose address it gave away; their names."""
        names = [key] if now_there is None else [key, self._by_address.get(_place(now_there), key)]
        for name in dict.fromkeys(names):
            if self._remove(name):
                yield name

    def over(self, elapsed_s: float) -> list[Key]:
        """Let go of all whose time is over; their names."""
        if elapsed_s < self.first_over_s:
            return []
        names = [key for key, (_, until_s) in self._by_key.items() if until_s <= elapsed_s]
        for name in names:
            self._remove(name)
        self.first_over_s = min((until_s for _, until_s in self._by_key.values()), default=float("inf"))
        return names

    def _remove(self, key: Key) -> bool:
        kept = self._by_key.pop(key, None)
        if kept is not None and self._by_address.get(_place(kept[0])) == key:
            del self._by_address[_place(kept[0])]
        return kept is not None


def _place(instance: Instance) -> tuple[str, str, str]:
    return instance.namespace, instance.service, instance.address


def checksum_of(instance: Instance) -> int:
    """The share of one instance in a checksum; see WatchResponse.checksum in the .proto."""
    text = f"{instance.namespace}/{instance.service}/{instance.id}@{instance.revision}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


class ViewFold:
    """Follows one watch over any number of streams, replicas and epochs. Times are seconds of any steady clock.

    A new epoch is not a removal: a registry that came back without its memory does not know what it had. What the
    ended epoch had is shown until its owner registers again, another instance registers the address, or one ttl of the
    instance, at most 60 s, has gone by *with the registry in reach*. That goes for what somebody was given; what was
    merely found on disk yields to the first registry that answers.
    """

    def __init__(self) -> None:
        self.token = ""
        self._epoch = ""
        self._revision = 0
        self._folded: dict[Key, Instance] = {}
        self._checksum = 0
        self._parts: list[pb.WatchResponse] = []
        self._needs_reset = True
        self._shown: dict[Key, Instance] = {}
        self._shown_epoch = ""
        self._is_unseen = True  # nobody was given what is shown
        self._shown_revision = 0
        self._kept = _Kept()
        self._elapsed_s = 0.0  # with the registry in reach
        self._counted_at_s: float | None = None  # up to when that is counted; None while out of reach
        self._lagging_since_s: float | None = None
        self._proof_at_s: float | None = None
        self._away = True
        self._server_stale = False
        self._touched: dict[Key, Instance | None] = {}  # as they were when the last view was taken

    # ---- streams

    def on_connect(self) -> None:
        """A new stream begins, asked for with `token`."""
        self._parts.clear()
        self._needs_reset = not self.token

    def on_disconnect(self, now: float) -> None:
        """The stream has ended, for whatever reason."""
        self._parts.clear()
        self._count_down(now)
        self._counted_at_s = None

    def on_away(self) -> None:
        """No address could be reached: what is shown counts as stale until the next proof."""
        self._away = True

    def on_response(self, response: pb.WatchResponse, now: float) -> Folded:
        """Fold one response in. After a MISMATCH the token is gone, and what was shown before is still shown."""
        self._parts.append(response)
        if response.more:
            return Folded.PART
        parts, self._parts = self._parts, []
        if not self._is_sound(parts):
            return self._mismatch()
        touched = self._fold(parts)
        if self._checksum != response.checksum:
            return self._mismatch()
        self._epoch, self._revision = response.header.epoch, response.header.revision
        self.token = response.resume_token
        self._needs_reset = False
        self._prove(response.header, now)
        return Folded.CHANGED if self._show(parts[0].reset, touched, now) else Folded.PROVEN

    def _is_sound(self, parts: list[pb.WatchResponse]) -> bool:
        """Whether the step can be folded onto what there is."""
        return parts[0].reset or (not self._needs_reset and parts[-1].header.epoch == self._epoch)

    def _mismatch(self) -> Folded:
        self.token, self._needs_reset = "", True
        return Folded.MISMATCH

    def _fold(self, parts: list[pb.WatchResponse]) -> set[Key]:
        """Apply one whole step to the folded set; the keys it names."""
        if parts[0].reset:
            self._folded, self._checksum = {}, 0
        touched: set[Key] = set()
        for part in parts:
            for message in part.upserts:
                instance = Instance.from_proto(message)
                self._put(instance)
                touched.add(instance.key)
            for named in part.removed:
                key = Key(named.namespace or DEFAULT_NAMESPACE, named.service, named.id)
                self._take(key)
                touched.add(key)
        return touched

    def _put(self, instance: Instance) -> None:
        self._take(instance.key)
        self._folded[instance.key] = instance
        self._checksum = (self._checksum + checksum_of(instance)) % _MODULUS

    def _take(self, key: Key) -> None:
        gone = self._folded.pop(key, None)
        if gone is not None:
            self._checksum = (self._checksum - checksum_of(gone)) % _MODULUS

    # ---- how old it is

    def _prove(self, header: pb.ResponseHeader, now: float) -> None:
        """The set is as the server sees it, and the server's view may itself be old."""
        self._server_stale = header.HasField("stale_for")
        self._proof_at_s = now - header.stale_for.ToNanoseconds() / 1e9
        self._away = False

    def stale_for(self, now: float) -> float | None:
        """None while the set is confirmed, else the seconds since it was."""
        if self._proof_at_s is None:
            return 0.0
        age_s = max(0.0, now - self._proof_at_s)
        return age_s if self._away or self._server_stale or age_s > SILENCE_S else None

    # ---- what is shown

    def _show(self, reset: bool, touched: set[Key], now: float) -> bool:
        """Carry the folded set over to the shown one, unless that would go back in time. Whether anything changed."""
        self._count_down(now)
        self._counted_at_s = now
        ended = self._epoch != self._shown_epoch
        if ended and not self._is_unseen:
            self._keep_what_the_ended_epoch_had()
        elif not ended and self._lags(now):
            return False
        whole = reset or self._lagging_since_s is not None
        self._lagging_since_s = None
        self._shown_epoch, self._shown_revision = self._epoch, self._revision
        freed = self._free_kept({*touched, *self._folded} if whole else touched)
        carried = self._carry_over(self._shown.keys() | self._folded.keys() if whole else touched | freed)
        return carried or bool(freed) or ended

    def _lags(self, now: float) -> bool:
        """A replica that is behind is folded but not shown; only if that lasts is it taken at its word."""
        if self._revision >= self._shown_revision:
            return False
        if self._lagging_since_s is None:
            self._lagging_since_s = now
        return now - self._lagging_since_s < LAG_AT_MOST_S

    def _keep_what_the_ended_epoch_had(self) -> None:
        for instance in self._shown.values():
            ttl_s = KEEP_AT_MOST_S if instance.ttl_s is None else min(instance.ttl_s, KEEP_AT_MOST_S)
            self._kept.add(instance, self._elapsed_s + ttl_s)

    def _free_kept(self, touched: set[Key]) -> set[Key]:
        """Stop keeping those that the new epoch knows about, by name or by address, and return their names."""
        if not self._kept:
            return set()
        return {freed for key in touched for freed in self._kept.free(key, self._folded.get(key))}

    def _carry_over(self, keys: Iterable[Key]) -> bool:
        changed = False
        for key in keys:
            changed |= self._set_shown(key, self._folded.get(key) or self._kept.get(key))
        return changed

    def _set_shown(self, key: Key, instance: Instance | None) -> bool:
        was = self._shown.get(key)
        if was == instance:
            return False
        self._touched.setdefault(key, was)
        if instance is None:
            del self._shown[key]
        else:
            self._shown[key] = instance
        return True

    def _count_down(self, now: float) -> None:
        """Let the time of the kept ones run, as far as the registry was in reach."""
        if self._counted_at_s is not None:
            self._elapsed_s += now - self._counted_at_s
            self._counted_at_s = now

    def tick(self, now: float) -> bool:
        """Let go of the kept ones whose time is over. Whether the shown set changed."""
        self._count_down(now)
        over = self._kept.over(self._elapsed_s + _ROUNDING_S)
        for key in over:
            self._set_shown(key, self._folded.get(key))
        return bool(over)

    def next_tick(self) -> float | None:
        """When `tick` has something to do, if nothing comes before."""
        if self._counted_at_s is None or not self._kept:
            return None
        return self._counted_at_s + max(0.0, self._kept.first_over_s - self._elapsed_s)

    @property
    def has_view(self) -> bool:
        """True once a registry has said what there is, now or in an earlier life of this process (see `restore`)."""
        return self._proof_at_s is not None

    @property
    def is_settled(self) -> bool:
        """True when everything shown is what the current epoch says."""
        return self.has_view and not self._kept and self._lagging_since_s is None

    def peek(self, now: float) -> View:
        """The view as it is now, without its changes."""
        return View(
            self._shown,
            self._shown_epoch,
            self._shown_revision,
            self.stale_for(now),
            Changes(),
            self._kept.keys(),
        )

    def take(self, now: float) -> View:
        """The view as it is now, with what changed since the last one taken."""
        changes = self._changes()
        self._touched.clear()
        self._is_unseen = False
        return replace(self.peek(now), changes=changes)

    def _changes(self) -> Changes:
        added, updated, removed = [], [], []
        for key, was in sorted(self._touched.items(), key=lambda item: item[0]):
            current = self._shown.get(key)
            if current is None and was is not None:
                removed.append(was)
            elif current is not None and was is None:
                added.append(current)
            elif current is not None and current != was:
                updated.append(current)
        return Changes(tuple(added), tuple(updated), tuple(removed))

    # ---- from and to disk

    def restore(self, saved: View, token: str, age_s: float, now: float) -> None:
        """Begin with what an earlier process last saw, `age_s` seconds old."""
        self.token = token
        self._epoch, self._revision = saved.epoch, saved.revision
        for instance in saved.by_key.values():
            self._put(instance)
        self._shown_epoch, self._shown_revision = saved.epoch, saved.revision
        self._proof_at_s = now - age_s
        self._carry_over(list(self._folded))
