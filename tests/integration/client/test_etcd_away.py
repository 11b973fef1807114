"""NeverGivesUp and StaleBeatsEmpty when the store dies: etcd killed for three TTLs, and the server with it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import registry_client
from registry_client import RegistryUnavailable, State
from tests.conftest import ServerFactory
from tests.integration.client.conftest import ids, player, recording
from tests.support.etcd import EtcdCluster
from tests.support.servers import RegistryServer
from tests.support.waiting import eventually_async

TTL_S = 3.0
NAMES = ["p1", "p2", "p3"]
PATIENCE_S = 45.0  # etcd needs its time to elect a leader, on a busy machine too


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdCluster]:
    with EtcdCluster(tmp_path) as cluster:
        yield cluster


@pytest.fixture
def server(etcd: EtcdCluster, server_factory: ServerFactory) -> RegistryServer:
    return server_factory(store=etcd.url()).start()


@pytest.mark.parametrize("server_dies_too", [False, True], ids=["etcd", "etcd-and-server"])
async def test_never_gives_up_on_etcd(etcd: EtcdCluster, server: RegistryServer, server_dies_too: bool) -> None:
    """Nobody saw a shorter list, and every registration is back, with the generation it had or a higher one."""
    async with contextlib.AsyncExitStack() as stack:
        owner, watcher = [await stack.enter_async_context(registry_client.connect(server.address)) for _ in range(2)]
        registrations = [
            await stack.enter_async_context(owner.register(player(name, port), ttl=TTL_S))
            for port, name in enumerate(NAMES, 8000)
        ]
        recorder = await stack.enter_async_context(recording(watcher.watch("player")))
        await recorder.wait(lambda view: ids(view) == NAMES)
        recorder.views.clear()
        before = [it.instance.generation for it in registrations]

        etcd.kill()
        if server_dies_too:
            server.kill()
        await recorder.wait(lambda view: view.stale_for is not None)
        stale = recorder.views[-1]
        await eventually_async(lambda: (registrations[0].invisible_for or 0) > 3 * TTL_S, timeout_s=PATIENCE_S)
        with pytest.raises(RegistryUnavailable):
            await owner.update("player", "p1", weight=5, timeout=0.5)

        await etcd.start_async()
        if server_dies_too:
            await server.start_async()
        await recorder.wait(lambda view: view.stale_for is None and not view.unconfirmed, PATIENCE_S)
        await eventually_async(
            lambda: all(it.invisible_for is None for it in registrations), timeout_s=PATIENCE_S, what="all are back"
        )
        assert [it.state for it in registrations] == [State.REGISTERED] * 3
        assert all(it.instance.generation >= old for it, old in zip(registrations, before, strict=True))
        assert [it.id for it in await owner.list("player")] == NAMES
        assert [ids(view) for view in recorder.views if ids(view) != NAMES] == []
        assert recorder.views[-1].epoch == stale.epoch  # the order of etcd goes on
