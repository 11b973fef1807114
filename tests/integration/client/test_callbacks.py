"""Callbacks harm themselves alone: those that block, raise, cancel, close, and never end."""

import asyncio
import functools
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import registry_client
from registry_client import Instance, InvalidArgument, RegistryClient, Subscription, sync
from tests.integration.client.conftest import WAIT_S, ids, player, until
from tests.support.servers import ROOT, RegistryServer
from tests.support.waiting import always_async, eventually, eventually_async, passed

CLOSE_S = 4.0  # closing may take no longer, whatever callbacks do


class Odd(BaseException):
    """Nothing that anybody expects."""


RAISED = [ValueError, asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit, StopIteration, Odd]


@pytest.fixture
def stuck() -> Iterator[Callable[[Instance], object]]:
    """A plain callback that blocks until the test ends."""
    ends = threading.Event()
    yield lambda _: ends.wait()
    ends.set()


@pytest.fixture
async def owner(server: RegistryServer) -> AsyncIterator[RegistryClient]:
    """Who registers what the callbacks hear of."""
    async with registry_client.connect(server.address, cache_dir=None) as client:
        yield client


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "registry-callbacks"]


# ---- that block


async def test_callbacks_that_block_stop_nobody_else(
    server: RegistryServer, registry: RegistryClient, stuck: Callable[[Instance], object]
) -> None:
    """Not the loop, not another subscription, no watch, not what is kept on disk, and not the way out."""
    heard: list[str] = []
    for _ in range(8):
        registry.on_change("player", added=stuck)
    registry.on_change("player", added=lambda it: heard.append(it.id))
    async with registry_client.connect(server.address) as other, other.register(player("p1")):
        await eventually_async(lambda: heard == ["p1"])
        view = await until(registry.watch("player"), lambda view: ids(view) == ["p1"])
        assert view.stale_for is None
        assert [it.id for it in await registry.list("player")] == ["p1"]
        began = time.monotonic()
        await registry.aclose()
        assert time.monotonic() - began < CLOSE_S
    server.kill()
    async with registry_client.connect(server.address) as cold:
        assert ids(await asyncio.wait_for(anext(cold.watch("player")), WAIT_S)) == ["p1"]


