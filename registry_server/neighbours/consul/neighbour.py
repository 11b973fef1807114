"""SHELL: Consul as a neighbour: follows its catalog, and registers our instances at an agent."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Mapping, Sequence

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.model import Entry
from registry_server.neighbours.anything import table_in, text_in
from registry_server.neighbours.at_a_time import some_at_a_time
from registry_server.neighbours.base import NeighbourAway
from registry_server.neighbours.consul.shown import DIGEST, MARK, VOUCH_S, Shown, shown
from registry_server.neighbours.consul.taken import taken
from registry_server.records import Key
from registry_server.stores.base import StoreAway, StoreError
from registry_server.stores.consul.http import ANSWER_S, Answer, Consul, next_index

# A blocking query is answered after so long even if nothing changed; Consul adds up to a sixteenth.
WAIT_S = 60
# The rest between two readings of the catalog: at least so long, and at least twice as long as the last one took.
REST_S = 0.2
# So many requests at a time; Consul allows one client 200 connections.
AT_A_TIME = 16
# How often it is looked whether the agent has what it should.
LOOK_S = 10.0
# An agent writes each registration to its disk, and takes some tens to hundreds a second: so much is done at a time.
PART_S = 2.0
# What tells that anything changed: who is registered, and what checks find.
SIGNS = ("/v1/catalog/services", "/v1/health/state/any")
CONSUL_ITSELF = "consul"
_NEVER = float("-inf")


class ConsulNeighbour:
    """See Neighbour, as for all of these. `registry` is the name by which our own services there are known."""

    def __init__(self, consul: Consul, name: str, registry: str, namespace: str) -> None:
        self.name = name
        self._consul = consul
        self._registry = registry
        self._namespace = namespace
        self._shown: dict[Key, tuple[int, Shown]] = {}
        self._looked_at = self._vouched_at = _NEVER
        self._has_more = False

    @property
    def refresh_s(self) -> float:
        """See Neighbour."""
        return 0.0 if self._has_more else LOOK_S

    # ---- from there

    async def watch(self) -> AsyncGenerator[Sequence[pb.Instance]]:
        """Read the whole catalog whenever there is a sign that it changed."""
        self._looked_at = _NEVER  # it may be another agent, or one that has forgotten everything
        loop, changed = asyncio.get_running_loop(), asyncio.Event()
        changed.set()
        tasks = [asyncio.create_task(self._wait_for(sign, changed)) for sign in SIGNS]
        for task in tasks:
            task.add_done_callback(lambda _: changed.set())
        try:
            while True:
                await changed.wait()
                for task in tasks:
                    if task.done():
                        task.result()
                changed.clear()
                began = loop.time()
                yield await self._read()
                await asyncio.sleep(max(REST_S, 2 * (loop.time() - began)))
        except StoreError as error:
            raise NeighbourAway(str(error)) from error
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _wait_for(self, path: str, changed: asyncio.Event) -> None:
        index = 0
        while True:
            query = {"index": str(index), "wait": f"{WAIT_S}s"} if index else {}
            answer = await self._consul.ask("GET", path, query, timeout_s=WAIT_S * 17 / 16 + ANSWER_S)
            if answer.reached != index:
                changed.set()
            index = next_index(index, answer.reached)
            await asyncio.sleep(REST_S)

    async def _read(self) -> list[pb.Instance]:
        services = (await self._ask("GET", "/v1/catalog/services")).json()
        if not isinstance(services, dict):
            raise StoreAway("it does not answer as Consul does")
        names = sorted(name for name in services if name != CONSUL_ITSELF)
        answers = await some_at_a_time((self._ask("GET", f"/v1/health/service/{name}") for name in names), AT_A_TIME)
        found = [
            answer.json() for answer in answers if answer.status == 200
        ]  # of some names none can be asked for: `..`
        return [it for of_service in found for it in taken(of_service, self._registry, self._namespace)]

    # ---- to there

    async def publish(self, ours: Mapping[Key, Entry], *, is_whole: bool) -> None:
        """Register what is new or changed, and now and then look whether all is there, and vouch for it."""
        try:
            now = asyncio.get_running_loop().time()
            if now - self._looked_at >= LOOK_S:
                gone = await self._look(ours, is_whole=is_whole)
                self._looked_at = now
                await some_at_a_time((self._deregister(id_) for id_ in gone), AT_A_TIME)
            if now - self._vouched_at >= VOUCH_S:
                await some_at_a_time((self._vouch(key) for key in list(self._shown)), AT_A_TIME)
                self._vouched_at = now
            left = [self._shown.pop(key)[1].id for key in list(self._shown) if key not in ours]
            await some_at_a_time((self._deregister(id_) for id_ in left), AT_A_TIME)
            await self._register_some(ours)
        except StoreError as error:
            self._looked_at = _NEVER
            raise NeighbourAway(str(error)) from error

    async def _register_some(self, ours: Mapping[Key, Entry]) -> None:
        """Those that are new or changed, as many as there is time for."""
        loop = asyncio.get_running_loop()
        until = loop.time() + PART_S
        changed = (key for key, entry in ours.items() if self._is_changed(key, entry))
        in_time = itertools.takewhile(lambda _: loop.time() < until, changed)
        await some_at_a_time((self._register(key, ours[key]) for key in in_time), AT_A_TIME)
        self._has_more = loop.time() >= until

    def _is_changed(self, key: Key, entry: Entry) -> bool:
        known = self._shown.get(key)
        return key.namespace == self._namespace and (known is None or known[0] != entry.revision)

    async def _look(self, ours: Mapping[Key, Entry], *, is_whole: bool) -> list[str]:
        """Forget what the agent does not have as it should, or any more; the services of ours that it should not have.

        What was registered before this process began is known again by its digest.
        """
        query = {"filter": f'Meta["{MARK}"] == "{self._registry}"'}
        found = (await self._ask("GET", "/v1/agent/services", query)).json()
        there = {id_: _digest(it) for id_, it in found.items()} if isinstance(found, dict) else {}
        self._shown = {key: it for key, it in self._shown.items() if there.get(it[1].id) == it[1].digest}
        wanted = {it[1].id for it in self._shown.values()}
        for key, entry in ours.items():
            if key.namespace == self._namespace and key not in self._shown:
                it = shown(key, entry.parse(), self._registry)
                wanted.add(it.id)
                if there.get(it.id) == it.digest:
                    self._shown[key] = (entry.revision, it)
        return [id_ for id_ in there if id_ not in wanted] if is_whole else []

    async def _register(self, key: Key, entry: Entry) -> None:
        it = shown(key, entry.parse(), self._registry)
        known = self._shown.get(key)
        if known is None or known[1].digest != it.digest:
            query = {"replace-existing-checks": "true"}
            await self._consul.ask("PUT", "/v1/agent/service/register", query, it.body)
        self._shown[key] = (entry.revision, it)

    async def _deregister(self, id_: str) -> None:
        await self._ask("PUT", f"/v1/agent/service/deregister/{id_}")

    async def _vouch(self, key: Key) -> None:
        """Say that it is still registered. Where that is not taken, it is registered anew."""
        known = self._shown.get(key)
        if known is None:
            return
        with contextlib.suppress(StoreAway):  # so Consul says that there is none
            path = f"/v1/agent/check/update/{known[1].vouched}"
            if (await self._consul.ask("PUT", path, body=b'{"Status": "passing"}')).status == 200:
                return
        self._shown.pop(key, None)

    async def _ask(self, method: str, path: str, query: Mapping[str, str] | None = None) -> Answer:
        return await self._consul.ask(method, path, query)

    async def aclose(self) -> None:
        """Let go of connections. Consul takes our services for gone when nobody vouches for them."""
        await self._consul.aclose()


def _digest(service: object) -> str:
    return text_in(table_in(service, "Meta"), DIGEST)
