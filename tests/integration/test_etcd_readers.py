"""Others read what the etcd store wrote: etcdctl, and the library etcd3. docs/etcd.md describes the layout."""

import asyncio
import json

from registry_server.records import Cause, Commit, Delete, Key, Put
from registry_server.stores.etcd.store import EtcdStore
from registry_server.testing import Running, running
from tests.support.etcd import run_with_etcd3
from tests.support.stores import Backends, backends, on_every_etcd

__all__ = ["backends"]

KEY = Key("default", "player", "größe-1")
VALUE = bytes(range(256))

READ = """
import json, sys
import etcd3

host, port, prefix, lease = sys.argv[1:]
client = etcd3.client(host=host, port=int(port))
found = {
    meta.key.decode(): {"value": value.hex(), "lease": "%016x" % meta.lease_id, "revision": meta.mod_revision}
    for value, meta in client.get_prefix(prefix)
}
info = client.get_lease_info(int(lease, 16))
print(json.dumps({"found": found, "ttl": info.grantedTTL, "keys": [key.decode() for key in info.keys]}))
"""


async def with_one_record(run: Running) -> str:
    lease = await run.store.grant(40)
    await run.put(KEY, lease.id, value=VALUE)
    return lease.id[:16]  # as etcd has it


@on_every_etcd
async def test_etcdctl_reads_keys_and_leases(backends: Backends) -> None:
    etcd = backends.etcd()
    async with running(EtcdStore.from_url(etcd.url("/seen"))) as run:
        lease = await with_one_record(run)
        name = f"/seen/v1/instances/{KEY}"
        keys = await etcd.etcdctl_async("get", "--prefix", "/seen/", "--keys-only")
        assert keys.split() == ["/seen/v1/epoch", name, "/seen/v1/secret"]
        assert lease in await etcd.etcdctl_async("lease", "list")
        described = json.loads(await etcd.etcdctl_async("lease", "timetolive", lease, "--keys", "-w", "json"))
        assert (f"{described['id']:016x}", described["granted-ttl"]) == (lease, 40)
        token = await etcd.etcdctl_async("get", "/seen/v1/epoch", "--print-value-only")
        assert run.seen.epoch.endswith(f".{token.split()[0]}")
        revision = run.seen.view[KEY].revision
        await run.commit(Commit(deletes=(Delete(KEY, revision),), cause=Cause.DRAINED))
        assert (await etcd.etcdctl_async("get", "/seen/v1/cause", "--print-value-only")).strip() == "drained"


async def test_etcdctl_ends_an_instance_by_its_lease(backends: Backends) -> None:
    etcd = backends.etcd()
    async with running(EtcdStore.from_url(etcd.url("/ended"))) as run:
        lease = await with_one_record(run)
        await etcd.etcdctl_async("lease", "revoke", lease)
        await run.seen.wait(lambda: not run.seen.view, "it is told")
        assert [left.cause for left in run.deleted] == [Cause.EXPIRED]


async def test_etcd3_reads_keys_and_leases(backends: Backends) -> None:
    etcd = backends.etcd()
    async with running(EtcdStore.from_url(etcd.url("/library"))) as run:
        lease = await with_one_record(run)
        host, _, port = etcd.nodes[0].endpoint.rpartition(":")
        read = json.loads(await asyncio.to_thread(run_with_etcd3, READ, host, port, "/library/v1/instances/", lease))
        name = f"/library/v1/instances/{KEY}"
        record = {"value": VALUE.hex(), "lease": lease, "revision": run.seen.view[KEY].revision}
        assert read == {"found": {name: record}, "ttl": 40, "keys": [name]}


async def test_fifty_thousand_records_are_loaded(backends: Backends) -> None:
    etcd = backends.etcd()
    async with running(EtcdStore.from_url(etcd.url("/many"))) as run:
        lease = (await run.store.grant(600)).id
        for _ in range(50):
            commits = [Commit(puts=tuple(Put(run.key(), b"x" * 200, lease, 0) for _ in range(100))) for _ in range(10)]
            await asyncio.gather(*map(run.store.commit, commits))
        await run.seen.wait(lambda: len(run.seen.view) == 50_000, "all are told")
        view, clock = dict(run.seen.view), asyncio.get_running_loop().time
        await run.stop()
        started = clock()
        await run.start()
        assert clock() - started < 10, "about half a second on an idle machine"
        assert run.seen.view == view
