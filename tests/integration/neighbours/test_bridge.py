"""A registry beside a neighbour: each shows the other's instances, whatever happens to either."""

import contextlib
from collections.abc import AsyncIterator

import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server import neighbours, stores
from registry_server.config import Config, ConfigError
from registry_server.errors import LimitExceeded
from registry_server.neighbours import bridge
from registry_server.registrar import Registrar
from registry_server.server import serve
from registry_server.stores.leased import Leased
from registry_server.stores.schemes import Schemes, installed
from registry_server.writer import Registered
from tests.conftest import ServerFactory
from tests.support.backend import DictBackend, Link
from tests.support.neighbour import Road, Village
from tests.support.raw import RawClient
from tests.support.waiting import always_async, eventually_async, passed

TTL_S = 2.0


@pytest.fixture
def village(monkeypatch: pytest.MonkeyPatch) -> Village:
    """The neighbour of every server of the test; nothing takes as long as it does in life."""
    made = Village()
    monkeypatch.setattr(neighbours, "KINDS", {"village": lambda url: Road(made)})
    monkeypatch.setattr(bridge, "TTL_S", TTL_S)
    monkeypatch.setattr(bridge, "RENEW_S", 0.3)
    monkeypatch.setattr(bridge, "WARM_UP_S", 0.6)
    return made


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> list[Link]:
    """`shared:` is one store for all servers of the test."""
    backend, made = DictBackend(), list[Link]()

    def open_store(url: str) -> Leased:
        made.append(Link(backend))
        return Leased(made[-1])

    monkeypatch.setattr(stores, "_SCHEMES", Schemes(stores._BUILT_IN, installed))
    stores.register("shared", open_store)
    return made


@contextlib.asynccontextmanager
async def server(store: str = "memory:") -> AsyncIterator[RawClient]:
    async with (
        serve(Config(listen="127.0.0.1:0", store=store, neighbours="village:")) as address,
        RawClient(address) as client,
    ):
        yield client


def shown(village: Village) -> set[str]:
    return {key.id for key in village.shown}


async def test_what_is_there_is_shown_here(village: Village) -> None:
    village.put("there", 7001, tags=["eu"], metadata={"map": "desert"})
    async with server() as client, client.watching() as watch:
        await watch.wait_ids("there")
        it = watch.view["player", "there"]
        assert (it.origin, it.host, it.port, list(it.tags), dict(it.metadata)) == (
            "village",
            "10.0.0.9",
            7001,
            ["eu"],
            {"map": "desert"},
        )
        village.put("there", 7001, health=pb.CRITICAL)
        village.put("later", 7002)
        await watch.wait_ids("there", "later")
        await eventually_async(lambda: watch.view["player", "there"].health == pb.CRITICAL)
        assert watch.view["player", "there"].generation == it.generation
        village.remove("there")
        await watch.wait_ids("later")


async def test_what_is_here_is_shown_there(village: Village) -> None:
    village.put("there", 7001)
    async with server() as client, client.watching() as watch:
        await client.register("here", 7002)
        await watch.wait_ids("here", "there")
        await eventually_async(lambda: shown(village) == {"here"})
        await client.update("here", weight=7)
        await eventually_async(lambda: [it.parse().weight for it in village.shown.values()] == [7])
        await client.deregister("here")
        await eventually_async(lambda: not village.shown)
        assert watch.ids == {"there"}


async def test_one_that_the_store_refuses_holds_up_no_other(village: Village, monkeypatch: pytest.MonkeyPatch) -> None:
    register = Registrar.register

    async def refusing(self: Registrar, wanted: pb.Instance, ttl_s: float, lease_id: str) -> Registered:
        if wanted.id.startswith("bad"):
            raise LimitExceeded("store", "it takes no such thing")
        return await register(self, wanted, ttl_s, lease_id)

    monkeypatch.setattr(Registrar, "register", refusing)
    names = ["bad-1", "one", "bad-2", *(f"more-{number}" for number in range(2 * bridge.WRITES)), "last"]
    for number, name in enumerate(names):
        village.put(name, 7001 + number)
    async with server() as client, client.watching() as watch:
        await watch.wait_ids(*(name for name in names if not name.startswith("bad")))
        village.put("later", 9000)
        await eventually_async(lambda: "later" in watch.ids)


