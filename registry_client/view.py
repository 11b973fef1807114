"""CORE: a watch folded into a view.

Two sets are kept apart. The *folded* set is exactly what the stream says, so that its checksum can be proven. The
*shown* set is what users get: the folded set, and for a while what an epoch that ended had (see `ViewFold`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING

from registry_client.instance import Cause, Endpoint, FrozenDict, Instance, Key, Removed
from registry_client.steps import Asked, Member, Refused, Steps, WatchLimits, check_bounds, checksum_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Set

    from registry_api.registry.v1 import registry_pb2 as pb
    from registry_client.steps import Step

SILENCE_S = 15.0  # the server sends something every 5 s at least: a stream this silent is dead
KEEP_AT_MOST_S = 60.0  # how long an ended epoch's instances are kept for, whatever their ttl
KEEP_AT_LEAST_S = 5.0  # a shorter ttl is over before its owner has found the way back
LAG_AT_MOST_S = 60.0  # how long a replica may lag behind what was shown before it is believed
_MODULUS = 1 << 64
_ROUNDING_S = 1e-6
_LAST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs from the view yielded before: `updated` as they are now, `removed` as they were last, and why each
    left (`cause`)."""

    added: tuple[Instance, ...] = ()
    updated: tuple[Instance, ...] = ()
    removed: tuple[Removed, ...] = ()

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
    REFUSED = "refused"  # not to be used, or something was missed: the stream is of no use, watch again


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

    def is_any_over(self, elapsed_s: float) -> bool:
        """Whether there is one whose time is over."""
        if elapsed_s >= self.first_over_s:
            self.first_over_s = min((until_s for _, until_s in self._by_key.values()), default=float("inf"))
        return elapsed_s >= self.first_over_s

    def let_go(self, elapsed_s: float) -> list[Key]:
        """Let go of all whose time is over; their names."""
        if not self.is_any_over(elapsed_s):
            return []
        names = [key for key, (_, until_s) in self._by_key.items() if until_s <= elapsed_s]
        for name in names:
            self._remove(name)
        return names

    def _remove(self, key: Key) -> bool:
        kept = self._by_key.pop(key, None)
        if kept is not None and self._by_address.get(_place(kept[0])) == key:
            del self._by_address[_place(kept[0])]
        return kept is not None


def _place(instance: Instance) -> tuple[str, str, str]:
    return instance.namespace, instance.service, instance.address


