"""CORE: what a probe is: asked where an instance is, it says what it found, or raises what is wrong."""

from collections.abc import Awaitable, Mapping
from typing import NamedTuple, Protocol


class Target(NamedTuple):
    """Where an instance listens, as it was registered."""

    host: str
    port: int


class Failed(Exception):
    """The check fails. The text says why, for people."""


class Probe(Protocol):
    """Looks once. Its caller ends it when its time is over."""

    async def look(self) -> str:
        """What was found, for people. Raises anything for a failure."""

    async def aclose(self) -> None:
        """Let go of connections."""


class CustomCheck(Protocol):
    """A user's own kind of check: a coroutine function, named by an entry point of the group `grpc_registry.checks`.

    All of them run in one loop, in a thread that is not the server's: one that blocks makes the others late.
    """

    def __call__(self, host: str, port: int, settings: Mapping[str, str]) -> Awaitable[str | None]:
        """What was found, for people, or None. Raises anything for a failure. It is cancelled when its time is over."""
