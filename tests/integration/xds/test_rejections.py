"""What xDS clients reject: each goes on with what it had, the registry knows of it, and says it no second time."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

import registry_client
from registry_client import RegistryClient
from tests.integration.xds.stage import SERVICE, BackEnds, back_ends
from tests.support.building import NotBuilt
from tests.support.servers import RegistryServer
from tests.support.waiting import eventually_async, passed
from tests.support.xds_clients import KINDS, Client, client
from tests.support.xds_liar import Liar, liar, no_address, priority_gap, weight_zero

LIES = {"rust": no_address, "envoy": weight_zero, "envoy-sotw": weight_zero}
# Clients ask at once for what they rejected, if they are told it again: 1,000 times a second and more.
QUIET_S = 1.0
STORY_S = 300.0


class Deceived(NamedTuple):
    """A client, and who stands between it and the registry."""

    client: Client
    liar: Liar


class Outcome(NamedTuple):
    """What became of one client."""

    reason: str  # why it rejected what it was told, by the registry's word
    answers: set[str]  # of whom, then
    failed: int
    told_lies: int
    rejections: int


Outcomes = dict[str, "Outcome | NotBuilt | str"]


async def _start(name: str, server: RegistryServer, folder: Path, stack: AsyncExitStack) -> Deceived:
    address, between = await stack.enter_async_context(liar(server.address))
    it = await stack.enter_async_context(client(name, address, SERVICE, folder))
    await it.wait()
    return Deceived(it, between)


async def _all(folder: Path) -> Outcomes:
    outcomes: Outcomes = {}
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(RegistryServer(folder))
        registry = await stack.enter_async_context(registry_client.connect(server.address, cache_dir=None))
        them = await stack.enter_async_context(back_ends(registry, a=100))
        deceived: dict[str, Deceived] = {}
        for name in KINDS:
            try:
                deceived[name] = await _start(name, server, folder, stack)
            except NotBuilt as error:
                outcomes[name] = error
        await _deceive(deceived, them)
        found = await asyncio.gather(*(_outcome(name, it, registry) for name, it in deceived.items()))
        outcomes.update(zip(deceived, found, strict=True))
        for it in deceived.values():
            it.liar.lie = None
        await them.start("c")
        for name, it in deceived.items():
            try:
                await it.client.calls_only("a", "b", "c")
            except AssertionError as error:
                outcomes[name] = str(error)
    return outcomes


async def _deceive(deceived: dict[str, Deceived], them: BackEnds) -> None:
    for name, it in deceived.items():
        it.liar.lie = LIES.get(name, priority_gap)
    await them.start("b")
    await eventually_async(
        lambda: all(it.liar.rejections for it in deceived.values()),
        timeout_s=20.0,
        what=str({name: it.liar.rejections for name, it in deceived.items()}),
    )
    await passed(QUIET_S)


async def _outcome(name: str, it: Deceived, registry: RegistryClient) -> Outcome:
    """By the registry's word, and by the client's own calls."""
    came = await it.client.call(20)
    reasons = [
        wanted.rejection.reason
        for node in await registry.xds_clients.list()
        if node.node_id == f"the-{name}"
        for stream in node.streams
        for wanted in stream.subscriptions
        if wanted.HasField("rejection")
    ]
    return Outcome("".join(reasons), set(came.answers), came.failed, it.liar.lies, len(it.liar.rejections))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes | Exception:
    try:
        return asyncio.run(asyncio.wait_for(_all(tmp_path_factory.mktemp("rejections")), STORY_S))
    except Exception as error:  # told by every test, and not made again for each
        return error


@pytest.mark.timeout(1800)  # the first time the clients are built
@pytest.mark.parametrize("kind", KINDS)
def test_a_rejection(kind: str, outcomes: Outcomes | Exception) -> None:
    if isinstance(outcomes, Exception):
        raise outcomes
    outcome = outcomes[kind]
    if isinstance(outcome, NotBuilt):
        pytest.skip(f"no xDS client {kind}: {outcome}")
    assert isinstance(outcome, Outcome), outcome
    assert outcome.reason
    assert (outcome.answers, outcome.failed) == ({"a"}, 0)
    assert outcome.told_lies == outcome.rejections == 1
