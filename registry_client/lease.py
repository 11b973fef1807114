"""CORE: what a client must do to stay registered. It decides; the shell (keeper.py) calls and reports back.

A registration is a desired state, so nothing here counts tries or gives up. Each one is in one of five states:

                        ACCEPTED                        UNCLAIMED leads from WANTED to DOUBTED
          ┌────────┐ ──────────────────> ┌────────────┐
 want ──> │ WANTED │                     │ REGISTERED │ <─┐ renewals with the full count, SEEN
          └────────┘ <────────────────── └────────────┘ ──┘
            │    ^     FORGOTTEN, LOOSE,   │   ^
            │    │     MISSING             │   │
            │    │                         │   │ SEEN, ACCEPTED
   REFUSED, │    │ LOOSE, MISSING          │   │
     TAKEN, │    └──────────── ┌─────────┐ │   │
  DISMISSED │                  │ DOUBTED │ <───┘ LEASE_GONE (unknown to the registry), SHORT (the lease holds too few),
            │                  └─────────┘        UNPROVEN (for a ttl nobody could tell that it lives)
            v                     │ REFUSED, TAKEN, DISMISSED
          ┌──────┐ <──────────────┘                          LEAVE leads from anywhere to LEFT
          │ LOST │ <── REGISTERED too
          └──────┘

What the registry answers is a claim of somebody else's: times are bounded, what was not asked for is passed over, and
whatever is said over and over again is acted upon with growing pauses.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from random import Random

    from registry_client.backoff import Backoff
    from registry_client.instance import Instance

RENEW_PART = 3  # a lease is renewed after this part of its ttl, so two renewals may be lost
PAUSE_PART = 4  # no pause between tries is longer than this part of the ttl: a short outage must not outlast a life
# As many instances as a server lets a lease hold, unless it was told otherwise.
HOLDERS_AT_MOST = 1_000
RENEW_AT_MOST = 10_000  # leases in one message
PATIENCE_S = 5.0  # the longest wait for the answer to a renewal
NEVER = float("inf")
LOOK_UP_EVERY_S = 30.0  # how often a registration looks itself up though nothing seems wrong
# The ttls that are believed, whatever a registry says; those of registry.proto lie within.
SHORTEST_TTL_S, LONGEST_TTL_S = 1.0, 3600.0


class State(Enum):
    """How a registration stands."""

    WANTED = "wanted"  # Register is due
    REGISTERED = "registered"  # accepted, and nothing says otherwise
    DOUBTED = "doubted"  # the registry may have lost it: to be looked up
    LOST = "lost"  # taken over; its owner is told and nothing more is done
    LEFT = "left"  # its owner does not want it any more


class Input(Enum):
    """What a registration is told."""

    ACCEPTED = "accepted"  # Register was answered
    REFUSED = "refused"  # Register says that a newer owner holds the id
    FORGOTTEN = "forgotten"  # the registry has begun anew and knows nothing of before
    LEASE_GONE = "lease gone"  # the registry does not know the lease
    SHORT = "short"  # the lease lives but keeps fewer instances than it should
    UNPROVEN = "unproven"  # for a whole ttl nobody could tell that the lease lives
    SEEN = "seen"  # looked up: it is there, and the lease lives
    LOOSE = "loose"  # looked up: it is there, but our lease does not hold it any more
    MISSING = "missing"  # looked up: it is not there
    TAKEN = "taken"  # looked up: somebody else is there
    DISMISSED = "dismissed"  # looked up: somebody else has had it leave
    UNCLAIMED = "unclaimed"  # Register says that the generation it held was never given out
    LEAVE = "leave"  # its owner ends it


_WANTED, _REGISTERED, _DOUBTED, _LOST, _LEFT = State
# Doubt changes what is asked next, and not what an answer means.
_ACCEPTED: dict[Input, State] = {
    Input.ACCEPTED: _REGISTERED,
    Input.REFUSED: _LOST,
    Input.FORGOTTEN: _WANTED,
    Input.LEASE_GONE: _DOUBTED,
    Input.SHORT: _DOUBTED,
    Input.UNPROVEN: _DOUBTED,
    Input.SEEN: _REGISTERED,
    Input.LOOSE: _WANTED,
    Input.MISSING: _WANTED,
    Input.TAKEN: _LOST,
    Input.DISMISSED: _LOST,
    Input.UNCLAIMED: _DOUBTED,
    Input.LEAVE: _LEFT,
}
# Every pair is here: an answer may come late, when the state has moved on.
TRANSITIONS: dict[State, dict[Input, State]] = {
    _WANTED: {
        Input.ACCEPTED: _REGISTERED,
        Input.REFUSED: _LOST,
        Input.FORGOTTEN: _WANTED,
        Input.LEASE_GONE: _WANTED,
        Input.SHORT: _WANTED,
        Input.UNPROVEN: _WANTED,
        Input.SEEN: _WANTED,
        Input.LOOSE: _WANTED,
        Input.MISSING: _WANTED,
        Input.TAKEN: _LOST,
        Input.DISMISSED: _LOST,
        Input.UNCLAIMED: _DOUBTED,
        Input.LEAVE: _LEFT,
    },
    _REGISTERED: _ACCEPTED,
    _DOUBTED: _ACCEPTED,
    _LOST: dict.fromkeys(Input, _LOST) | {Input.LEAVE: _LEFT},
    _LEFT: dict.fromkeys(Input, _LEFT),
}


class Renewed(Enum):
    """What became of a lease: it lives, nobody can tell just now (go on), or the registry does not know it."""

    RENEWED = "renewed"
    HELD = "held"
    UNKNOWN = "unknown"


@dataclass(slots=True, eq=False)
class Lease:
    """One lease, or the wish for one while `id` is empty. Registrations with the same wish share it, as many as a
    registry lets a lease hold."""

    wanted_ttl_s: float
    id: str = ""
    ttl_s: float = 0.0
    renew_at_s: float = 0.0
    held_since_s: float | None = None  # since when whoever is asked cannot tell whether it lives
    losses: int = 0  # how often it was gone since it was last renewed
    shorts: int = 0  # how often in a row it held too few
    not_before_s: float = 0.0  # nothing is registered on it earlier
    granter: Holding | None = field(default=None, repr=False)  # whose Register is under way and will bring the id
    holders: set[Holding] = field(default_factory=set, repr=False)  # whose wish it is
    expected: int = 0  # how many registrations it held when it was last to be renewed
    parked: list[Holding] = field(default_factory=list, repr=False)  # who waits for that

    def granted(self, lease_id: str, ttl_s: float, now: float) -> None:
        """The registry attached something to this lease; the first time, that brings the lease itself."""
        if self.id != lease_id:
            self.id, self.ttl_s, self.held_since_s = lease_id, self.believed(ttl_s), None
            self.renew_at_s = now + self.ttl_s / RENEW_PART

    def believed(self, ttl_s: float) -> float:
        """What a registry says of the ttl, within reason; what was known or wished for if it says nothing."""
        known_s = self.ttl_s or self.wanted_ttl_s
        return min(max(ttl_s, SHORTEST_TTL_S), LONGEST_TTL_S) if ttl_s > 0 else known_s

    def held(self, now: float) -> None:
        """Nobody can tell just now. It is asked for again soon, here and then elsewhere."""
        if self.held_since_s is None:
            self.held_since_s = now
        self.renew_at_s = now + self.ttl_s / RENEW_PART / 2

    def renewed(self, now: float) -> None:
        """It lives for its ttl from now."""
        self.held_since_s, self.losses, self.not_before_s = None, 0, 0.0
        self.renew_at_s = now + self.ttl_s / RENEW_PART


@dataclass(slots=True, eq=False)
class Holding:
    """One registration as the core sees it. `instance` is what to register: as wanted, and as updated since."""

    instance: Instance
    lease: Lease
    state: State = State.WANTED
    epoch: str = ""  # of the order in which it was last accepted
    lease_id: str = ""  # of the lease on which it was last accepted
    shown_at_s: float = 0.0  # the last proof that the registry has it; at first, when it was wanted
    looked_at_s: float = 0.0  # the last look at the instance itself, which a renewal is not
    busy: bool = False  # a call on its behalf is under way
    attempt: int = 0
    not_before_s: float = 0.0
    planned_at_s: float = NEVER  # of its entry in the agenda
    may_claim: bool = True  # its generation is one that the registry knows of
    if_absent: bool = False  # it takes nothing over from anybody
    reason: str = ""  # why it was lost

    def take(self, event: Input, reason: str = "") -> None:
        """Move on by the table."""
        before, self.state = self.state, TRANSITIONS[self.state][event]
        if before is not self.state:
            self.attempt, self.not_before_s = 0, 0.0
            self.reason = reason or self.reason

    def prove(self, now: float) -> None:
        """The registry has shown this very instance."""
        self.shown_at_s, self.looked_at_s, self.attempt, self.not_before_s = now, now, 0, 0.0

    def invisible_for(self, now: float) -> float | None:
        """Seconds since the registry last showed this instance; None while it does, or may be trusted to."""
        trusted = self.state is State.REGISTERED and now <= self.trusted_until_s
        return None if trusted else max(0.0, now - self.shown_at_s)

    @property
    def trusted_until_s(self) -> float:
        """Until when the last proof is good: what was renewed lives for a ttl."""
        return self.shown_at_s + self.lease.ttl_s


@dataclass(frozen=True, slots=True)
class Register:
    """To do: register `holding.instance`, on `lease_id` unless that is empty."""

    holding: Holding
    lease_id: str


@dataclass(frozen=True, slots=True)
class LookUp:
    """To do: see whether the registry still has `holding.instance`."""

    holding: Holding


@dataclass(slots=True)
class Leases:
    """All that one client keeps registered.

    `due` and `renewals` say what to do now, `wake_at` when to ask again; each thing that `due` hands out is answered
    by exactly one of the methods that follow it. Times are seconds of any steady clock.
    """

    backoff: Backoff
    rng: Random
    _holdings: dict[Holding, None] = field(default_factory=dict)  # in the order in which they were wanted
    # By their wish, those that are not full last.
    _leases: dict[float, list[Lease]] = field(default_factory=dict)
    # When somebody may have something to do, earliest first. Only the entry that a holding knows of counts.
    _agenda: list[tuple[float, int, Holding]] = field(default_factory=list)
    _entries: Iterator[int] = field(default_factory=itertools.count)

    # ---- what the owner wants

    def want(self, instance: Instance, ttl_s: float, now: float, *, if_absent: bool = False) -> Holding:
        """A new registration, on a lease with others of the same ttl; `if_absent`: that takes nothing over."""
        leases = self._leases.setdefault(ttl_s, [])
        if not leases or len(leases[-1].holders) >= HOLDERS_AT_MOST:
            leases.append(Lease(ttl_s))
        lease = leases[-1]
        holding = Holding(instance, lease, shown_at_s=now, if_absent=if_absent)
        lease.holders.add(holding)
        self._holdings[holding] = None
        self._plan(holding)
        return holding

    def leave(self, holding: Holding) -> None:
        """The owner ends it. Its lease goes with the last registration on it."""
        holding.take(Input.LEAVE)
        self._holdings.pop(holding, None)
        holding.lease.holders.discard(holding)
        if not holding.lease.holders:
            self._drop(holding.lease)

    def _drop(self, lease: Lease) -> None:
        leases = self._leases.get(lease.wanted_ttl_s, [])
        if lease in leases:
            leases.remove(lease)
        if not leases:
            self._leases.pop(lease.wanted_ttl_s, None)

    def leave_all(self) -> list[Holding]:
        """The owner ends them all, and gets them back."""
        holdings = list(self._holdings)
        for holding in holdings:
            self.leave(holding)
        return holdings

    # ---- what there is

    def states(self) -> Mapping[str, int]:
        """How many registrations are in which state. May be asked for in any thread."""
        return Counter(holding.state.value for holding in list(self._holdings))

    @property
    def alive(self) -> int:
        """How many leases there are."""
        return sum(bool(lease.id) for leases in list(self._leases.values()) for lease in list(leases))

    # ---- what to do

    def due(self, now: float) -> list[Register | LookUp]:
        """What is to be called now. Everything handed out is busy until its answer is reported."""
        return list(self._due(now))

    def _due(self, now: float) -> Iterator[Register | LookUp]:
        while (holding := self._next_planned(now)) is not None:
            lease = holding.lease
            if holding.state is State.REGISTERED and now >= holding.trusted_until_s:
                holding.take(Input.UNPROVEN)
            if holding.state is not State.WANTED:
                holding.busy = True
                yield LookUp(holding)
            elif lease.granter:
                # While there is no lease, one Register goes ahead and brings it; the others then share it.
                lease.parked.append(holding)
            else:
                holding.busy, lease.granter = True, None if lease.id else holding
                yield Register(holding, lease.id)

    def _next_planned(self, now: float) -> Holding | None:
        """Take the next holding off the agenda that has something to do by `now`."""
        while self._agenda and self._agenda[0][0] <= now:
            at_s, _, holding = heapq.heappop(self._agenda)
            if at_s != holding.planned_at_s:
                continue
            holding.planned_at_s = NEVER
            if not holding.busy and self._act_at(holding) <= now:
                return holding
            self._plan(holding)
        return None

    def _plan(self, holding: Holding) -> None:
        """Put it on the agenda, unless it is there early enough or a call is under way whose answer will do that."""
        at_s = self._act_at(holding)
        if not holding.busy and at_s < holding.planned_at_s:
            holding.planned_at_s = at_s
            heapq.heappush(self._agenda, (at_s, next(self._entries), holding))

    def _act_at(self, holding: Holding) -> float:
        """When the next call for it is due."""
        if holding.state is State.WANTED:
            return max(holding.not_before_s, holding.lease.not_before_s)
        if holding.state is State.DOUBTED:
            return holding.not_before_s
        if holding.state is State.REGISTERED:
            look_up_at_s = holding.looked_at_s + max(LOOK_UP_EVERY_S, 2 * holding.lease.ttl_s)
            return max(holding.not_before_s, min(look_up_at_s, holding.trusted_until_s))
        return NEVER

    def renewals(self, now: float) -> list[str]:
        """The ids of the leases to renew now, all in one message. Those due soon go with them."""
        leases = self._live()
        if not any(lease.renew_at_s <= now for lease in leases):
            return []
        due = [lease for lease in leases if lease.renew_at_s <= now + lease.ttl_s / RENEW_PART / 2][:RENEW_AT_MOST]
        for lease in due:
            lease.expected = len(self._held_by(lease))
        return [lease.id for lease in due]

    def wake_at(self) -> float:
        """When to ask for `due` again, if nothing is reported before."""
        while self._agenda:
            at_s, _, holding = self._agenda[0]
            if at_s == holding.planned_at_s and self._act_at(holding) <= at_s:
                return at_s
            heapq.heappop(self._agenda)
            if at_s == holding.planned_at_s:
                holding.planned_at_s = NEVER
                self._plan(holding)
        return NEVER

    def renew_at(self) -> float:
        """When to ask for `renewals` again, if nothing is reported before."""
        return min((lease.renew_at_s for lease in self._live()), default=NEVER)

    def patience_s(self) -> float:
        """How long the answer to a renewal may take before the stream counts as dead, in seconds."""
        return min([PATIENCE_S, *(lease.ttl_s / RENEW_PART for lease in self._live())])

    def longest_pause_s(self) -> float:
        """How long to wait at most before renewals are tried again, in seconds."""
        return min([PATIENCE_S, *(lease.ttl_s / PAUSE_PART for lease in self._live())])

    def _live(self) -> list[Lease]:
        return [lease for leases in self._leases.values() for lease in leases if lease.id]

    # ---- what became of Register

    def accepted(
        self,
        holding: Holding,
        stored: Instance,
        lease_id: str,
        ttl_s: float,
        epoch: str,
        now: float,
        asked_at_s: float = NEVER,
    ) -> None:
        """Register was answered with the instance as stored and the lease that holds it.

        `asked_at_s`: since when it may live. This process may have stood still before it read the answer.
        """
        holding.instance, holding.epoch, holding.lease_id, holding.may_claim = stored, epoch, lease_id, True
        if holding.state is not State.LEFT:
            holding.lease.granted(lease_id, ttl_s, min(asked_at_s, now))
        holding.take(Input.ACCEPTED)
        holding.prove(now)
        self._answered(holding)

    def refused(self, holding: Holding, reason: str) -> None:
        """Register says that a newer owner holds the id."""
        holding.take(Input.REFUSED, reason)
        self._answered(holding)

    def unclaimed(self, holding: Holding, now: float) -> None:
        """Register says that the generation it held was never given out: the registry has lost its memory of it."""
        holding.may_claim = False
        holding.take(Input.UNCLAIMED)
        self.failed(holding, now)

    def lease_missing(self, holding: Holding, lease_id: str, now: float) -> None:
        """Register says that the lease it was to attach to does not exist."""
        if holding.lease.id == lease_id:
            self._lease_gone(holding.lease, None, now)
        self._answered(holding)

    def failed(self, holding: Holding, now: float) -> None:
        """Register or the look-up had no useful answer: again, after a pause."""
        # Pauses stay well within the ttl, so that an owner is back before its watchers give it up.
        ttl_s = holding.lease.ttl_s or holding.lease.wanted_ttl_s
        pause_s = self.backoff.capped(ttl_s / PAUSE_PART).delay(holding.attempt, self.rng)
        holding.attempt, holding.not_before_s = holding.attempt + 1, now + pause_s
        self._answered(holding)

    def _answered(self, holding: Holding) -> None:
        """Its call is over: it may have something to do again, and so may those who waited for the lease."""
        holding.busy = False
        self._plan(holding)
        if holding.lease.granter is holding:
            holding.lease.granter = None
            parked, holding.lease.parked = holding.lease.parked, []
            for other in parked:
                self._plan(other)

    # ---- what became of a look-up

    def seen(self, holding: Holding, found: Instance, epoch: str, now: float) -> None:
        """It is there, as `found`. A higher generation in the same order is a newer owner, unless that is itself.

        A view that is older than what was accepted proves nothing.
        """
        held = holding.instance
        if epoch == holding.epoch and found.revision < held.revision:
            self.failed(holding, now)
            return
        is_newer = epoch == holding.epoch and 0 < held.generation < found.generation
        if found.leaves_at is not None:
            holding.take(Input.DISMISSED, f"{found.key} was deregistered by somebody else and leaves after its drain")
        elif is_newer and holding.may_claim and not held.is_same_owner(found):
            # Somebody else took it over, or wrote this under the lease by hand. With the lease and the generation the
            # registry can tell, and whether it is for good.
            holding.take(Input.LOOSE)
        elif not holding.may_claim and not held.is_same_owner(found):
            holding.take(Input.TAKEN, f"{found.key} was taken over by generation {found.generation}")
        elif is_newer or not holding.may_claim:
            # A registration of its own whose answer was lost: who holds its lease nobody knows.
            holding.instance = replace(held, generation=found.generation)
            holding.take(Input.LOOSE)
        else:
            self._adopt(holding, found, epoch, now)
        self._answered(holding)

    def _adopt(self, holding: Holding, found: Instance, epoch: str, now: float) -> None:
        """Take over what was updated in the registry, so that a re-registration does not undo it."""
        if epoch == holding.epoch and found.revision > holding.instance.revision:
            updated = holding.instance.updated_like(found)
            holding.instance = replace(updated, revision=found.revision)
        holding.take(Input.SEEN if holding.lease_id == holding.lease.id and not self._is_bare(holding) else Input.LOOSE)
        if holding.state is State.REGISTERED:
            holding.prove(now)

    def _is_bare(self, holding: Holding) -> bool:
        """Whether it may be there without its lease: that holds too few though all have been seen before.

        If registering it again does not help, that is done less and less often.
        """
        shorts = holding.lease.shorts
        return holding.state is State.DOUBTED and shorts > 1 and shorts & (shorts - 1) == 0

    def missing(self, holding: Holding) -> None:
        """It is not there."""
        if not holding.may_claim:
            holding.instance = replace(holding.instance, generation=0)
        holding.take(Input.MISSING)
        self._answered(holding)

    def displaced(self, holding: Holding, by: Instance) -> None:
        """Another instance has registered its address since. Whether that is for good the registry says to who claims
        it."""
        if holding.may_claim and holding.instance.generation:
            holding.take(Input.MISSING)
        else:
            holding.take(Input.TAKEN, f"{by.address} of {holding.instance.key} was registered anew as {by.key}")
        self._answered(holding)

    # ---- what became of a renewal

    def renewed(
        self,
        lease_id: str,
        outcome: Renewed,
        ttl_s: float,
        instances: int,
        epoch: str,
        now: float,
        *,
        stale: bool = False,
        asked_at_s: float = NEVER,
    ) -> None:
        """One lease was answered: its ttl in force, how many instances it keeps, and the epoch of the answer.

        `asked_at_s`: as in `accepted`.

        `stale`: whoever answered is out of touch with the store, so that the answer is as good as HELD.
        """
        lease = next((lease for lease in self._live() if lease.id == lease_id), None)
        if lease is None:
            return
        if stale or outcome is Renewed.HELD:
            lease.ttl_s = lease.believed(ttl_s)
            lease.held(now)
        elif outcome is Renewed.UNKNOWN:
            self._lease_gone(lease, epoch, now)
        else:
            lease.ttl_s = lease.believed(ttl_s)
            lease.renewed(min(asked_at_s, now))
            self._counted(lease, instances, now)

    def is_held_too_long(self, now: float) -> bool:
        """Whether it is time to ask at another address: for a third of a ttl this one could not tell."""
        return any(
            lease.held_since_s is not None and now - lease.held_since_s >= lease.ttl_s / RENEW_PART
            for lease in self._live()
        )

    def stream_lost(self, now: float) -> None:
        """The stream of renewals ended: whoever answers next is asked for every lease at once."""
        for lease in self._live():
            lease.renew_at_s, lease.held_since_s = min(lease.renew_at_s, now), None

    def _counted(self, lease: Lease, instances: int, now: float) -> None:
        """Compare what the lease keeps with what it should; a count cannot say who is missing, so all are in doubt."""
        held = self._held_by(lease)
        # Those that came or went while the answer was under way are no reason to worry.
        is_short = instances < min(lease.expected, len(held))
        lease.shorts = lease.shorts + 1 if is_short else 0
        for holding in held:
            if is_short:
                holding.take(Input.SHORT)
                self._plan(holding)
            else:
                holding.shown_at_s = now
        for holding in self._on(lease):
            if holding.state is State.DOUBTED and holding.not_before_s > now:
                holding.not_before_s = now  # there is an answer again: no reason to wait longer
                self._plan(holding)

    def _lease_gone(self, lease: Lease, epoch: str | None, now: float) -> None:
        """In the same epoch there may be a reason, to be looked up; a registry that has begun anew has none.

        A lease that is gone again before it was ever renewed is replaced after a pause, and a longer one each time.
        """
        lease.id, lease.held_since_s, lease.shorts, lease.losses = "", None, 0, lease.losses + 1
        if lease.losses > 1:
            pauses = self.backoff.capped((lease.ttl_s or lease.wanted_ttl_s) / PAUSE_PART)
            lease.not_before_s = now + pauses.delay(lease.losses - 2, self.rng)
        for holding in self._on(lease):
            holding.take(Input.LEASE_GONE if epoch in (holding.epoch, None) else Input.FORGOTTEN)
            self._plan(holding)

    def _held_by(self, lease: Lease) -> list[Holding]:
        return [it for it in self._on(lease) if it.state is State.REGISTERED and it.lease_id == lease.id]

    def _on(self, lease: Lease) -> list[Holding]:
        """In the order in which they were wanted."""
        return [holding for holding in self._holdings if holding in lease.holders]
