"""Watching, against a real server."""

import asyncio
import contextlib
import gc
import logging

import pytest

import registry_client
from registry_client import Instance, InvalidArgument, RegistryClient
from tests.integration.client.conftest import ids, player, recording, until
from tests.support.servers import RegistryServer
from tests.support.waiting import eventually_async


async def test_the_first_view_may_be_empty_because_the_registry_says_so(registry: RegistryClient) -> None:
    view = await anext(registry.watch("player"))
    assert view.instances == ()
    assert view.endpoints == ()
    assert view.stale_for is None


async def test_views_follow_what_happens(registry: RegistryClient) -> None:
    watch = registry.watch("player")
    await anext(watch)
    async with registry.register(player("p1"), drain=0):
        view = await anext(watch)
        assert [it.id for it in view.changes.added] == ["p1"]
        assert [(endpoint.address, endpoint.instance.id) for endpoint in view.endpoints] == [("10.0.0.5:8001", "p1")]
        await registry.update("player", "p1", weight=7)
        view = await anext(watch)
        assert [(it.id, it.weight) for it in view.changes.updated] == [("p1", 7)]
    view = await anext(watch)
    assert [(it.id, it.weight, it.cause) for it in view.changes.removed] == [("p1", 7, "DEREGISTERED")]
    assert not view.instances


async def test_a_slow_reader_gets_the_newest_view_with_all_that_changed(registry: RegistryClient) -> None:
    watch = registry.watch("player")
    await anext(watch)
    async with registry.register(player("p1")) as one, registry.register(player("p2", 8002), drain=0):
        for weight in range(1, 30):
            await registry.update("player", "p1", weight=weight)
        revision = one.instance.revision
        await eventually_async(lambda: watch.view is not None and watch.view.revision >= revision)
        view = await anext(watch)
        assert [(it.id, it.weight) for it in view.changes.added] == [("p1", 29), ("p2", 100)]


async def test_several_services_and_all_of_them(registry: RegistryClient) -> None:
    others = [Instance(service=name, host="10.0.0.6", port=1, id=name) for name in ("chat", "shop")]
    async with registry.register(player("p1")), registry.register(others[0]), registry.register(others[1]):
        assert ids(await anext(registry.watch("player", "shop"))) == ["p1", "shop"]
        assert ids(await anext(registry.watch())) == ["chat", "p1", "shop"]
        assert ids(await anext(registry.watch("nobody"))) == []


async def test_all_namespaces(server: RegistryServer, registry: RegistryClient) -> None:
    watch = registry.watch("player", all_namespaces=True)
    assert (await anext(watch)).instances == ()
    others = [player("p1", namespace="prod", tags=["eu"]), player("p1", namespace="b")]
    others.append(Instance(service="chat", host="10.0.0.6", port=1, id="x"))
    async with registry.register(player("p1")), contextlib.AsyncExitStack() as stack:
        for other in others:
            await stack.enter_async_context(registry.register(other))
        listed = await registry.list(all_namespaces=True, page_size=1)
        keys = ["b/player/p1", "default/chat/x", "default/player/p1", "prod/player/p1"]
        assert [str(it.key) for it in listed] == keys
        view = await until(watch, lambda view: len(view.instances) == 3)
        assert [it.namespace for it in view.instances] == ["b", "default", "prod"]
        assert [it.namespace for it in await registry.list("player", all_namespaces=True, tags="eu")] == ["prod"]
        names = [(it.namespace, it.service) for it in await registry.services(all_namespaces=True)]
        assert names == [("b", "player"), ("default", "chat"), ("default", "player"), ("prod", "player")]
        spaces = [(it.namespace, it.services, it.instances) for it in await registry.namespaces()]
        assert spaces == [("b", 1, 1), ("default", 2, 2), ("prod", 1, 1)]
    with pytest.raises(InvalidArgument, match="namespace: must be empty with all_namespaces"):
        registry.watch(namespace="prod", all_namespaces=True)


async def test_a_filter_lets_instances_come_and_go(registry: RegistryClient) -> None:
    watch = registry.watch("player", tags=["eu"], healthy_only=True)
    async with registry.register(player("p1", tags=["eu"])), registry.register(player("p2", 8002, tags=["us"])):
        await until(watch, lambda view: ids(view) == ["p1"])
        await registry.update("player", "p2", tags=["eu", "us"])
        await until(watch, lambda view: ids(view) == ["p1", "p2"])
        await registry.update("player", "p1", status="DRAINING")
        view = await until(watch, lambda view: ids(view) == ["p2"])
        assert [(it.id, it.cause) for it in view.changes.removed] == [("p1", "UNSPECIFIED")]


async def test_a_question_that_makes_no_sense_ends_the_watch(registry: RegistryClient) -> None:
    with pytest.raises(InvalidArgument):
        await anext(registry.watch("no spaces"))


async def test_leaving_the_loop_ends_the_watch(registry: RegistryClient) -> None:
    before = asyncio.all_tasks()
    async for _ in registry.watch("player"):
        break
    gc.collect()
    await eventually_async(lambda: not [task for task in asyncio.all_tasks() - before if "watch" in task.get_name()])


async def test_a_watch_equals_the_list_at_its_revision(server: RegistryServer, registry: RegistryClient) -> None:
    """What is folded from many changes is what the registry lists."""
    async with registry_client.connect(server.address) as owner, recording(registry.watch("player")) as recorder:
        registrations = await asyncio.gather(*(owner.register(player(f"p{i}", 8000 + i)).start() for i in range(40)))
        await recorder.wait(lambda view: len(view.instances) == 40)
        for round_ in range(5):
            leaving = registrations[round_ * 3 : round_ * 3 + 3]
            await asyncio.gather(*(registration.aclose(drain=0) for registration in leaving))
            await asyncio.gather(*(owner.update("player", f"p{i}", weight=round_ + 1) for i in range(20, 40)))
            listed = await registry.list("player")
            newest = max(instance.revision for instance in listed)
            view = await recorder.wait(lambda view, newest=newest: view.revision >= newest)  # type: ignore[misc]
            assert sorted(view.instances, key=lambda it: it.id) == listed
    total = [instance for view in recorder.views for instance in view.changes.removed]
    assert len(total) >= 15


async def test_callbacks_hear_of_everything_and_may_fail(
    registry: RegistryClient, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[tuple[str, str]] = []

    def added(instance: Instance) -> None:
        heard.append(("added", instance.id))
        raise RuntimeError("a mistake in a callback")

    async def updated(instance: Instance) -> None:
        await asyncio.sleep(0)
        heard.append(("updated", instance.id))

    subscription = registry.on_change(
        "player", added=added, updated=updated, removed=lambda it: heard.append((it.cause, it.id))
    )
    with caplog.at_level(logging.CRITICAL):
        registration = await registry.register(player("p1"))
        await eventually_async(lambda: heard == [("added", "p1")])
        await registry.update("player", "p1", weight=9)
        await eventually_async(lambda: heard == [("added", "p1"), ("updated", "p1")])
        await registration.aclose(drain=0)
        await eventually_async(lambda: heard[-1] == ("DEREGISTERED", "p1"))
        assert subscription.is_active
        subscription.cancel()
        await eventually_async(lambda: not subscription.is_active)
        before = len(heard)
        async with registry.register(player("p2")):
            await until(registry.watch("player"), lambda view: ids(view) == ["p2"])
        assert len(heard) == before
