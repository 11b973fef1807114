"""`connect_many`: registered in several registries, read from the first that works."""

import asyncio
from collections.abc import Iterator

import pytest

import registry_client
from balancer import Resolution, Resolved
from registry_client import InEach, InvalidArgument, InvalidTarget, Registration, RegistryError, State, testing
from registry_client.resolver import RegistryResolver, Source
from registry_client.target import parse_target
from tests.conftest import ServerFactory
from tests.integration.client.conftest import ids, player, until
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


async def test_one_that_refuses_is_told_of_and_hinders_nobody(
    two: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with registry_client.connect_many(two) as registries:
        registered = registries.register(player("a"))
        refusing, start = registered.results["backup"], Registration.start

        async def maybe(self: Registration) -> Registration:
            if self is refusing:
                raise RegistryError("no")
            return await start(self)

        monkeypatch.setattr(Registration, "start", maybe)
        async with registered:
            assert states(registered) == {"primary": State.REGISTERED, "backup": RegistryError}
            assert await registries["backup"].list() == []


async def test_when_all_refuse_it_is_raised(two: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(self: Registration) -> Registration:
        raise RegistryError("no")

    async with registry_client.connect_many(two) as registries:
        registered = registries.register(player("a"))
        monkeypatch.setattr(Registration, "start", refuse)
        with pytest.raises(RegistryError, match="no"):
            await registered.__aenter__()
        assert states(registered) == {"primary": RegistryError, "backup": RegistryError}


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
