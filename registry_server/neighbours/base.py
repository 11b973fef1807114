"""CORE: a neighbour: another system's catalog of services, beside our store.

What others registered there is shown here, and what is registered here is shown there. `bridge.py` does all that is
alike for every neighbour: which replica does it, leases, what changed, what waits after an outage. A neighbour speaks
its system's language, and says how instances are written in it.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Protocol

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.model import Entry
from registry_server.records import Key


class NeighbourAway(Exception):
    """The neighbour cannot be reached, or does not do what it is asked; the text says why. Trying again makes sense."""


class Neighbour(Protocol):
    """Opened by the first thing that is asked of it. Its methods raise NeighbourAway, or OSError, and are called again
    then; both may be under way at the same time."""

    @property
    def name(self) -> str:
        """What becomes the origin of instances that come from it, the same on every replica: `consul`."""
        ...

    @property
    def refresh_s(self) -> float:
        """How long after a `publish` the next one has to come even if nothing changed, in seconds; 0 while there is
        more to do than one call does."""
        ...

    def watch(self) -> AsyncGenerator[Sequence[pb.Instance]]:
        """All that others registered there, at once and again whenever it changed; never what `publish` put there.

        An instance has an id that is unique in its service, and does not change while it is there. What it has more
        than that is what there is: fields that stay empty get their defaults. What it cannot do is tell of nothing
        while the system does not answer: that is an error.
        """
        ...

    async def publish(self, ours: Mapping[Key, Entry], *, is_whole: bool) -> None:
        """Have exactly these shown there, whatever is there now.

        If they are not the whole, what more is there stays, but for what was among them the last time.
        An Entry has another revision whenever it changed.
        """
        ...

    async def aclose(self) -> None:
        """Let go of connections. What is shown there stays for as long as that system lets it without us."""
        ...
