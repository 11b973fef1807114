"""What the xDS clients of all gRPC implementations, and Envoy, see of a registry: one story, which all live through
at the same time, and what each of them has to say of each part of it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

import registry_client
from registry_client import Health, RegistryClient, Status
from tests.integration.xds.stage import SERVICE, BackEnds, back_ends
from tests.integration.xds.story import Story, Tellings
from tests.support.building import NotBuilt
from tests.support.servers import RegistryServer
from tests.support.waiting import passed
from tests.support.xds_clients import KINDS, Client, client

CALLS = 10_000
WITHIN = 0.02  # of all calls
GONE_S = 30.0
BACK_WITHIN_S = 90.0  # whoever was refused for half a minute waits as long again before it tries once more
STORY_S = 600.0
# tonic-xds takes the better of two at random, whatever they weigh.
KNOWS_NO_WEIGHTS = ("rust",)


async def _told(story: Story, folder: Path) -> None:
    server = RegistryServer(folder, store=f"sqlite:{folder / 'registry.db'}")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(server)
        registry = await stack.enter_async_context(registry_client.connect(server.address, cache_dir=None))
        them = await stack.enter_async_context(back_ends(registry, a=100, b=100, c=300))
        await _clients(story, stack, server, folder)
        await story.part("discovery", _discovers)
        await story.part("weights", _goes_by_weights)
        await _drain(story, them, registry)
        await _scaling(story, them, registry)
        await _restart(story, them, server)
        await _gone(story, them, server)
        await _nobody_left(story, them)


async def _clients(story: Story, stack: AsyncExitStack, server: RegistryServer, folder: Path) -> None:
    for name in KINDS:
        try:
            made = client(name, server.address, SERVICE, folder)
            story.clients[name] = await stack.enter_async_context(made)
        except NotBuilt as error:
            story.not_built[name] = error
        except Exception as error:
            story.wrong["discovery", name] = f"it does not start: {error!r}"


# ---- the parts of the story, in their order


async def _discovers(it: Client) -> None:
    came = await it.wait()
    assert came.calls == 1, came
    await it.calls_only("a", "b", "c")


async def _goes_by_weights(it: Client) -> None:
    came = await it.call(CALLS)
    assert (came.calls, came.failed) == (CALLS, 0), came
    if it.name in KNOWS_NO_WEIGHTS:
        return
    for name, weight in (("a", 0.2), ("b", 0.2), ("c", 0.6)):
        assert abs(came.share(name) - weight) <= WITHIN, came


async def _drain(story: Story, them: BackEnds, registry: RegistryClient) -> None:
    """A back end that drains gets nothing new, and may then end; one that is ill gets nothing either."""
    async with story.under_load("drain"):
        await registry.update(SERVICE, "a", status=Status.DRAINING)
        await story.part("drain", lambda it: it.calls_only("b", "c"))
        await them.stop("a")
    async with story.under_load("health"):
        await registry.update(SERVICE, "b", health=Health.UNHEALTHY)
        await story.part("health", lambda it: it.calls_only("c"))
        await registry.update(SERVICE, "b", health=Health.HEALTHY)
        await story.part("health", lambda it: it.calls_only("b", "c"))


async def _scaling(story: Story, them: BackEnds, registry: RegistryClient) -> None:
    async with story.under_load("scaling"):
        for name in "defg":
            await them.start(name)
        await story.part("scaling", lambda it: it.calls_only(*"bcdefg"))
        await registry.update(SERVICE, "c", weight=0)
        await story.part("scaling", lambda it: it.calls_only(*"bdefg"))
        await them.stop("b", "d", "e", "f")
        await registry.update(SERVICE, "c", weight=7)
        await story.part("scaling", lambda it: it.calls_only("c", "g"))


async def _restart(story: Story, them: BackEnds, server: RegistryServer) -> None:
    """In order, and by force. Who leaves then is missed by nobody only when all have found their way back."""
    async with story.under_load("restart"):
        await server.terminate_async()
        await server.start_async()
        await them.start("h")
        await story.part("restart", lambda it: it.calls_only(*"cgh", timeout_s=BACK_WITHIN_S))
        await server.restart_async()
        await them.start("i")
        await story.part("restart", lambda it: it.calls_only(*"cghi", timeout_s=BACK_WITHIN_S))
        await them.stop("h", "i")
        await story.part("restart", lambda it: it.calls_only("c", "g"))


async def _gone(story: Story, them: BackEnds, server: RegistryServer) -> None:
    async with story.under_load("gone for 30 s"):
        server.kill()
        await passed(GONE_S)
        await server.start_async()
        await them.start("i")
        await story.part("gone for 30 s", lambda it: it.calls_only(*"cgi", timeout_s=BACK_WITHIN_S))


async def _nobody_left(story: Story, them: BackEnds) -> None:
    """A service without an instance is there again as soon as it has one."""
    await them.stop()
    await them.start("j")
    await story.part("nobody left", lambda it: it.calls_only("j"))


PARTS = ("discovery", "weights", "drain", "health", "scaling", "restart", "gone for 30 s", "nobody left")


@pytest.fixture(scope="module")
def tellings(tmp_path_factory: pytest.TempPathFactory) -> Tellings:
    return Tellings(_told, lambda: tmp_path_factory.mktemp("xds"), STORY_S)


@pytest.mark.timeout(1800)  # the first time the clients are built
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", KINDS)
def test_client(kind: str, part: str, tellings: Tellings, request: pytest.FixtureRequest) -> None:
    story = tellings.for_run(request)
    if kind in story.not_built:
        pytest.skip(f"no xDS client {kind}: {story.not_built[kind]}")
    assert not story.broken, story.broken
    assert kind in story.clients, story.wrong["discovery", kind]
    assert part in story.told
    assert (part, kind) not in story.wrong, story.wrong[part, kind]
