"""Consul beside a registry, and below it: a real agent, real servers."""

import http.server
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.neighbours.consul import shown
from tests.conftest import ServerFactory
from tests.support.consul import ConsulAgent
from tests.support.raw import RawClient, Watching, duration
from tests.support.stores import MAY_BUILD, Backends, backends
from tests.support.waiting import always_async, eventually_async, passed

__all__ = ["backends"]

pytestmark = MAY_BUILD


@pytest.fixture
def consul(backends: Backends) -> Iterator[ConsulAgent]:
    """An agent that has no services when the test begins."""
    agent = backends.consul()
    yield agent
    services = agent.ask("GET", "/v1/agent/services")
    assert isinstance(services, dict)
    for id_ in services:
        agent.ask("PUT", f"/v1/agent/service/deregister/{quote(id_)}")


@pytest.fixture
async def client(backends: Backends, consul: ConsulAgent, server_factory: ServerFactory) -> AsyncIterator[RawClient]:
    """A registry that is kept in Consul, and so has its catalog as a neighbour."""
    server = await server_factory(store=backends.consul_url(catalog="true")).start_async()
    async with RawClient(server.address) as connected:
        yield connected


@pytest.fixture
async def watch(client: RawClient) -> AsyncIterator[Watching]:
    async with client.watching() as watching:
        yield watching


def register(agent: ConsulAgent, id_: str, **more: object) -> None:
    """As any other user of Consul does it."""
    agent.ask(
        "PUT",
        "/v1/agent/service/register",
        {"ID": id_, "Name": "player", "Address": "10.0.0.9", "Port": 7001, **more},
    )


def in_consul(agent: ConsulAgent, service: str = "player") -> dict[str, Any]:
    """What a user of Consul finds, by port."""
    found = agent.ask("GET", f"/v1/health/service/{service}")
    assert isinstance(found, list)
    return {it["Service"]["Port"]: it for it in found}


def passing(agent: ConsulAgent) -> set[int]:
    found = agent.ask("GET", "/v1/health/service/player?passing")
    assert isinstance(found, list)
    return {it["Service"]["Port"] for it in found}


# ---- theirs


async def test_what_others_registered_there_is_here(consul: ConsulAgent, watch: Watching) -> None:
    register(
        consul,
        "one",
        Tags=["eu", "eu", ""],
        Meta={"map": "desert", "version": "2.1.0"},
        Weights={"Passing": 3, "Warning": 1},
    )
    await watch.wait_ids("consul-test:one")
    it = watch.view["player", "consul-test:one"]
    assert (it.origin, it.host, it.port, it.version, it.weight) == ("consul", "10.0.0.9", 7001, "2.1.0", 300)
    assert (list(it.tags), it.metadata["map"], it.health) == (["eu"], "desert", pb.HEALTHY)
    consul.ask("PUT", "/v1/agent/service/deregister/one")
    await watch.wait_ids()


async def test_health_there_is_health_here(consul: ConsulAgent, watch: Watching) -> None:
    register(
        consul,
        "one",
        Check={"CheckID": "ttl", "Name": "is alive", "TTL": "1h", "Status": "passing"},
        Weights={"Passing": 4, "Warning": 2},
    )
    await watch.wait_ids("consul-test:one")

    async def becomes(status: str, health: int, weight: int) -> None:
        consul.ask("PUT", "/v1/agent/check/update/ttl", {"Status": status, "Output": f"it is {status}"})
        await eventually_async(lambda: (here().health, here().weight) == (health, weight), what=status)

    def here() -> pb.Instance:
        return watch.view["player", "consul-test:one"]

    await becomes("critical", pb.CRITICAL, 400)
    assert [(it.name, it.health, it.output) for it in here().check_results if it.name == "is alive"] == [
        ("is alive", pb.CRITICAL, "it is critical")
    ]
    await becomes("warning", pb.HEALTHY, 200)
    await becomes("passing", pb.HEALTHY, 400)


async def test_names_that_are_none_here(consul: ConsulAgent, watch: Watching) -> None:
    """An id is made one; a service whose name is none is left out, and so is one without a port, and a proxy."""
    register(consul, "größe / 1", Port=7001)
    register(consul, "x" * 200, Port=7002)
    register(consul, "portless", Port=0)
    register(consul, "strange", Name="my player", Port=7003)
    register(consul, "proxy", Kind="mesh-gateway", Port=7004)
    await eventually_async(lambda: len(watch.ids) == 2)
    await always_async(lambda: len(watch.ids) == 2, for_s=1.0)
    assert all(len(id_) <= 128 and id_.startswith("consul-test:") for id_ in watch.ids)


# ---- ours


async def test_what_is_here_is_there(consul: ConsulAgent, client: RawClient, watch: Watching) -> None:
    await client.register(
        "one", 7001, tags=["eu"], metadata={"map": "desert", "größe": "no key there"}, weight=3, version="2.1.0"
    )
    await eventually_async(lambda: passing(consul) == {7001})
    service = in_consul(consul)[7001]["Service"]
    assert (service["Address"], service["Tags"], service["Weights"]["Passing"]) == ("10.0.0.5", ["eu"], 3)
    assert {key: it for key, it in service["Meta"].items() if not key.startswith("grpc-registry")} == {
        "map": "desert",
        "version": "2.1.0",
    }
    await client.update("one", status=pb.DRAINING)
    await eventually_async(lambda: passing(consul) == set())
    await client.update("one", status=pb.ACTIVE)
    await eventually_async(lambda: passing(consul) == {7001})
    assert watch.ids == {"one"}
    await client.deregister("one")
    await eventually_async(lambda: in_consul(consul) == {})


