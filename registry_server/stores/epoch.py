"""CORE: what tells the order of changes that a registry is in from all others."""

import re
from dataclasses import dataclass

from registry_server.records import MAX_FENCE

_EPOCH = re.compile(r"([0-9a-f]{16}) (0|[1-9][0-9]{0,15})")


class OrderLost(Exception):
    """What was told leads nowhere: somebody wrote or removed the epoch, or what came next was forgotten."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """An epoch as its key has it: what tells it from others, and its fence (see Snapshot)."""

    token: str
    fence: int

    @property
    def value(self) -> bytes:
        """What is written under the key."""
        return f"{self.token} {self.fence}".encode()

    @classmethod
    def read(cls, value: bytes) -> "Epoch | None":
        """The epoch in a value; None if there is none in it, or one that leaves no room for another."""
        match = _EPOCH.fullmatch(value.decode("ascii", errors="replace"))
        return cls(match[1], int(match[2])) if match and int(match[2]) <= MAX_FENCE else None

    @classmethod
    def after(cls, given_out: int, token: str, wall_s: float) -> "Epoch":
        """A new one, whose fence is above all that was given out before, also when the wall clock was set back."""
        return cls(token, min(max(int(wall_s * 1e6), given_out + 1), MAX_FENCE))
