"""What the xDS clients of all gRPC implementations, and Envoy, make of traffic policies: one story for all of them."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

import registry_client
from registry_client import (
    Balancing,
    FailurePercentage,
    OutlierDetection,
    RegistryClient,
    Retries,
    RetryCode,
    SuccessRate,
    TrafficPolicy,
)
from tests.integration.xds.stage import SERVICE, back_ends
from tests.integration.xds.story import Story, Tellings
from tests.support.building import NotBuilt
from tests.support.servers import RegistryServer
from tests.support.waiting import eventually_async
from tests.support.xds_clients import KINDS, Client, client

STORY_S = 300.0
CALLS = 2_000
WITHIN = 0.03  # of so few calls, at four standard deviations and more
# Is given no parts: see xds/traffic.py.
UNDIVIDED = ("rust",)
# Who has that policy.
FIRST_ONLY = ("python", "python-asyncio", "go", "java")
EVERYTHING = OutlierDetection(5, FailurePercentage(), SuccessRate())
PARTS = ("canary", "shift", "everything at once", "pick first", "what is asked is taken", "removed")


async def _put(registry: RegistryClient, **fields: object) -> None:
    await registry.policy.put(TrafficPolicy(SERVICE, **fields))  # type: ignore[arg-type]


async def _told(story: Story, folder: Path) -> None:
    server = RegistryServer(folder)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(server)
        registry = await stack.enter_async_context(registry_client.connect(server.address, cache_dir=None))
        them = await stack.enter_async_context(back_ends(registry))
        await them.start("a", version="1.0")
        await them.start("b", version="1.0")
        await them.start("canary", version="2.0")
        await _put(registry, split={"version=1.0": 90, "version=2.0": 10})
        for name in KINDS:
            try:
                made = client(name, server.address, SERVICE, folder)
                story.clients[name] = await stack.enter_async_context(made)
            except NotBuilt as error:
                story.not_built[name] = error
            except Exception as error:
                story.wrong["canary", name] = f"it does not start: {error!r}"
        await _story(story, registry)


async def _story(story: Story, registry: RegistryClient) -> None:
    await story.part("canary", _gives_a_tenth)
    async with story.under_load("shift"):
        await _put(registry, split={"version=2.0": 1, "rest": 0})
        await story.part("shift", lambda it: _calls(it, "canary"))
        await _put(registry, split={"version=1.0": 1, "version=2.0": 0})
        await story.part("shift", lambda it: _calls(it, "a", "b"))
        await _put(registry, timeout=60)
        await story.part("shift", lambda it: it.calls_only("a", "b", "canary"))
    for balancing in (Balancing.LEAST_REQUEST, Balancing.RING_HASH, Balancing.ROUND_ROBIN):
        await _put(
            registry,
            balancing=balancing,
            hash_header="player-id" if balancing is Balancing.RING_HASH else "",
            timeout=60,
            retries=Retries(4, list(RetryCode)),
            circuit_breaking=1_000,
            outlier_detection=EVERYTHING,
            split={"version=2.0": 1, "rest": 1},
        )
        await _accepted(registry)
        await story.part("everything at once", lambda it: it.calls_only("a", "b", "canary"))
    await _put(registry, balancing=Balancing.PICK_FIRST)
    await _accepted(registry)
    await story.part("pick first", _picks_as_it_can)
    story.told["what is asked is taken"] = 0.0
    for name, why in (await _rejections(registry)).items():
        story.wrong["what is asked is taken", name] = why
    await registry.policy.delete(SERVICE)
    await story.part("removed", lambda it: it.calls_only("a", "b", "canary"))


async def _gives_a_tenth(it: Client) -> None:
    assert (await it.wait()).calls == 1
    await it.calls_only("a", "b", "canary", timeout_s=60)
    came = await it.call(CALLS)
    assert (came.calls, came.failed) == (CALLS, 0), came
    if it.name not in UNDIVIDED:
        assert abs(came.share("canary") - 0.1) <= WITHIN, came


async def _calls(it: Client, *names: str) -> None:
    """These alone, unless it knows no parts."""
    await it.calls_only(*(("a", "b", "canary") if it.name in UNDIVIDED else names))


async def _picks_as_it_can(it: Client) -> None:
    """One, where the implementation has that policy; all of them elsewhere."""
    if it.name not in FIRST_ONLY:
        await it.calls_only("a", "b", "canary")
        return
    found: set[str] = set()

    async def is_one() -> bool:
        came = await it.call(30)
        found.update(came.answers)
        return len(came.answers) == 1 and not came.failed

    await eventually_async(is_one, timeout_s=30)


async def _rejections(registry: RegistryClient) -> dict[str, str]:
    """Of each client, what it did not take, if there is such a thing."""
    found = {}
    for it in await registry.xds_clients.list():
        for stream in it.streams:
            for subscription in stream.subscriptions:
                if subscription.HasField("rejection"):
                    found[it.node_id.removeprefix("the-")] = str(subscription)
    return found


async def _accepted(registry: RegistryClient) -> None:
    """Wait until everybody has said what it makes of what it was sent."""
    pending: list[str] = []

    async def all_have() -> bool:
        pending[:] = [
            f"{it.node_id}: {each}"
            for it in await registry.xds_clients.list()
            for stream in it.streams
            for each in stream.subscriptions
            if each.pending
        ]
        return not pending

    try:
        await eventually_async(all_have, timeout_s=20)
    except AssertionError:
        raise AssertionError(f"they say nothing of what they were sent: {pending}") from None


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
    assert kind in story.clients, story.wrong["canary", kind]
    assert part in story.told
    assert (part, kind) not in story.wrong, story.wrong[part, kind]