def test_a_process_ends_though_a_callback_does_not(server: RegistryServer) -> None:
    program = f"""
import asyncio, threading
import registry_client
async def main():
    async with registry_client.connect({server.address!r}, cache_dir=None) as registry:
        entered = threading.Event()
        def block(instance):
            entered.set()
            threading.Event().wait()
        registry.on_change("player", added=block)
        async with registry.register(registry_client.Instance("player", "10.0.0.5", 1), drain=0):
            while not entered.is_set():
                await asyncio.sleep(0.01)
asyncio.run(main())
with registry_client.sync.connect({server.address!r}, cache_dir=None) as registry:
    entered = threading.Event()
    def block(instance):
        entered.set()
        threading.Event().wait()
    registry.on_change("player", added=block)
    with registry.register(registry_client.Instance("player", "10.0.0.5", 1), drain=0):
        entered.wait()
print("done")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


async def test_calls_come_in_order_and_one_at_a_time(registry: RegistryClient, owner: RegistryClient) -> None:
    heard: list[tuple[str, str]] = []
    within = most = 0

    def plain(what: str, instance: Instance) -> None:
        nonlocal within, most
        within += 1
        most = max(most, within)
        threading.Event().wait(0.01)
        heard.append((what, instance.id))
        within -= 1

    async def coroutine(instance: Instance) -> None:
        nonlocal within, most
        within += 1
        most = max(most, within)
        await passed(0.01)
        heard.append(("updated", instance.id))
        within -= 1

    registry.on_change(
        "player",
        added=functools.partial(plain, "added"),
        updated=coroutine,
        removed=functools.partial(plain, "removed"),
    )
    names = [f"p{number}" for number in range(5)]
    registrations = [await owner.register(player(name, 8001 + i)) for i, name in enumerate(names)]
    await eventually_async(lambda: heard == [("added", name) for name in names])
    for name in names:
        await owner.update("player", name, weight=7)
    await eventually_async(lambda: len(heard) == 10)
    for registration in registrations:
        await registration.aclose(drain=0)
    await eventually_async(lambda: len(heard) == 15)
    assert heard[10:] == [("removed", name) for name in names]
    assert most == 1
    assert len(threads()) == 1


async def test_who_is_slow_hears_of_the_state_and_not_of_the_log(
    registry: RegistryClient, owner: RegistryClient
) -> None:
    goes_on = threading.Event()
    heard: list[tuple[str, int]] = []

    def slow(instance: Instance) -> None:
        heard.append((instance.id, instance.weight))
        goes_on.wait()

    registry.on_change("player", added=slow, updated=slow, removed=slow)
    async with owner.register(player("p1")):
        await eventually_async(lambda: heard == [("p1", 100)])
        for weight in range(1, 30):
            await owner.update("player", "p1", weight=weight)
        for number in range(5):
            async with owner.register(player(f"q{number}", 9001 + number), drain=0):
                pass
        watch = registry.watch("player")
        await until(watch, lambda view: [it.weight for it in view.instances] == [29])
        goes_on.set()
        await eventually_async(lambda: heard[-1] == ("p1", 29))
        assert len(heard) < 10


async def test_what_waits_for_a_callback_that_never_ends_is_bounded(
    registry: RegistryClient, owner: RegistryClient, stuck: Callable[[Instance], object]
) -> None:
    async with owner.register(player("p1")):
        subscription = registry.on_change("player", added=stuck)
        await eventually_async(lambda: len(threads()) == 1)
        for number in range(30):
            await (await owner.register(player(f"q{number}", 9001 + number))).aclose(drain=0)
        fold = subscription._watch._following._fold
        revision = (await owner.update("player", "p1", weight=3)).revision
        await eventually_async(lambda: fold.peek(0.0).revision >= revision)
        assert len(fold._touched) <= 1


# ---- that raise


@pytest.mark.parametrize("kind", RAISED)
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_callback_that_raises_hears_of_the_next_one(
    kind: type[BaseException],
    is_async: bool,
    registry: RegistryClient,
    owner: RegistryClient,
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[str] = []

    def plain(instance: Instance) -> None:
        heard.append(instance.id)
        raise kind("on purpose")

    async def coroutine(instance: Instance) -> None:
        await asyncio.sleep(0)
        plain(instance)

    subscription = registry.on_change("player", added=coroutine if is_async else plain)
    async with owner.register(player("p1")):
        await eventually_async(lambda: heard == ["p1"])
        async with owner.register(player("p2", 8002)):
            await eventually_async(lambda: heard == ["p1", "p2"])
    assert subscription.is_active
    await eventually_async(lambda: caplog.text.count("failed for") == 2)
    assert "default/player/p1" in caplog.text


async def test_a_callback_that_cancels_its_own_task_hears_of_the_next_one(
    registry: RegistryClient, owner: RegistryClient, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[str] = []

    async def coroutine(instance: Instance) -> None:
        heard.append(instance.id)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.Event().wait()

    subscription = registry.on_change("player", added=coroutine)
    async with owner.register(player("p1")), owner.register(player("p2", 8002)):
        await eventually_async(lambda: heard == ["p1", "p2"])
    assert subscription.is_active
    assert "failed for" in caplog.text


async def test_a_plain_function_may_return_something_to_await(registry: RegistryClient, owner: RegistryClient) -> None:
    heard: list[str] = []

    async def hear(instance: Instance) -> None:
        await asyncio.sleep(0)
        assert threading.current_thread() is threading.main_thread()
        heard.append(instance.id)

    class Callable_:
        async def __call__(self, instance: Instance) -> None:
            await hear(instance)

    for callback in (lambda it: hear(it), functools.partial(hear), Callable_()):
        subscription = registry.on_change("player", added=callback)
        async with owner.register(player("p1")), owner.register(player("p2", 8002)):
            await eventually_async(lambda: heard == ["p1", "p2"])
        subscription.cancel()
        heard.clear()


@pytest.mark.parametrize("wrong", ["print", 1, ["x"]])
async def test_what_cannot_be_called_is_told_at_once(wrong: Any, registry: RegistryClient) -> None:
    with pytest.raises(InvalidArgument, match="removed: must be a function"):
        registry.on_change("player", removed=wrong)


# ---- that cancel and close


async def three(owner: RegistryClient) -> None:
    for number in range(3):
        await owner.register(player(f"p{number}", 8001 + number))


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_callback_may_cancel_its_own_subscription_and_goes_on(
    is_async: bool, registry: RegistryClient, owner: RegistryClient
) -> None:
    """It is called no more, not even for what it was about to be called for."""
    heard: list[str] = []
    subscription: Subscription
    ended: list[bool] = []

    def plain(instance: Instance) -> None:
        heard.append(instance.id)
        subscription.cancel()
        threading.Event().wait(0.2)
        ended.append(True)

    async def coroutine(instance: Instance) -> None:
        heard.append(instance.id)
        subscription.cancel()
        await passed(0.2)
        ended.append(True)

    await three(owner)
    subscription = registry.on_change("player", added=coroutine if is_async else plain)
    await eventually_async(lambda: ended == [True])
    assert not subscription.is_active
    await three(owner)
    await always_async(lambda: heard == ["p0"], for_s=0.3)
    await eventually_async(lambda: not threads())


async def test_a_coroutine_under_way_is_cancelled_with_its_subscription(
    registry: RegistryClient, owner: RegistryClient, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[str] = []

    async def coroutine(instance: Instance) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            heard.append(instance.id)
            raise

    subscription = registry.on_change("player", added=coroutine)
    await three(owner)
    await eventually_async(lambda: any(task.get_name() == "registry-callback" for task in asyncio.all_tasks()))
    subscription.cancel()
    await eventually_async(lambda: heard == ["p0"])
    assert "failed for" not in caplog.text


async def test_a_coroutine_that_will_not_be_cancelled_holds_nobody_up(
    registry: RegistryClient, owner: RegistryClient
) -> None:
    ends = asyncio.Event()
    entered = asyncio.Event()

    async def stubborn(_: Instance) -> None:
        entered.set()
        while not ends.is_set():
            try:
                await ends.wait()
            except asyncio.CancelledError:
                continue

    registry.on_change("player", added=stubborn)
    await three(owner)
    await asyncio.wait_for(entered.wait(), WAIT_S)
    began = time.monotonic()
    await registry.aclose()
    assert time.monotonic() - began < CLOSE_S
    ends.set()
    await passed(0.1)


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_callback_may_close_the_client_and_goes_on(
    is_async: bool, registry: RegistryClient, owner: RegistryClient
) -> None:
    loop = asyncio.get_running_loop()
    closed: list[float] = []

    def plain(_: Instance) -> None:
        began = time.monotonic()
        asyncio.run_coroutine_threadsafe(registry.aclose(), loop).result()
        closed.append(time.monotonic() - began)

    async def coroutine(_: Instance) -> None:
        began = time.monotonic()
        await registry.aclose()
        closed.append(time.monotonic() - began)

    subscription = registry.on_change("player", added=coroutine if is_async else plain)
    await three(owner)
    await eventually_async(lambda: len(closed) == 1)
    assert closed[0] < CLOSE_S
    assert not subscription.is_active
    with pytest.raises(registry_client.ClientClosed):
        await registry.list("player")


# ---- with the client for threads


def test_threads_have_the_same_callbacks(server: RegistryServer, stuck: Callable[[Instance], object]) -> None:
    heard: list[str] = []
    with sync.connect(server.address, cache_dir=None) as registry:
        for _ in range(8):
            registry.on_change("player", added=stuck)
        subscription: sync.Subscription

        def cancels(instance: Instance) -> None:
            heard.append(instance.id)
            subscription.cancel()

        subscription = registry.on_change("player", added=cancels)
        with registry.register(player("p1"), drain=0):
            eventually(lambda: heard == ["p1"])
            with registry.register(player("p2", 8002), drain=0):
                assert ids(registry.watch("player").next(WAIT_S)) == ["p1", "p2"]
        assert heard == ["p1"]
        began = time.monotonic()
    assert time.monotonic() - began < CLOSE_S
    subscription.cancel()  # again, and after all is closed


def test_threads_may_close_the_client_in_a_callback(server: RegistryServer) -> None:
    closed = threading.Event()
    registry = sync.connect(server.address, cache_dir=None).__enter__()

    def close(_: Instance) -> None:
        registry.close()
        closed.set()

    registry.on_change("player", added=close)
    registry.register(player("p1")).start()
    assert closed.wait(WAIT_S)
    with pytest.raises(registry_client.ClientClosed):
        registry.list("player")


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_threads_hear_of_the_next_one_after_a_failure(kind: type[BaseException], server: RegistryServer) -> None:
    heard: list[str] = []

    def added(instance: Instance) -> None:
        heard.append(instance.id)
        raise kind("on purpose")

    with sync.connect(server.address, cache_dir=None) as registry:
        registry.on_change("player", added=added)
        with registry.register(player("p1"), drain=0), registry.register(player("p2", 8002), drain=0):
            eventually(lambda: heard == ["p1", "p2"])
