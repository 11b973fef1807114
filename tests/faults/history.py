"""CORE: what was seen while servers and stores were harmed: one list of facts, in the order in which they were noted.

All times are seconds of one monotonic clock in one process, so "before" is real. Every fact that stands for a call has
the time at which it was sent and the time at which the answer was there.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar


@dataclass(frozen=True, slots=True)
class Fault:
    """Something was harmed, or made whole again."""

    at: float
    what: str


@dataclass(frozen=True, slots=True)
class Stall:
    """This process itself did not run: what others did in time it may have noticed late."""

    at: float
    for_s: float


@dataclass(frozen=True, slots=True)
class Registered:
    """Register was answered."""

    sent: float
    at: float
    id: str
    owner: str
    lease_id: str
    generation: int
    revision: int


@dataclass(frozen=True, slots=True)
class Renewed:
    """A renewal was answered; `state` is RENEWED, HELD or UNKNOWN."""

    sent: float
    at: float
    replica: str
    id: str
    lease_id: str
    state: str
    ttl_s: float


@dataclass(frozen=True, slots=True)
class Left:
    """An owner began to leave, or stopped caring."""

    at: float
    id: str


@dataclass(frozen=True, slots=True)
class Written:
    """An update was acknowledged: the counter that it wrote, and its revision."""

    sent: float
    at: float
    id: str
    counter: int
    revision: int


@dataclass(frozen=True, slots=True)
class Tried:
    """An update was sent. Whether it takes place is known only if a `Written` follows."""

    at: float
    id: str
    counter: int


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a watch stream: what it said, and the set that it led to, by id.

    `stream` is one stream of one watcher at one replica; `resumed` says that it began with a token.
    """

    at: float
    watcher: str
    stream: int
    replica: str
    epoch: str
    revision: int
    reset: bool
    is_sound: bool
    removed: frozenset[str]
    upserts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Seen:
    """A view that a client of the library gave to its user."""

    at: float
    client: str
    ids: frozenset[str]
    removed: frozenset[str]


@dataclass(frozen=True, slots=True)
class End:
    """What a replica shows when all is whole and quiet again: revision, generation and counter by id."""

    replica: str
    epoch: str
    checksum: int
    instances: Mapping[str, tuple[int, int, int]]


Fact = Fault | Stall | Registered | Renewed | Left | Written | Tried | Step | Seen | End
_F = TypeVar("_F", bound=Fact)


class History:
    """The facts so far. `living` are the ids whose owners never left."""

    def __init__(self, living: frozenset[str] = frozenset()) -> None:
        self.living = living
        self.facts: list[Fact] = []

    def add(self, fact: Fact) -> None:
        """Note one fact."""
        self.facts.append(fact)

    def of(self, kind: type[_F]) -> Iterator[_F]:
        """All facts of a kind, in order."""
        return (fact for fact in self.facts if isinstance(fact, kind))

    def counts(self) -> str:
        """How many of each kind, in words."""
        kinds = [type(fact).__name__ for fact in self.facts]
        return ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
