"""SHELL: etcd as a backend: values under names, without leases of etcd's own. For a mirror, which has its own.

One link at a time, to one endpoint after the other; `link` and `api` say how etcd is spoken to.
"""

from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from itertools import groupby

import grpc.aio

from registry_api.registry.etcd.v3 import etcd_pb2 as etcd
from registry_server.stores.backend import PRESENT, Changed, Check, ChecksFailed, Everything, Item
from registry_server.stores.base import StoreAway
from registry_server.stores.epoch import OrderLost
from registry_server.stores.etcd.link import LOAD_S, Link, LinkLost, hang_up
from registry_server.stores.etcd.url import EtcdURL

PAGE = 2_000
# Below the prefix; what the store of etcd's own leases keeps there has another name.
ROOM = "mirror/v1/"


class EtcdBackend:
    """Values below `PREFIX/mirror/v1/`."""

    # etcd takes 128 operations in one transaction.
    most = 120

    def __init__(self, url: EtcdURL) -> None:
        self._url = url
        self._endpoints = list(url.endpoints)
        self._root = f"{url.prefix}/{ROOM}".encode()
        self._link: Link | None = None

    async def watch(self) -> AsyncGenerator[Everything | Changed]:
        """See Backend."""
        self._endpoints.append(endpoint := self._endpoints.pop(0))
        link = Link(endpoint, self._url)
        try:
            await link.login()
            everything = await self._load(link)
            self._link = link
            yield everything
            async for change in self._follow(link, everything.revision):
                yield change
        except (LinkLost, OrderLost, OSError) as lost:
            raise StoreAway(str(lost) or "what comes next was compacted") from lost
        finally:
            self._link = None
            await link.aclose()

    async def _load(self, link: Link) -> Everything:
        start, revision, items = self._root, 0, list[Item]()
        while True:
            page = etcd.RangeRequest(key=start, range_end=self._end, limit=PAGE, revision=revision)
            found = await link.ask(link.api.range, page, LOAD_S)
            revision = revision or found.header.revision
            items += map(self._item, found.kvs)
            if not found.more:
                return Everything(revision, tuple(items))
            start = found.kvs[-1].key + b"\0"

    async def _follow(self, link: Link, revision: int) -> AsyncGenerator[Changed]:
        call = link.open_watch()
        try:
            create = etcd.WatchCreateRequest(key=self._root, range_end=self._end, start_revision=revision + 1)
            await call.write(etcd.WatchRequest(create=create))
            while isinstance(response := await call.read(), etcd.WatchResponse) and not response.canceled:
                for change in self._changes(response.events):
                    yield change
            raise LinkLost(f"{link.endpoint}: it ended the watch")
        except grpc.aio.AioRpcError as error:
            raise link.lost(error) from error
        finally:
            await hang_up(call)

    def _changes(self, events: Iterable[etcd.Event]) -> Iterator[Changed]:
        """One for each revision; etcd keeps them whole."""
        for revision, group in groupby(events, key=lambda event: event.kv.mod_revision):
            changed = list(group)
            puts = tuple([self._item(event.kv) for event in changed if event.type == etcd.Event.PUT])
            yield Changed(revision, puts, tuple([self._name(it.kv) for it in changed if it.type == etcd.Event.DELETE]))

    async def transact(self, checks: Sequence[Check], writes: Mapping[str, bytes | None]) -> int:
        """See Backend."""
        link = self._link
        if link is None:
            raise StoreAway("etcd cannot be reached")
        request = etcd.TxnRequest()
        for check in checks:
            self._compare(request.compare.add(), check)
            found = request.failure.add().range
            found.key, found.keys_only = self._key(check.name), True
        for name, value in writes.items():
            if value is None:
                request.success.add().delete_range.key = self._key(name)
            else:
                put = request.success.add().put
                put.key, put.value = self._key(name), value
        answer = await link.write(link.api.txn, request)
        if answer.succeeded:
            return answer.header.revision
        raise ChecksFailed(_failed(checks, answer), answer.header.revision)

    async def aclose(self) -> None:
        """See Backend. What is open belongs to `watch`."""

    # ---- within

    @property
    def _end(self) -> bytes:
        return self._root[:-1] + b"0"

    def _key(self, name: str) -> bytes:
        return self._root + name.encode()

    def _name(self, kv: etcd.KeyValue) -> str:
        return kv.key.removeprefix(self._root).decode(errors="replace")

    def _item(self, kv: etcd.KeyValue) -> Item:
        return Item(self._name(kv), kv.value, kv.mod_revision, kv.create_revision)

    def _compare(self, compare: etcd.Compare, check: Check) -> None:
        compare.key, compare.target = self._key(check.name), etcd.Compare.MOD_REVISION
        if check.revision == PRESENT:
            compare.result, compare.mod_revision = etcd.Compare.GREATER, 0
        else:
            compare.result, compare.mod_revision = etcd.Compare.EQUAL, check.revision


def _failed(checks: Sequence[Check], answer: etcd.TxnResponse) -> list[str]:
    found = [it.range.kvs[0].mod_revision if it.range.kvs else 0 for it in answer.responses]
    return [
        check.name
        for check, revision in zip(checks, found, strict=True)
        if (revision == 0 if check.revision == PRESENT else revision != check.revision)
    ]
