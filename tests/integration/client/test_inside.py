"""A registry inside of the client's process: `connect("memory:")`, or any other store URL."""

import asyncio
import contextlib
import re

import grpc
import pytest

import registry_client
from registry_client import InvalidArgument, InvalidTarget, Misuse, RegistryUnavailable, sync
from registry_server import stores
from registry_server.embedded import Clock, in_thread
from registry_server.limits import lookout
from registry_server.limits.overload import Overload
from registry_server.stores.memory import MemoryStore
from registry_server.stores.schemes import Schemes, installed
from tests.integration.client.conftest import ids, player, until
from tests.support.waiting import eventually_async


async def test_registers_and_watches_without_a_server() -> None:
    async with registry_client.connect("memory:") as registry, registry.watch("player") as watch:
        async with registry.register(player("a")) as registration:
            assert registration.instance.id == "a"
            assert ids(await until(watch, lambda view: ids(view) == ["a"])) == ["a"]
        assert await registry.list("player") == []


async def test_others_reach_it_by_its_address_while_it_is_open() -> None:
    async with registry_client.connect("memory:") as registry:
        await registry.register(player("a")).start()
        async with registry_client.connect(registry.addresses) as other:
            assert [it.id for it in await other.list("player")] == ["a"]
    assert registry.addresses == ()


@pytest.mark.parametrize("how", ["in its loop", "in a thread"])
async def test_a_process_that_is_busy_or_large_is_no_overload(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What else the process does with its loop and its memory: nobody is refused anything for that."""
    looks = 0
    waited = Overload.waited

    def late(overload: Overload, *_: float) -> None:
        nonlocal looks
        looks += 1
        waited(overload, 10.0, 10.0, 10.0)

    monkeypatch.setattr(Overload, "waited", late)
    monkeypatch.setattr(lookout, "memory_used", lambda: 1 << 45)
    monkeypatch.setattr(lookout, "BEAT_S", 0.001)
    with in_thread(Clock()) if how == "in a thread" else contextlib.nullcontext("memory:") as place:
        async with registry_client.connect(place) as registry:
            await eventually_async(lambda: looks > 2 * lookout.SELDOM, what="it was looked at")
            async with asyncio.timeout(20), registry.register(player("a")), registry.watch("player") as watch:
                assert ids(await until(watch, lambda view: ids(view) == ["a"])) == ["a"]


async def test_each_client_has_a_registry_of_its_own() -> None:
    one, two = registry_client.connect("memory:"), registry_client.connect("memory:")
    async with one, two, one.register(player("a")):
        assert await two.list("player") == []


async def test_a_closed_one_begins_empty_when_it_is_entered_again() -> None:
    registry = registry_client.connect("memory:")
    async with registry:
        epoch = (await registry.list(), registry.epoch)[1]
    async with registry:
        assert await registry.list() == []
        assert registry.epoch != epoch


async def test_it_ends_in_another_task_than_it_began_in() -> None:
    registry = registry_client.connect("memory:")
    await asyncio.create_task(registry.__aenter__())
    assert await registry.services() == []
    await asyncio.create_task(registry.aclose())


async def test_who_enters_twice_at_once_is_told_and_the_first_goes_on() -> None:
    registry = registry_client.connect("memory:")
    outcomes = await asyncio.gather(registry.__aenter__(), registry.__aenter__(), return_exceptions=True)
    assert sorted(type(it).__name__ for it in outcomes) == ["Misuse", "RegistryClient"]
    assert await registry.services() == []
    with pytest.raises(Misuse):
        await registry.__aenter__()
    await registry.aclose()


async def test_an_entering_that_is_cancelled_leaves_nothing() -> None:
    entering = asyncio.create_task(registry_client.connect("etcd://127.0.0.1:1").__aenter__())
    await asyncio.sleep(0)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering


async def test_a_store_that_does_not_answer_is_told_in_time() -> None:
    with pytest.raises(RegistryUnavailable, match="its store does not answer"):
        await registry_client.connect("etcd://127.0.0.1:1", timeout=0.3).__aenter__()


async def test_a_store_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    urls: list[str] = []
    monkeypatch.setattr(stores, "_SCHEMES", Schemes(stores._BUILT_IN, installed))
    stores.register("mine", lambda url: urls.append(url) or MemoryStore())  # type: ignore[func-returns-value]
    async with registry_client.connect("mine:here") as registry:
        assert await registry.services() == []
    assert urls == ["mine:here"]


def test_threads_have_it_too() -> None:
    with sync.connect("memory:") as registry, registry.register(player("a")):
        assert [it.id for it in registry.list("player")] == ["a"]


@pytest.mark.parametrize("url", ["memory:x", "etcd://h:1?nonsense=1", "etcd://"])
def test_a_url_with_a_mistake_is_refused_at_once(url: str) -> None:
    with pytest.raises(InvalidTarget, match=r"^addresses: store URL: "):
        registry_client.connect(url)


@pytest.mark.parametrize("address", ["memory:7400", "etcd:7400,memory:7400", "h1", "etcd"])
def test_a_host_of_that_name_is_a_host(address: str) -> None:
    assert all(re.fullmatch(r"\w+:7400", it) for it in registry_client.connect(address).addresses)


def test_a_password_in_the_url_is_in_no_message() -> None:
    with pytest.raises(InvalidTarget) as refused:
        registry_client.connect("etcd://me:secret@h:1?nonsense=1")
    assert "secret" not in str(refused.value)


def test_credentials_are_for_servers() -> None:
    with pytest.raises(InvalidArgument, match=r"^credentials: "):
        registry_client.connect("memory:", credentials=grpc.ssl_channel_credentials())


async def test_a_configuration_says_how_long_and_how_to_look() -> None:
    config = {"type": "memory", "service": {"ttl": 20, "health_check_interval": 10, "deregister_critical_after": "30s"}}
    registry = registry_client.from_config(config)
    assert isinstance(registry, registry_client.RegistryClient)
    async with registry, registry.register(player("a")) as registration:
        assert registration.ttl_s == 20
        assert [check.kind for check in registration.instance.checks] == ["tcp"]