async def test_what_is_ours_is_not_taken_from_us(village: Village) -> None:
    """A process that is registered in both is one instance: the one of its owner."""
    async with server() as client, client.watching() as watch:
        ours = (await client.register("here", 7001, host="10.0.0.9")).instance
        village.put("same-address", 7001)
        village.put("here", 7009)
        village.put("other", 7002)
        await watch.wait_ids("here", "other")
        assert watch.view["player", "here"] == ours
        taken = (await client.register("taken", 7002, host="10.0.0.9")).instance
        await watch.wait_ids("here", "taken")
        await always_async(lambda: watch.ids == {"here", "taken"}, for_s=1.0)
        assert watch.view["player", "taken"] == taken
        await client.deregister("taken")
        await watch.wait_ids("here", "other")


async def test_nobody_says_where_he_comes_from(village: Village) -> None:
    async with server() as client:
        registered = (await client.register("here", 7001, origin="village")).instance
        assert registered.origin == ""
        await eventually_async(lambda: shown(village) == {"here"})


async def test_who_is_drained_here_stays_drained(village: Village) -> None:
    village.put("there", 7001)
    async with server() as client, client.watching() as watch:
        await watch.wait_ids("there")
        await client.update("there", status=pb.DRAINING)
        village.put("there", 7001, tags=["new"])
        await eventually_async(lambda: list(watch.view["player", "there"].tags) == ["new"])
        assert watch.view["player", "there"].status == pb.DRAINING


async def test_what_is_no_instance_is_left_out(village: Village) -> None:
    village.put("a b", 7001)
    village.put("no-port", 0)
    village.put("good", 7002)
    async with server() as client, client.watching() as watch:
        await watch.wait_ids("good")


async def test_an_outage_of_the_neighbour_empties_nobodys_list(village: Village) -> None:
    village.put("there", 7001)
    async with server() as client, client.watching() as watch:
        await watch.wait_ids("there")
        village.go_away()
        await passed(1.5 * TTL_S)
        assert [step.removed for step in watch.steps if step.removed] == []
        village.put("new", 7002)
        village.go_away(is_away=False)
        await watch.wait_ids("there", "new")
        assert [step.removed for step in watch.steps if step.removed] == []


async def test_another_replica_goes_on(village: Village, shared: list[Link]) -> None:
    """What came from the neighbour changes hands and nobody notices; what comes later is shown as well."""
    village.put("there", 7001)
    async with contextlib.AsyncExitStack() as first:
        one = await first.enter_async_context(server("shared:"))
        async with server("shared:") as two, two.watching() as watch:
            await watch.wait_ids("there")
            it = watch.view["player", "there"]
            await one.register("here", 7002)
            await watch.wait_ids("here", "there")
            await eventually_async(lambda: shown(village) == {"here"})
            await first.aclose()
            village.put("new", 7003)
            await watch.wait_ids("here", "there", "new")
            await passed(1.5 * TTL_S)
            assert watch.view["player", "there"] == it
            await two.register("later", 7004)
            await eventually_async(lambda: shown(village) == {"here", "later"})


async def test_a_registry_that_starts_empty_takes_nothing_away_at_once(
    village: Village, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who were registered before it started come back within moments."""
    monkeypatch.setattr(bridge, "WARM_UP_S", 1.5)
    async with server() as client:
        await client.register("here", 7001)
        await eventually_async(lambda: shown(village) == {"here"})
    async with server() as client:
        await client.register("new", 7002)
        await eventually_async(lambda: shown(village) == {"here", "new"})
        await eventually_async(lambda: shown(village) == {"new"})


async def test_a_neighbour_that_is_not_there_stops_nobody(server_factory: ServerFactory) -> None:
    """It is said once, and nothing that is said shows what is secret."""
    url = "consul://127.0.0.1:1?token=sesame"
    server = await server_factory(args=["--neighbours", url]).start_async()
    async with RawClient(server.address) as client:
        await client.register("here", 7001)
        assert await client.ids() == {"here"}
        await eventually_async(lambda: "neighbour consul is away" in server.log_text)
        await passed(1.5)
    assert server.log_text.count("is away") == 1
    assert "the password in --neighbours shows in the process list" in server.log_text
    assert "sesame" not in server.log_text


@pytest.mark.parametrize(
    ("urls", "says"),
    [
        ("etcd://h", "must begin with one of"),
        ("consul://h?tokn=sesame", "nearest: token"),
        ("consul://one consul://two", "two neighbours of the name consul"),
    ],
)
def test_mistakes_in_a_neighbours_url(urls: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        Config(neighbours=urls)
    assert "sesame" not in str(refused.value)
