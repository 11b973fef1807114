"""CORE: all connections, by whom they are: how many somebody may have, and who has to go when there are too many."""

import random
from collections.abc import Iterable, Sequence
from heapq import nlargest
from typing import Generic, Protocol, TypeVar

from registry_server.limits.peers import is_near, peer_of
from registry_server.limits.quotas import MAX_QUOTA, PER_PEER

# When there are too many, so many go at once, at the most: looking for them takes a while.
AT_ONCE = 200
# Of a peer that has too many, so many times the limit are told why; what comes beyond that is cut off without a word.
TOLD = 2
# Whose address is one of this machine.
NEAR = "this machine"


class Guest(Protocol):
    """A connection, as far as it matters here."""

    @property
    def is_busy(self) -> bool:
        """Whether it has a call."""

    @property
    def idleness(self) -> int:
        """For how long it has had no call, in seconds."""


M = TypeVar("M", bound=Guest)


def household(address: str) -> str:
    """Whose connections are counted together with one from there, an address as gRPC writes it."""
    return NEAR if is_near(address) else peer_of(address)


def most_of(household: str, per_peer: int) -> int:
    """How many connections that one may have; `per_peer`: 0 for as many as is usual."""
    return per_peer or (MAX_QUOTA if household is NEAR else PER_PEER)


class Crowd(Generic[M]):
    """`per_peer`: how many connections a peer may have; 0 for as many as is usual."""

    def __init__(self, limit: int, per_peer: int, rng: random.Random) -> None:
        self.all: dict[M, str] = {}
        self._limit = limit
        self._per_peer = per_peer
        self._rng = rng
        self._peers: dict[str, dict[M, None]] = {}

    def add(self, member: M, address: str) -> None:
        """One has come, from that address, as gRPC writes it."""
        peer = household(address)
        self.all[member] = peer
        self._peers.setdefault(peer, {})[member] = None

    def remove(self, member: M) -> None:
        """One is gone, or about to go. Once or several times."""
        peer = self.all.pop(member, None)
        if peer is not None:
            own = self._peers[peer]
            del own[member]
            if not own:
                del self._peers[peer]

    def limit_of(self, member: M) -> int:
        """How many connections its peer may have."""
        return most_of(self.all[member], self._per_peer)

    def exceeds(self, member: M, times: int = 1) -> bool:
        """Whether its peer has more than so many times as many as it may."""
        return len(self._peers[self.all[member]]) > times * self.limit_of(member)

    def to_go(self, newcomer: M) -> Sequence[M]:
        """Who makes room; nobody while there is some. Who has no call goes first, and of these who is of the peer that
        has most, and for longest. If all have, some of the peer that has most go, whichever: one of many clients of
        good will is found as seldom as it is one of them."""
        if len(self.all) <= self._limit:
            return ()
        idle = [it for it in self.all if not it.is_busy and it is not newcomer]
        if idle:
            return nlargest(min(AT_ONCE, 1 + len(idle) // 20), idle, key=self._weight)
        most = max(self._peers.values(), key=len)
        others: Iterable[M] = (it for it in most if it is not newcomer)
        found = list(others) or [newcomer]
        return self._rng.sample(found, min(AT_ONCE, 1 + len(found) // 100))

    def _weight(self, member: M) -> tuple[int, int]:
        return len(self._peers[self.all[member]]), member.idleness
