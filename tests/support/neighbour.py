"""A neighbour in memory: what others have there, what is shown there, and its outages, in a test's hands."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.model import Entry
from registry_server.neighbours.base import NeighbourAway
from registry_server.records import Key


class Village:
    """The other system. Every server has a `Road` to it."""

    def __init__(self) -> None:
        self.others: dict[str, pb.Instance] = {}
        self.shown: dict[Key, Entry] = {}
        self.is_away = False
        self.watching: set[Road] = set()

    def put(self, id_: str, port: int, **more: object) -> None:
        """Somebody who knows nothing of us registers there, or changes."""
        instance = pb.Instance(service="player", id=id_, host="10.0.0.9", port=port, **more)  # type: ignore[arg-type]
        self.others[id_] = instance
        self._news()

    def remove(self, id_: str) -> None:
        """And leaves."""
        del self.others[id_]
        self._news()

    def go_away(self, *, is_away: bool = True) -> None:
        """It does not answer, or does again."""
        self.is_away = is_away
        self._news()

    def _news(self) -> None:
        for road in self.watching:
            road.news.set()


class Road:
    """One server's way there: a Neighbour."""

    name = "village"
    refresh_s = 1.0

    def __init__(self, village: Village) -> None:
        self._village = village
        self.news = asyncio.Event()
        self._before: set[Key] = set()

    async def watch(self) -> AsyncGenerator[Sequence[pb.Instance]]:
        self._village.watching.add(self)
        try:
            while True:
                self._reach()
                self.news.clear()
                yield list(self._village.others.values())
                await self.news.wait()
        finally:
            self._village.watching.discard(self)

    async def publish(self, ours: Mapping[Key, Entry], *, is_whole: bool) -> None:
        self._reach()
        more = {} if is_whole else {key: it for key, it in self._village.shown.items() if key not in self._before}
        self._village.shown, self._before = {**more, **ours}, set(ours)

    def _reach(self) -> None:
        if self._village.is_away:
            raise NeighbourAway("nobody is at home")

    async def aclose(self) -> None:
        pass