async def test_checks_are_consuls_own_where_it_has_them(consul: ConsulAgent, client: RawClient) -> None:
    """The agent looks for itself, and so finds what we cannot."""
    with answering(200) as back_end:
        check = {
            "interval": duration(1),
            "timeout": duration(1),
            "failures": 1,
            "successes": 1,
            "deregister_after": duration(90),
        }
        checks = [
            pb.HealthCheck(name="page", http=pb.HealthCheck.Http(path="/healthz"), **check),
            pb.HealthCheck(name="port", tcp=pb.HealthCheck.Tcp(), **check),
            pb.HealthCheck(name="alive", ttl=pb.HealthCheck.Ttl(), interval=duration(60)),
        ]
        await client.register("one", back_end.port, host="127.0.0.1", checks=checks)
        await eventually_async(lambda: passing(consul) == {back_end.port})
        found = {it["Name"]: it for it in in_consul(consul)[back_end.port]["Checks"]}
        assert {name: it["Type"] for name, it in found.items() if it["ServiceID"]} == {
            "registered": "ttl",
            "page": "http",
            "port": "tcp",
        }
        back_end.status = 500
        await eventually_async(lambda: passing(consul) == set())
        found = {it["Name"]: it["Status"] for it in in_consul(consul)[back_end.port]["Checks"]}
        assert (found["page"], found["port"]) == ("critical", "passing")


class answering:
    """An HTTP server that answers with a status."""

    def __init__(self, status: int) -> None:
        self.status = status

    def __enter__(self) -> "answering":
        back_end = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(back_end.status)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


# ---- both


async def test_an_agent_that_starts_again(tmp_path: Path, server_factory: ServerFactory) -> None:
    """What is registered on either side is still there; ours come back even if the agent has forgotten them."""
    agent = ConsulAgent(tmp_path).start()
    try:
        server = await server_factory(store="memory:", args=["--neighbours", agent.url()]).start_async()
        async with RawClient(server.address) as client, client.watching() as watch:
            register(agent, "theirs")
            await client.register("ours", 7002, ttl_s=600)
            await watch.wait_ids("consul-test:theirs", "ours")
            await eventually_async(lambda: passing(agent) == {7001, 7002})
            agent.kill()
            await passed(1.0)
            agent.start()
            await eventually_async(lambda: passing(agent) == {7001, 7002}, timeout_s=45)
            agent.kill()
            agent.wipe()
            agent.start()
            await eventually_async(lambda: passing(agent) == {7002}, timeout_s=45)
            assert [step.removed for step in watch.steps if step.removed] == []
    finally:
        agent.kill()


async def test_a_registry_that_is_gone_is_taken_for_gone(
    consul: ConsulAgent, backends: Backends, server_factory: ServerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one knows again what is its own; nobody shows what the other shows."""
    url = backends.consul_url(catalog="true")
    server = await server_factory(store=url).start_async()
    async with RawClient(server.address) as client:
        await client.register("one", 7001)
        await eventually_async(lambda: passing(consul) == {7001})
    server.kill()
    again = await server_factory(store=url).start_async()
    async with RawClient(again.address) as client, client.watching() as watch:
        await watch.wait_ids("one")
        await always_async(lambda: watch.ids == {"one"} and passing(consul) == {7001}, for_s=2.0)
    vouched = next(it for it in in_consul(consul)[7001]["Checks"] if it["Name"] == "registered")
    definition = consul.ask("GET", "/v1/agent/checks")
    assert isinstance(definition, dict)
    assert definition[vouched["CheckID"]]["Type"] == "ttl"
    assert shown.VOUCH_S < shown.TTL_S / 2


async def test_the_server_that_bridges_is_killed(
    consul: ConsulAgent, backends: Backends, server_factory: ServerFactory
) -> None:
    """Another goes on, in both directions; what came from Consul is what it was."""
    url = backends.consul_url(catalog="true")
    one, two = [await server_factory(store=url).start_async() for _ in range(2)]
    register(consul, "theirs")
    async with RawClient(two.address) as client, client.watching() as watch:
        await client.register("ours", 7002)
        await watch.wait_ids("consul-test:theirs", "ours")
        await eventually_async(lambda: passing(consul) == {7001, 7002})
        it = watch.view["player", "consul-test:theirs"]
        one.kill()
        register(consul, "later", Port=7003)
        await eventually_async(lambda: len(watch.ids) == 3, timeout_s=20)
        await client.register("new", 7004)
        await eventually_async(lambda: passing(consul) == {7001, 7002, 7003, 7004}, timeout_s=20)
        assert watch.view["player", "consul-test:theirs"] == it


async def test_what_is_there_cannot_be_removed_here(consul: ConsulAgent, client: RawClient, watch: Watching) -> None:
    register(consul, "one")
    await watch.wait_ids("consul-test:one")
    await client.deregister("consul-test:one")
    await watch.wait_ids()
    await watch.wait_ids("consul-test:one")
    assert set(in_consul(consul)) == {7001}


async def test_two_registries_show_each_other_and_nothing_goes_in_circles(
    consul: ConsulAgent, backends: Backends, server_factory: ServerFactory
) -> None:
    urls = [backends.consul_url(catalog="true") for _ in range(2)]
    left, right = [await server_factory(store="memory:", args=["--neighbours", url]).start_async() for url in urls]
    async with (
        RawClient(left.address) as one,
        RawClient(right.address) as two,
        one.watching() as here,
        two.watching() as there,
    ):
        await one.register("a", 7001)
        await two.register("b", 7002)
        await eventually_async(lambda: len(here.ids) == 2 and len(there.ids) == 2)
        await always_async(lambda: set(in_consul(consul)) == {7001, 7002}, for_s=2.0)
        assert [it.origin for it in here.view.values() if it.port == 7002] == ["consul"]
        await one.deregister("a")
        await there.wait_ids("b")
