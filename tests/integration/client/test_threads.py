"""The client for threads, against a real server."""

import threading
from collections.abc import Iterator

import pytest

from registry_client import ClientClosed, Instance, NotFound, RegistrationLost, State, sync
from tests.integration.client.conftest import WAIT_S, ids, player
from tests.support.servers import RegistryServer
from tests.support.waiting import eventually


@pytest.fixture
def registry(server: RegistryServer) -> Iterator[sync.RegistryClient]:
    with sync.connect(server.address) as client:
        yield client


def test_everything_once(registry: sync.RegistryClient) -> None:
    with registry.register(player("p1", weight=3, tags=["game"]), ttl=15, drain=0) as registration:
        assert registration.state is State.REGISTERED
        assert registration.lease_id
        assert registration.ttl_s == 15
        assert registration.invisible_for is None
        assert registry.get("player", "p1") == registration.instance
        assert [it.id for it in registry.list("player", tags=["game"], healthy_only=True)] == ["p1"]
        assert [it.service for it in registry.services()] == ["player"]
        assert [it.namespace for it in registry.services(all_namespaces=True)] == ["default"]
        assert [it.namespace for it in registry.namespaces()] == ["default"]
        assert [it.id for it in registry.list(all_namespaces=True)] == ["p1"]
        assert registry.update("player", "p1", weight=5).weight == 5
        assert registry.deregister("player", "p1") == 1
        with pytest.raises(NotFound):
            registry.get("player", "p1")


def test_a_watch_is_an_iterator(registry: sync.RegistryClient) -> None:
    seen = []
    with registry.watch("player") as watch:
        assert ids(watch.next(WAIT_S)) == []
        with registry.register(player("p1"), drain=0):
            for view in watch:
                seen.append(ids(view))
                break
            assert watch.view is not None
            assert ids(watch.view) == ["p1"]
        assert ids(next(watch)) == []
        with pytest.raises(TimeoutError):
            watch.next(0.05)
        with registry.register(player("p2")):
            assert ids(watch.next(WAIT_S)) == ["p2"]  # the watch outlived the timeout
    assert seen == [["p1"]]


def test_callbacks_may_block_and_use_the_client(registry: sync.RegistryClient) -> None:
    heard: list[tuple[str, int]] = []

    def added(instance: Instance) -> None:
        heard.append((instance.id, len(registry.list("player"))))

    subscription = registry.on_change("player", added=added, removed=lambda it: heard.append((it.id, 0)))
    with registry.register(player("p1")):
        eventually(lambda: heard == [("p1", 1)])
    eventually(lambda: heard == [("p1", 1), ("p1", 0)])
    subscription.cancel()
    eventually(lambda: not subscription.is_active)


def test_many_threads_share_a_client(registry: sync.RegistryClient) -> None:
    def work(number: int) -> None:
        with registry.register(player(f"p{number}", 8000 + number), drain=0):
            registry.update("player", f"p{number}", weight=number)
            weights.append(registry.get("player", f"p{number}").weight)

    weights: list[int] = []
    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert sorted(weights) == list(range(1, 9))
    assert registry.list("player") == []


def test_a_take_over_tells_the_old_owner(server: RegistryServer, registry: sync.RegistryClient) -> None:
    old = registry.register(player("p1"), ttl=2).start()
    with sync.connect(server.address) as other, other.register(player("p1", 9001)):
        with pytest.raises(TimeoutError):
            old.wait_lost(0.01)
        assert "p1" in str(old.wait_lost(WAIT_S))
        with pytest.raises(RegistrationLost):
            old.update(weight=7)
        with pytest.raises(RegistrationLost):
            old.__exit__(None)
        with pytest.raises(RegistrationLost):
            old.update(weight=7)
        there = other.get("player", "p1")
        assert (there.port, there.weight) == (9001, 100)


def test_registrations_survive_a_restart(server: RegistryServer, registry: sync.RegistryClient) -> None:
    with registry.register(player("p1"), ttl=2) as registration:
        server.restart()
        eventually(lambda: registration.invisible_for is None and registry.list("player"))
        assert [it.id for it in registry.list("player")] == ["p1"]


def test_closing_ends_the_thread_and_whoever_waits(server: RegistryServer) -> None:
    with sync.connect(server.address) as registry:
        watch = registry.watch("player")
        watch.next(WAIT_S)
        failures: list[BaseException] = []

        def wait() -> None:
            try:
                next(watch)
            except ClientClosed as error:
                failures.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
    waiting.join(WAIT_S)
    assert len(failures) == 1
    assert "registry-client" not in {thread.name for thread in threading.enumerate()}
    registry.close()  # again
    with pytest.raises(ClientClosed):
        registry.list("player")
