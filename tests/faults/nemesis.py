"""SHELL: what harms the servers, the store and the ways between them, drawn from a seed."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random

from tests.faults.cast import now
from tests.faults.history import Fault, History
from tests.support.etcd import EtcdCluster, EtcdNode
from tests.support.proxy import Proxy
from tests.support.servers import RegistryServer

# Of a second fault while the first one lasts.
OVERLAP = 0.4

Action = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Harm:
    """One fault: what it is called, how it is done and undone, and how long it lasts at least and at most."""

    what: str
    do: Action
    undo: Action
    shortest_s: float
    longest_s: float


@dataclass(frozen=True, slots=True)
class Replica:
    """A registry server and its ways to the members of etcd."""

    server: RegistryServer
    ways: Sequence[Proxy]


class Nemesis:
    """Harms one thing after the other, sometimes two at a time, and makes everything whole at the end."""

    def __init__(self, cluster: EtcdCluster, replicas: Sequence[Replica], history: History, rng: Random) -> None:
        self._cluster = cluster
        self._replicas = replicas
        self._history = history
        self._rng = rng
        self._busy: set[object] = set()

    async def run(self, for_s: float) -> None:
        """Harm for so many seconds; afterwards everything runs and is connected."""
        end = now() + for_s
        while now() < end:
            lanes = 2 if self._rng.random() < OVERLAP else 1
            await asyncio.gather(*(self._one(end) for _ in range(lanes)))
            await asyncio.sleep(self._rng.choice((0.1, 0.3, 1.0, 3.0)))

    async def _one(self, end: float) -> None:
        target, harm = self._draw()
        if target in self._busy:
            return
        self._busy.add(target)
        try:
            self._history.add(Fault(now(), harm.what))
            await harm.do()
            await asyncio.sleep(min(self._rng.uniform(harm.shortest_s, harm.longest_s), max(0.0, end - now())))
            await harm.undo()
            self._history.add(Fault(now(), f"{harm.what}: over"))
        finally:
            self._busy.discard(target)

    def _draw(self) -> tuple[object, Harm]:
        """A fault, and what it is done to."""
        if self._rng.random() < 0.5:
            replica = self._rng.choice(self._replicas)
            return replica.server, self._rng.choice(self._of_replica(replica))
        if len(self._cluster.nodes) > 1 and self._rng.random() < 0.5:
            return "all of etcd", self._rng.choice(self._of_majority())
        node = self._rng.choice(self._cluster.nodes)
        return "all of etcd", self._rng.choice(self._of_node(node))

    def _of_replica(self, replica: Replica) -> list[Harm]:
        server, name = replica.server, replica.server.name

        async def kill() -> None:
            await asyncio.to_thread(server.kill)

        async def pause() -> None:
            server.pause()

        async def resume() -> None:
            server.resume()

        async def start() -> None:
            await server.start_async(60.0)

        async def cut() -> None:
            await asyncio.gather(*(way.cut() for way in replica.ways))

        async def freeze() -> None:
            for way in replica.ways:
                way.freeze()

        async def restore() -> None:
            await asyncio.gather(*(way.restore() for way in replica.ways))

        return [
            Harm(f"{name} killed", kill, start, 0.2, 4.0),
            Harm(f"{name} stands still", pause, resume, 0.5, 9.0),
            Harm(f"{name} is cut off from etcd", cut, restore, 1.0, 12.0),
            Harm(f"{name} hears nothing from etcd", freeze, restore, 1.0, 12.0),
        ]

    def _of_node(self, node: EtcdNode) -> list[Harm]:
        return [
            Harm(f"{node.name} killed", self._kill(node), self._start(), 0.2, 8.0),
            Harm(f"{node.name} frozen", self._freeze(node), self._thaw(node), 0.5, 10.0),
        ]

    def _of_majority(self) -> list[Harm]:
        async def kill_leader() -> None:
            leader = await asyncio.to_thread(self._cluster.leader)
            leader.kill()

        most = self._rng.sample(self._cluster.nodes, len(self._cluster.nodes) // 2 + 1)
        return [
            Harm("the leader of etcd killed", kill_leader, self._start(), 0.2, 8.0),
            Harm("a majority of etcd killed", self._kill(*most), self._start(), 0.2, 8.0),
            Harm("a majority of etcd frozen", self._freeze(*most), self._thaw(*most), 0.5, 10.0),
        ]

    def _kill(self, *nodes: EtcdNode) -> Action:
        async def kill() -> None:
            for node in nodes:
                node.kill()

        return kill

    def _start(self) -> Action:
        async def start() -> None:
            await self._cluster.start_async()

        return start

    def _freeze(self, *nodes: EtcdNode) -> Action:
        async def freeze() -> None:
            for node in nodes:
                node.stop()

        return freeze

    def _thaw(self, *nodes: EtcdNode) -> Action:
        async def thaw() -> None:
            for node in nodes:
                node.cont()

        return thaw