class ViewFold:
    """Follows one watch over any number of streams, replicas and epochs.

    Times are seconds of a steady clock that stands still while this process does: what a stopped process did not read
    has not failed to come. `on_standstill` tells of that, for the age of what is shown runs on.

    A new epoch is not a removal: a registry that came back without its memory does not know what it had. What the
    ended epoch had is shown until its owner registers again, another instance registers the address, or one ttl of the
    instance, 5 s at least and 60 s at most, has gone by *with the registry in reach*; and then only when an answer that
    was asked for after that (see `is_due`) does not know it either. That goes for what somebody was given; what was
    merely found on disk yields to the first registry that answers.
    """

    def __init__(self, asked: Asked | None = None, limits: WatchLimits | None = None) -> None:
        self.token = ""
        self.reason = ""  # why the last answer that was refused was
        self._limits = limits or WatchLimits()
        self._steps = Steps(asked or Asked(), self._limits)
        self._epoch = ""
        self._revision = 0
        self._folded: dict[Key, Member] = {}
        self._useless: set[Key] = set()  # what is folded and cannot be called, so nobody is shown it
        self._size = 0
        self._checksum = 0
        self._needs_reset = True
        self._shown: dict[Key, Instance] = {}
        self._shown_epoch = ""
        self._is_unseen = True  # nobody was given what is shown
        self._shown_revision = 0
        self._kept = _Kept()
        self._elapsed_s = 0.0  # with the registry in reach
        self._counted_at_s: float | None = None  # up to when that is counted; None while out of reach
        self._asked_at_s = 0.0  # of that time, when the stream was asked for
        self._lagging_since_s: float | None = None  # of that time
        self._proof_at_s: float | None = None
        self._heard_at_s = 0.0
        self._is_proven = False
        self._away = True
        self._server_stale = False
        self._touched: dict[Key, Instance | None] = {}  # as they were when the last view was taken
        self._causes: dict[Key, Cause] = {}  # why those of them left that did
        self._told_causes: dict[Key, Cause] = {}  # by the last step

    # ---- streams

    def on_connect(self) -> None:
        """A new stream begins, asked for with `token`."""
        self._steps.clear()
        self._needs_reset = not self.token
        self._asked_at_s = self._elapsed_s

    def on_disconnect(self, now: float) -> None:
        """The stream has ended, for whatever reason."""
        self._steps.clear()
        self._count_down(now)
        self._counted_at_s = None

    def on_away(self) -> None:
        """No address could be reached: what is shown counts as stale until the next proof."""
        self._away = True

    def on_standstill(self, by_s: float) -> None:
        """This process has stood still for so long: what is shown is as much older, and nothing else has happened."""
        if self._proof_at_s is not None:
            self._proof_at_s -= by_s

    def on_response(self, response: pb.WatchResponse, now: float) -> Folded:
        """Fold one response in. After REFUSED the token is gone, and what was shown before is still shown."""
        try:
            step = self._steps.add(response)
            if step is None:
                return Folded.PART
            if not step.reset and (self._needs_reset or step.epoch != self._epoch):
                raise Refused("it tells of a difference without the full set before")  # noqa: TRY301
            touched = self._fold(step)
            check_bounds(self._limits, self._size, max(len(self._folded), (len(self._folded) + len(self._kept)) // 2))
            self._check_checksum(response)
        except Refused as refusal:
            self.token, self._needs_reset, self.reason = "", True, str(refusal)
            return Folded.REFUSED
        self._epoch, self._revision = step.epoch, response.header.revision
        self.token = response.resume_token
        self._needs_reset = False
        self._prove(response.header, now)
        changed = self._show(step.reset, touched, now)
        self._told_causes = {}
        return Folded.CHANGED if changed else Folded.PROVEN

    def _check_checksum(self, response: pb.WatchResponse) -> None:
        if self._checksum != response.checksum:
            raise Refused("the watch missed something: the checksum does not match")

    @property
    def is_in_step(self) -> bool:
        """True while a step has begun and not all parts of it have come."""
        return self._steps.is_open

    def _fold(self, step: Step) -> set[Key]:
        """Apply one whole step to the folded set; the keys it names."""
        if step.reset:
            self._folded, self._useless, self._size, self._checksum = {}, set(), 0, 0
        for member in step.upserts:
            self._put(member)
        for key in step.removed:
            self._take(key)
        self._told_causes = step.removed
        return {member.key for member in step.upserts}.union(step.removed)

    def _put(self, member: Member) -> None:
        key, instance = member.key, member.instance
        self._take(key)
        self._folded[key] = member
        self._size += member.size
        self._checksum = (self._checksum + member.share) % _MODULUS
        if not (key.service and key.id and instance.host and 0 < instance.port <= _LAST_PORT):
            self._useless.add(key)

    def _take(self, key: Key) -> None:
        gone = self._folded.pop(key, None)
        if gone is not None:
            self._size -= gone.size
            self._checksum = (self._checksum - gone.share) % _MODULUS
            self._useless.discard(key)

    def _known(self, key: Key) -> Instance | None:
        """What the current epoch has under that name, if it is of any use."""
        member = None if key in self._useless else self._folded.get(key)
        return member.instance if member is not None else None

    # ---- how old it is

    def _prove(self, header: pb.ResponseHeader, now: float) -> None:
        """The set is as the server sees it, and the server's view may itself be old."""
        self._server_stale = header.HasField("stale_for")
        self._proof_at_s = now - max(0.0, header.stale_for.ToNanoseconds() / 1e9)
        self._heard_at_s = now
        self._is_proven = True
        self._away = False

    def age(self, now: float) -> float:
        """For how many seconds what is shown has not been confirmed."""
        return 0.0 if self._proof_at_s is None else max(0.0, now - self._proof_at_s)

    def stale_for(self, now: float) -> float | None:
        """None while the set is confirmed, else the seconds since it was."""
        if self._proof_at_s is None:
            return 0.0
        is_stale = self._away or self._server_stale or now - self._heard_at_s > SILENCE_S
        return self.age(now) if is_stale else None

    # ---- what is shown

    def _show(self, reset: bool, touched: set[Key], now: float) -> bool:
        """Carry the folded set over to the shown one, unless that would go back in time. Whether anything changed."""
        self._count_down(now)
        # A server that cannot reach its store can take nobody's registration: that is no time in which to come back.
        self._counted_at_s = None if self._server_stale else now
        ended = self._epoch != self._shown_epoch
        if ended and not self._is_unseen:
            self._keep_what_the_ended_epoch_had()
        elif not ended and self._lags():
            return False
        whole = reset or self._lagging_since_s is not None
        self._lagging_since_s = None
        self._shown_epoch, self._shown_revision = self._epoch, self._revision
        freed = self._free_kept({*touched, *self._folded} if whole else touched) | self._let_go()
        carried = self._carry_over(self._shown.keys() | self._folded.keys() if whole else touched | freed)
        return carried or bool(freed) or ended

    def _lags(self) -> bool:
        """A replica that is behind is folded but not shown; only if that lasts is it taken at its word."""
        if self._revision >= self._shown_revision:
            return False
        if self._lagging_since_s is None:
            self._lagging_since_s = self._elapsed_s
        return self._server_stale or self._elapsed_s - self._lagging_since_s < LAG_AT_MOST_S

    def _keep_what_the_ended_epoch_had(self) -> None:
        for instance in self._shown.values():
            ttl_s = KEEP_AT_MOST_S if instance.ttl_s is None else instance.ttl_s
            self._kept.add(instance, self._elapsed_s + min(max(ttl_s, KEEP_AT_LEAST_S), KEEP_AT_MOST_S))

    def _free_kept(self, touched: set[Key]) -> set[Key]:
        """Stop keeping those that the new epoch knows about, by name or by address, and return their names."""
        if not self._kept:
            return set()
        return {freed for key in touched for freed in self._kept.free(key, self._known(key))}

    def _let_go(self) -> set[Key]:
        """Stop keeping those whose time was over when this stream was asked for, and return their names."""
        return set() if self._server_stale else set(self._kept.let_go(self._asked_at_s + _ROUNDING_S))

    def _carry_over(self, keys: Iterable[Key]) -> bool:
        changed = False
        for key in keys:
            changed |= self._set_shown(key, self._known(key) or self._kept.get(key))
        return changed

    def _set_shown(self, key: Key, instance: Instance | None) -> bool:
        was = self._shown.get(key)
        if was == instance:
            return False
        # Who came and went unseen leaves no trace, so that a reader who reads nothing costs no more than two sets.
        self._causes.pop(key, None)
        if self._touched.setdefault(key, was) == instance:
            del self._touched[key]
        if instance is None:
            del self._shown[key]
            if key in self._touched:
                self._causes[key] = self._told_causes.get(key, Cause.UNSPECIFIED)
        else:
            self._shown[key] = instance
        return True

    # ---- what time does

    def _count_down(self, now: float) -> None:
        """Let the time of the kept ones run, as far as the registry was in reach."""
        if self._counted_at_s is not None:
            self._elapsed_s += now - self._counted_at_s
            self._counted_at_s = now

    def is_due(self, now: float) -> bool:
        """True when the time of a kept one is over: ask anew, and what is not known then is let go of.

        Only an answer to a new question shows that nothing which says otherwise waits unread.
        """
        self._count_down(now)
        if self._counted_at_s is None or self.is_behind:
            return False
        return self._kept.is_any_over(self._elapsed_s + _ROUNDING_S)

    def next_due(self) -> float | None:
        """When `is_due` will be so, if nothing comes before."""
        if self._counted_at_s is None or not self._kept or self.is_behind:
            return None
        return self._counted_at_s + max(0.0, self._kept.first_over_s - self._elapsed_s)

    # ---- what readers get

    @property
    def has_view(self) -> bool:
        """True once a registry has said what there is, now or in an earlier life of this process (see `restore`)."""
        return self._proof_at_s is not None

    @property
    def is_settled(self) -> bool:
        """True when everything shown is what the current epoch says, and a registry has said so to this process."""
        return self._is_proven and not self._kept and not self.is_behind

    @property
    def is_behind(self) -> bool:
        """True while the replica that answers lags behind what is shown."""
        return self._lagging_since_s is not None

    @property
    def useless(self) -> Set[Key]:
        """Names of what the registry has and nobody can call: without a name, a host or a port. They are not shown."""
        return self._useless

    def peek(self, now: float) -> View:
        """The view as it is now, without its changes."""
        return self._view(now, Changes())

    def take(self, now: float) -> View:
        """The view as it is now, with what changed since the last one taken."""
        changes = self._changes()
        self._touched.clear()
        self._causes.clear()
        self._is_unseen = False
        return self._view(now, changes)

    def _view(self, now: float, changes: Changes) -> View:
        epoch, revision = self._shown_epoch, self._shown_revision
        return View(self._shown, epoch, revision, self.stale_for(now), changes, self._kept.keys())

    def _changes(self) -> Changes:
        added, updated, removed = [], [], []
        for key, was in sorted(self._touched.items(), key=lambda item: item[0]):
            current = self._shown.get(key)
            if current is None and was is not None:
                removed.append(Removed.of(was, self._causes[key]))
            elif current is not None and was is None:
                added.append(current)
            elif current is not None:
                updated.append(current)
        return Changes(tuple(added), tuple(updated), tuple(removed))

    # ---- from disk

    def restore(self, saved: View, token: str, age_s: float, now: float) -> None:
        """Begin with what an earlier process last saw, `age_s` seconds old."""
        self.token = token
        self._epoch, self._revision = saved.epoch, saved.revision
        for key, instance in saved.by_key.items():
            self._put(Member(key, instance, 0, checksum_of(instance)))
        self._shown_epoch, self._shown_revision = saved.epoch, saved.revision
        self._proof_at_s = now - age_s
        self._carry_over(list(self._folded))
