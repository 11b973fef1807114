"""CORE: what a caller may do, as everybody who has to ask sees it; what is granted to whom is `access/`."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, TypeAlias, get_args

Right: TypeAlias = Literal["read", "register", "operate", "admin"]
"""What somebody may do with a service. Each of them includes those before it."""

RIGHTS: tuple[Right, ...] = get_args(Right)

EVERY = "*"
"""In the place of a namespace or a service: all of them, also those to come."""


class Rights(Protocol):
    """What a caller may do. They never change: who is granted others gets others. Equal ones are equal, and hashed."""

    @property
    def grants(self) -> Sequence[str]:
        """What they come from, as it is written: `register default/player`."""

    def may(self, right: Right, namespace: str, service: str, /) -> bool:
        """Whether it has the right to that service; with EVERY as a name, to all that could stand there."""

    def may_some(self, right: Right, namespace: str, service: str, /) -> bool:
        """Whether there can be a service to which it has the right; with EVERY as a name, whichever stands there."""

    def __hash__(self) -> int: ...


class Unrestricted(NamedTuple):
    """The rights of everybody where nobody is asked."""

    @property
    def grants(self) -> Sequence[str]:
        """See Rights."""
        return (f"{RIGHTS[-1]} {EVERY}/{EVERY}",)

    def may(self, right: Right, namespace: str, service: str, /) -> bool:
        """See Rights."""
        return True

    def may_some(self, right: Right, namespace: str, service: str, /) -> bool:
        """See Rights."""
        return True


UNRESTRICTED: Rights = Unrestricted()
