"""`connect_many`: registered in several registries, read from the first that works."""

import asyncio
import gc
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import registry_client
from balancer import Resolution, Resolved
from registry_client import (
    ClientClosed,
    HealthCheck,
    InEach,
    InvalidArgument,
    InvalidTarget,
    Misuse,
    NeverRegistered,
    RegistryUnavailable,
    State,
    homing,
    many,
    sync,
    testing,
)
from registry_client.resolver import RegistryResolver, Source
from registry_client.target import parse_target
from tests.conftest import ServerFactory
from tests.integration.client.conftest import Recorder, ids, player, until
from tests.support.servers import RegistryServer
from tests.support.waiting import eventually_async


@pytest.fixture
def two() -> Iterator[dict[str, str]]:
    with testing.registry() as primary, testing.registry() as backup:
        yield {"primary": primary, "backup": backup}


def states(registered: InEach) -> dict[str, object]:
    return {name: getattr(it, "state", type(it)) for name, it in registered.results.items()}


async def test_it_is_in_each_under_the_same_id_and_leaves_each(two: dict[str, str]) -> None:
    async with registry_client.connect_many(two) as registries:
        async with registries.register(player(), drain=0) as registered:
            assert states(registered) == {"primary": State.REGISTERED, "backup": State.REGISTERED}
            [[one], [other]] = [await registries[name].list("player") for name in registries.names]
            assert one.id == other.id
            assert [it.id for it in await registries.list("player")] == [one.id]
        assert [await registries[name].list("player") for name in registries.names] == [[], []]


async def test_a_store_may_be_one_of_them(two: dict[str, str]) -> None:
    registries = registry_client.connect_many({"primary": "memory:", "backup": two["backup"]})
    for _ in range(2):
        async with registries, registries.register(player("a"), drain=0) as registered:
            assert states(registered) == {"primary": State.REGISTERED, "backup": State.REGISTERED}
            assert [it.id for it in await registries.list("player")] == ["a"]


async def test_one_that_is_away_gets_it_when_it_is_back(two: dict[str, str], server_factory: ServerFactory) -> None:
    away = server_factory(name="away").start()
    away.kill()
    registries = registry_client.connect_many({"primary": away.address, "backup": two["backup"]}, cache_dir=None)
    async with registries, registries.register(player("a")) as registered:
        assert states(registered) == {"primary": State.WANTED, "backup": State.REGISTERED}
        assert [it.id for it in await registries.list("player")] == ["a"]
        await away.restart_async()
        await eventually_async(lambda: set(states(registered).values()) == {State.REGISTERED}, timeout_s=20)


async def test_leaving_does_not_wait_for_one_that_never_came(two: dict[str, str]) -> None:
    registries = registry_client.connect_many({"primary": two["primary"], "backup": "127.0.0.1:1"})
    async with asyncio.timeout(15), registries, registries.register(player("a"), drain=0):
        pass
    async with registry_client.connect(two["primary"]) as client:
        assert await client.list("player") == []


async def test_a_change_over_empties_no_list(server_factory: ServerFactory) -> None:
    servers: list[RegistryServer] = [server_factory(name=name).start() for name in ("primary", "backup")]
    both = {name: server.address for name, server in zip(("primary", "backup"), servers, strict=True)}
    async with registry_client.connect_many(both, cache_dir=None) as registries:
        await registries["primary"].register(player("only-there", 8002)).start()
        async with registries.register(player("a")), registries.watch("player") as watch:
            epoch = (await until(watch, lambda view: ids(view) == ["a", "only-there"])).epoch
            servers[0].kill()
            async with asyncio.timeout(20):
                async for view in watch:
                    assert ids(view) == ["a", "only-there"]
                    if view.epoch != epoch and view.stale_for is None:
                        break
            assert {key.id for key in view.unconfirmed} == {"only-there"}


