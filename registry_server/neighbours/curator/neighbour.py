"""SHELL: Curator's service discovery as a neighbour: follows its nodes, and shows our instances as ephemeral ones.

A session that loses its connection goes on at another server of the ensemble for as long as ours are not shown by the
next one: so an outage of one server, or another replica that goes on, removes nothing for as much as a moment.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.model import Entry
from registry_server.neighbours.at_a_time import some_at_a_time
from registry_server.neighbours.base import NeighbourAway
from registry_server.neighbours.curator.written import is_of, taken, written
from registry_server.records import Key
from registry_server.stores.base import StoreError
from registry_server.stores.zookeeper.url import ZooKeeperURL
from registry_server.stores.zookeeper.znodes import Denied, Multi, NodeExists, NoSuchNode, NotEmpty, Znodes

# So long ours are shown when nobody shows them any more, in seconds: another replica has taken over by then.
SESSION_S = 15.0
REFRESH_S = 10.0
# The rest between two readings of what changed.
REST_S = 0.1
# So many nodes are asked for at a time.
AT_A_TIME = 32


class CuratorNeighbour:
    """See Neighbour, as for all of these."""

    refresh_s = REFRESH_S

    def __init__(self, url: ZooKeeperURL) -> None:
        self.name = url.name
        self._url = url
        self._turn = 0
        self._opening = asyncio.Lock()
        self._session: Znodes | None = None
        self._last: Znodes | None = None  # whose nodes are still there
        self._shown: dict[str, bytes] = {}  # by this session
        self._looked_at = float("-inf")

    # ---- sessions

    async def _znodes(self) -> Znodes:
        async with self._opening:
            if self._session is None or self._session.lost.done():
                if self._session is not None and self._shown:
                    await self._let_go()
                    self._last = self._session
                elif self._session is not None:
                    await self._session.aclose()
                self._session, self._shown = None, {}
                self._turn += 1
                opened = Znodes(self._url, self._turn - 1, SESSION_S, everybody_reads=True)
                try:
                    await opened.open()
                except BaseException:
                    await opened.aclose()
                    raise
                self._session = opened
            return self._session

    async def _let_go(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            await last.aclose()

    async def aclose(self) -> None:
        """See Neighbour. The session is left behind, so that what is shown stays until it is over."""
        session, self._session = self._session, None
        if session is not None:
            await session.aclose(stays=bool(self._shown))
        await self._let_go()

    # ---- from there

    async def watch(self) -> AsyncGenerator[Sequence[pb.Instance]]:
        """See Neighbour. Reads what changed, whenever something did."""
        try:
            tree = _Tree(await self._znodes(), self._url.services)
            while True:
                if await tree.read():
                    yield [it for it in map(self._taken, tree.nodes()) if it is not None]
                await tree.wait()
                await asyncio.sleep(REST_S)
        except StoreError as error:
            raise NeighbourAway(str(error)) from error

    def _taken(self, node: tuple[str, str, bytes]) -> pb.Instance | None:
        return taken(*node, self._url.registry, self._url.namespace)

    # ---- to there

    async def publish(self, ours: Mapping[Key, Entry], *, is_whole: bool) -> None:
        """See Neighbour. What an earlier session showed leaves by itself, if it is not shown anew."""
        try:
            znodes = await self._znodes()
            await self._look(znodes)
            wanted = {
                f"{self._url.services}/{key.service}/{key.id}": written(entry.parse(), self._url.registry)
                for key, entry in ours.items()
                if key.namespace == self._url.namespace
            }
            changed = [(path, data) for path, data in wanted.items() if self._shown.get(path) != data]
            await some_at_a_time((self._show(znodes, *it) for it in changed), AT_A_TIME)
            gone = [path for path in self._shown if path not in wanted]
            await some_at_a_time((self._hide(znodes, path) for path in gone), AT_A_TIME)
            await self._let_go()
        except StoreError as error:
            raise NeighbourAway(str(error)) from error

    async def _look(self, znodes: Znodes) -> None:
        """Now and then: forget what is not there any more, because somebody removed it."""
        now = asyncio.get_running_loop().time()
        if now - self._looked_at < self.refresh_s / 2:
            return
        there: set[str] = set()
        for folder in {path.rpartition("/")[0] for path in self._shown}:
            with contextlib.suppress(NoSuchNode):
                there.update(f"{folder}/{name}" for name in await znodes.children(folder))
        self._shown = {path: data for path, data in self._shown.items() if path in there}
        self._looked_at = now

    async def _show(self, znodes: Znodes, path: str, data: bytes) -> None:
        try:
            if path in self._shown:
                await znodes.set(path, data)
            else:
                await self._make(znodes, path, data)
            self._shown[path] = data
        except (NodeExists, Denied):  # it is somebody else's, who has the id there, or keeps the service
            self._shown.pop(path, None)
        except NoSuchNode:  # it was removed meanwhile; the next time it is made anew
            self._shown.pop(path, None)
            self._looked_at = float("-inf")

    async def _make(self, znodes: Znodes, path: str, data: bytes) -> None:
        """Raises NodeExists if there is one that is not ours."""
        try:
            await znodes.create(path, data, ephemeral=True)
        except NoSuchNode:
            await znodes.ensure(path.rpartition("/")[0], is_open=True)
            await znodes.create(path, data, ephemeral=True)
        except NodeExists:
            if not is_of((await znodes.get(path)).data, self._url.registry):
                raise

            def replace(multi: Multi) -> None:
                multi.delete(path)
                multi.create(path, data, ephemeral=True)

            await znodes.commit(replace)

    async def _hide(self, znodes: Znodes, path: str) -> None:
        self._shown.pop(path, None)
        with contextlib.suppress(NoSuchNode, Denied):
            await znodes.delete(path)
        with contextlib.suppress(NoSuchNode, NotEmpty, Denied):
            await znodes.delete(path.rpartition("/")[0])


class _Tree:
    """The nodes of all services, as far as they were read. What changes is told once, and read again then."""

    def __init__(self, znodes: Znodes, top: str) -> None:
        self._znodes = znodes
        self._top = top
        self._services: dict[str, dict[str, bytes]] = {}
        self._stale: set[tuple[str, ...]] = {()}  # the top, services, nodes
        self._news = asyncio.Event()
        znodes.lost.add_done_callback(lambda _: self._news.set())

    def nodes(self) -> list[tuple[str, str, bytes]]:
        """Service, id and what is there, of each."""
        return [(service, id_, data) for service, found in self._services.items() for id_, data in found.items()]

    async def wait(self) -> None:
        """Until something changed, or the session is lost."""
        await self._news.wait()

    async def read(self) -> bool:
        """Read what is not known any more; whether there was any. Raises StoreError."""
        self._news.clear()
        stale, self._stale = self._stale, set()
        if self._znodes.lost.done():
            await self._znodes.sync(self._top)  # which says so
        if () in stale:
            stale |= await self._read_top()
        for service in [name[0] for name in stale if len(name) == 1]:
            stale |= await self._read_service(service)
        nodes = [name for name in stale if len(name) == 2]
        await some_at_a_time((self._read_node(*name) for name in nodes), AT_A_TIME)
        return bool(stale)

    async def _read_top(self) -> set[tuple[str, ...]]:
        changed = self._is_stale()
        names: list[str] = []
        while True:
            with contextlib.suppress(NoSuchNode):
                names = await self._znodes.children(self._top, changed)
                break
            if not await self._znodes.exists(self._top, changed):
                break
        new: set[tuple[str, ...]] = {(name,) for name in names if name not in self._services}
        self._services = {name: self._services.get(name, {}) for name in names}
        return new

    async def _read_service(self, service: str) -> set[tuple[str, ...]]:
        try:
            names = await self._znodes.children(f"{self._top}/{service}", self._is_stale(service))
        except (NoSuchNode, Denied):  # whose it is may keep it from us: that is not there for us
            self._services.pop(service, None)
            return set()
        known = self._services.get(service, {})
        self._services[service] = {name: known[name] for name in names if name in known}
        return {(service, name) for name in names if name not in known}

    async def _read_node(self, service: str, id_: str) -> None:
        found = self._services.get(service)
        try:
            kept = await self._znodes.get(f"{self._top}/{service}/{id_}", self._is_stale(service, id_))
        except (NoSuchNode, Denied):
            if found is not None:
                found.pop(id_, None)
            return
        if found is not None:
            found[id_] = kept.data

    def _is_stale(self, *name: str) -> Callable[[], None]:
        def changed() -> None:
            self._stale.add(name)
            self._news.set()

        return changed
