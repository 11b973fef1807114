"""SHELL: one run: a cluster of etcd, registry servers on it, everybody at work, and what harms them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import registry_client
from tests.faults import cast
from tests.faults.cast import Cast, now
from tests.faults.history import End, Fault, History
from tests.faults.nemesis import Nemesis, Replica
from tests.support.etcd import EtcdCluster
from tests.support.proxy import Proxy
from tests.support.raw import RawClient
from tests.support.servers import RegistryServer
from tests.support.waiting import until

REPLICAS = 3
WATCHERS_EACH = 2
BY_LIBRARY = tuple(f"game-{number}" for number in range(6))
BY_HAND = tuple(f"hand-{number}" for number in range(3))
WRITTEN = ("score-0", "score-1")
SEATS = ("seat-0", "seat-1")
VISITORS = ("ann", "bob", "cid")
# After the last fault: how long until all is as it should be, and for how long it is then watched.
HEAL_S = 60.0
QUIET_S = 2 * cast.TTL_S


async def play(directory: Path, *, seed: int, for_s: float, members: int) -> History:
    """One history of `for_s` seconds of faults drawn from `seed`, on an etcd of so many members."""
    history = History(frozenset((*BY_LIBRARY, *BY_HAND, *WRITTEN)))
    async with contextlib.AsyncExitStack() as stack:
        # etcd before 3.5.13 lets a leader that stood still end leases that its successor has renewed (docs/etcd.md).
        cluster = EtcdCluster(directory, size=members, newest=members > 1)
        stack.callback(cluster.kill)
        await cluster.start_async()
        replicas = [await stack.enter_async_context(_replica(directory, cluster, n)) for n in range(1, REPLICAS + 1)]
        addresses = [replica.server.address for replica in replicas]
        company = Cast(addresses, history, Random(seed))
        for address in addresses:
            company.clients[address] = await stack.enter_async_context(RawClient(address))
        await stack.enter_async_context(_at_work(company))
        await Nemesis(cluster, replicas, history, Random(seed)).run(for_s)
        history.add(Fault(now(), "all is whole again"))
        await asyncio.sleep(QUIET_S)
        await _note_the_end(company)
    return history


@asynccontextmanager
async def _replica(directory: Path, cluster: EtcdCluster, number: int) -> AsyncIterator[Replica]:
    async with contextlib.AsyncExitStack() as stack:
        ways = [await stack.enter_async_context(Proxy(node.endpoint)) for node in cluster.nodes]
        url = cluster.url("/faults", at=[way.address for way in ways])
        server = RegistryServer(directory, store=url, name=f"replica-{number}")
        stack.callback(server.kill)
        await server.start_async()
        yield Replica(server, ways)


@asynccontextmanager
async def _at_work(company: Cast) -> AsyncIterator[None]:
    """Everybody at work, from when all are there. What ends by itself ends the run."""
    ready = [asyncio.Event() for _ in range(2)]
    half = len(BY_LIBRARY) // 2
    async with (
        registry_client.connect(company.replicas, cache_dir=None) as one,
        registry_client.connect(company.replicas[::-1], cache_dir=None) as other,
        asyncio.TaskGroup() as tasks,
    ):
        work = [cast.notice_stalls(company.history)]
        work += [cast.stay(company, one if n < half else other, id_) for n, id_ in enumerate(BY_LIBRARY)]
        work += [cast.stay_by_hand(company, id_) for id_ in BY_HAND]
        work += [cast.write(company, id_) for id_ in WRITTEN]
        work += [cast.pass_by(company, seat, visitor) for seat in SEATS for visitor in VISITORS]
        work += [cast.look(company, f"library-{n}", event) for n, event in enumerate(ready)]
        work += [
            cast.Watcher(company, client, f"watcher-{number}-of-{address}").run()
            for address, client in company.clients.items()
            for number in range(WATCHERS_EACH)
        ]
        running = [tasks.create_task(coroutine) for coroutine in work]
        try:
            async with asyncio.timeout(HEAL_S):
                await asyncio.gather(*(event.wait() for event in ready))
            yield
        finally:
            for task in running:
                task.cancel()


async def _note_the_end(company: Cast) -> None:
    """What every replica shows, once they agree; if they never do, what they show then."""
    ends: list[End] = []

    async def agree() -> bool:
        ends[:] = [await _end(client) for client in company.clients.values()]
        same = all(_shown(end) == _shown(ends[0]) for end in ends)
        return same and company.history.living <= ends[0].instances.keys()

    with contextlib.suppress(AssertionError):
        await until(agree, timeout_s=HEAL_S, what="all replicas show the same")
    for end in ends:
        company.history.add(end)


def _shown(end: End) -> tuple[object, ...]:
    return end.epoch, end.checksum, end.instances


async def _end(client: RawClient) -> End:
    listed = await client.list()
    shown = {it.id: (it.revision, it.generation, int(it.metadata.get(cast.COUNTER, "0"))) for it in listed.instances}
    return End(client.address, listed.header.epoch, listed.checksum, shown)