async def test_it_goes_back_when_the_preferred_one_works_again(
    server_factory: ServerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody leaves a list by that, although it has forgotten everybody."""
    monkeypatch.setattr(homing, "BEGUN_ANEW_S", 2.0)
    monkeypatch.setattr(homing, "STEADY_S", 2.0)
    servers = [server_factory(name=name).start() for name in ("primary", "backup")]
    both = {name: server.address for name, server in zip(("primary", "backup"), servers, strict=True)}
    registries = registry_client.connect_many(both, cache_dir=None)
    async with registries, registries.register(player("a"), ttl=30), registries.watch("player") as watch:
        views = Recorder(watch)
        reading = asyncio.create_task(views.run())
        epoch = (await views.wait(lambda view: ids(view) == ["a"])).epoch
        servers[0].kill()
        away = (await views.wait(lambda view: view.epoch != epoch)).epoch
        assert away == registries["backup"].epoch
        await servers[0].restart_async()
        anew = await views.wait(lambda view: view.epoch not in (epoch, away), timeout_s=60)
        assert anew.epoch == registries["primary"].epoch

        async def asks_the_first() -> bool:
            return len(await registries.list("player")) == 1 and registries.reader.epoch == anew.epoch

        await eventually_async(asks_the_first, timeout_s=60)
        assert [view for view in views.views if ids(view) != ["a"]] == []
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


# ---- one of them refuses

CHECKED = player("a", checks=[HealthCheck.ttl()])


@pytest.fixture
def one_refuses(server_factory: ServerFactory) -> tuple[dict[str, str], RegistryServer]:
    """Two, and the backup takes no checks."""
    takes = server_factory(name="primary").start()
    refuses = server_factory(name="backup", args=["--checks", "off"]).start()
    return {"primary": takes.address, "backup": refuses.address}, refuses


async def test_one_that_refuses_is_told_of_and_hinders_nobody(
    one_refuses: tuple[dict[str, str], RegistryServer], caplog: pytest.LogCaptureFixture
) -> None:
    async with registry_client.connect_many(one_refuses[0]) as registries:
        async with registries.register(CHECKED, drain=0) as registered:
            assert states(registered) == {"primary": State.REGISTERED, "backup": InvalidArgument}
            assert await registries["backup"].list() == []
            updated = await registered.update(weight=7)
            assert getattr(updated["primary"], "weight", None) == 7
            assert isinstance(updated["backup"], InvalidArgument)
        assert await registries["primary"].list() == []
    assert [it.message for it in caplog.records if "backup refuses it" in it.message] != []


async def test_one_that_refused_is_asked_again(
    one_refuses: tuple[dict[str, str], RegistryServer],
    server_factory: ServerFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was updated meanwhile it gets as it is now."""
    monkeypatch.setattr(many, "AGAIN_S", 0.1)
    addresses, refusing = one_refuses
    async with registry_client.connect_many(addresses) as registries, registries.register(CHECKED) as registered:
        await registered.update(weight=7)
        refusing.kill()
        takes = server_factory(name="takes")
        takes.port = refusing.port
        await takes.start_async()
        await eventually_async(lambda: states(registered)["backup"] is State.REGISTERED, timeout_s=20)
        assert (await registries["backup"].get("player", "a")).weight == 7


async def test_when_all_refuse_it_is_raised(server_factory: ServerFactory) -> None:
    both = {name: server_factory(name=name, args=["--checks", "off"]).start().address for name in ("one", "other")}
    async with registry_client.connect_many(both) as registries:
        registered = registries.register(CHECKED)
        with pytest.raises(InvalidArgument, match="runs no checks"):
            await registered.__aenter__()
        assert states(registered) == {"one": InvalidArgument, "other": InvalidArgument}
        with pytest.raises(Misuse):
            await registered.update(weight=1)


async def test_one_that_is_away_is_told_later_what_was_updated(
    two: dict[str, str], server_factory: ServerFactory
) -> None:
    away = server_factory(name="away").start()
    registries = registry_client.connect_many({"primary": away.address, "backup": two["backup"]}, timeout=1)
    async with registries, registries.register(player("a"), ttl=60) as registered:
        away.pause()
        told = await registered.update(weight=7, tags=["eu"])
        assert isinstance(told["primary"], RegistryUnavailable)
        assert getattr(told["backup"], "weight", None) == 7
        away.resume()

        async def is_told() -> bool:
            return (await registries["primary"].get("player", "a", timeout=10)).weight == 7

        await eventually_async(is_told, timeout_s=20)


# ---- used wrongly


async def test_it_is_entered_once_and_says_when_it_was_not(two: dict[str, str]) -> None:
    async with registry_client.connect_many(two) as registries:
        with pytest.raises(Misuse, match="entered already"):
            await registries.__aenter__()
        registered = registries.register(player("a"), drain=0)
        with pytest.raises(Misuse, match="not entered yet"):
            await registered.update(weight=1)
        async with registered:
            with pytest.raises(Misuse, match="entered already"):
                await registered.__aenter__()
            with pytest.raises(InvalidArgument, match="update_mask"):
                await registered.update(wait=1)  # type: ignore[call-arg]
            with pytest.raises(InvalidArgument, match="weight"):
                await registered.update(weight=-1)
            await asyncio.to_thread(_elsewhere, registered)
        assert await registries.list() == []
        await registered.aclose()
        with pytest.raises(InvalidArgument, match="instance"):
            registries.register("player")  # type: ignore[arg-type]
        with pytest.warns(NeverRegistered):
            registries.register(player("b"))
    await registries.aclose()
    with pytest.raises(ClientClosed):
        await registries.list()


async def test_who_closes_it_elsewhere_closes_nothing(two: dict[str, str]) -> None:
    async with registry_client.connect_many(two) as registries:
        await registries.register(player("a"), drain=0).__aenter__()

        def elsewhere() -> None:
            with pytest.raises(Misuse, match="belongs to the event loop"):
                asyncio.run(registries.aclose())

        await asyncio.to_thread(elsewhere)
        assert [it.id for it in await registries.list("player")] == ["a"]
    for address in two.values():
        async with registry_client.connect(address) as client:
            assert await client.list("player") == []


def test_an_entering_that_is_refused_is_not_taken_for_none() -> None:
    async def enter() -> None:
        async with registry_client.connect_many({"one": "127.0.0.1:1"}, cache_dir=None) as registries:
            with pytest.raises(Misuse, match="main thread"):
                await registries.register(player("a"), drain_on_signals=True).__aenter__()
            gc.collect()

    with warnings.catch_warnings(record=True) as warned, ThreadPoolExecutor(1) as elsewhere:
        warnings.simplefilter("always", NeverRegistered)
        elsewhere.submit(asyncio.run, enter()).result()
    assert [it.category for it in warned if it.category is NeverRegistered] == []


async def test_nobody_is_asked_again_after_the_client(two: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    both = {"primary": two["primary"], "backup": "127.0.0.1:1"}
    async with registry_client.connect_many(both) as registries:
        registered = await registries.register(player("a"), drain=0).__aenter__()
    await eventually_async(lambda: not [it for it in asyncio.all_tasks() if it.get_name().startswith("register-")])
    assert "asked again" not in caplog.text
    assert isinstance(registered.results["backup"], ClientClosed)
    await registered.aclose()


async def test_what_can_be_read_once_is_told_to_each(two: dict[str, str]) -> None:
    async with registry_client.connect_many(two) as registries, registries.register(player("a"), drain=0) as registered:
        assert {getattr(it, "tags", it) for it in (await registered.update(tags=iter(["eu"]))).values()} == {("eu",)}
        with pytest.raises(InvalidArgument, match=r"^instance\.tags"):
            await registered.update(tags=7)  # type: ignore[arg-type]


def _elsewhere(registered: InEach) -> None:
    for use in (registered.aclose, lambda: registered.update(weight=1)):
        with pytest.raises(Misuse, match="belongs to the event loop"):
            asyncio.run(use())


async def test_a_patience_that_ends_says_what_each_of_them_said() -> None:
    away = registry_client.connect_many({"one": "127.0.0.1:1", "other": "127.0.0.1:2"}, cache_dir=None)
    async with away:
        with pytest.raises(RegistryUnavailable, match=r"one: .*; other: "):
            await away.register(player("a"), timeout=1.5).__aenter__()


def test_the_same_registry_twice_is_refused() -> None:
    for both in ({"one": "h1:7400,h2", "other": "h2:7400"}, {"one": "etcd://h1", "other": "etcd://h1"}):
        with pytest.raises(InvalidArgument, match="other is the same registry as one"):
            registry_client.connect_many(both)
    assert registry_client.connect_many({"one": "memory:", "other": "memory:"}).names == ("one", "other")


# ---- threads


def test_threads_have_all_of_it(two: dict[str, str]) -> None:
    registries = sync.connect_many(two)
    for _ in range(2):
        with registries, registries.register(player("a"), drain=0) as registered:
            assert {name: getattr(it, "state", it) for name, it in registered.results.items()} == {
                "primary": State.REGISTERED,
                "backup": State.REGISTERED,
            }
            assert {getattr(it, "weight", it) for it in registered.update(weight=3).values()} == {3}
            assert [[it.id for it in registries[name].list("player")] for name in registries.names] == [["a"], ["a"]]
            with registries["backup"].register(player("b", 8002), drain=0):
                assert [it.id for it in registries["backup"].list("player")] == ["a", "b"]
            with registries.watch("player") as watch:
                assert [it.id for it in watch.next(10).instances] == ["a"]
            assert registries.balancer("player").get().id == "a"
            with pytest.raises(Misuse, match="entered already"), registries:
                pytest.fail("the block runs")
            with pytest.raises(Misuse, match="entered already"), registries["backup"]:
                pytest.fail("the block runs")
        for client in (registries, registries["primary"]):
            with pytest.raises(ClientClosed):
                client.list()
    registered.close()


@pytest.mark.parametrize("wrong", [{}, "h1:7400", {"a b": "h1"}, {7: "h1"}])
def test_what_is_no_set_of_registries(wrong: object) -> None:
    with pytest.raises(InvalidArgument, match=r"^registries"):
        registry_client.connect_many(wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidTarget):
        registry_client.connect_many({"primary": "h1:x"})


async def test_a_url_names_the_next_registry_after_a_bar(two: dict[str, str]) -> None:
    instance = testing.register_once(two["backup"], player("a"))
    resolved: asyncio.Queue[Resolution] = asyncio.Queue(10)
    url = f"127.0.0.1:1|{two['backup']}"
    resolver = RegistryResolver(Source(parse_target(f"registry://{url}/player"), {}))
    running = asyncio.create_task(resolver.run(resolved.put_nowait))
    found = await asyncio.wait_for(resolved.get(), 10)
    running.cancel()
    await asyncio.wait([running])
    assert isinstance(found, Resolved)
    assert [it.address for it in found.endpoints] == [instance.address]


def test_the_first_of_a_url_is_preferred() -> None:
    target = parse_target("registry://h1,h2|h3/player")
    assert (target.addresses, target.first) == (("h1:7400", "h2:7400", "h3:7400"), 2)
    assert parse_target("registry://h1,h2/player").first == 0
    with pytest.raises(InvalidTarget):
        parse_target("registry://h1||h2/player")
