"""No step of the event loop takes long, whatever is watched: measured in a real server, in its own processor time."""

import contextlib
import time
from collections.abc import AsyncIterator, Iterator

import psutil
import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from tests.support.http2 import Http2
from tests.support.raw import RawClient
from tests.support.speed import here
from tests.support.waiting import eventually_async, passed
from tests.support.watched_server import SERVICE, WatchedServer

LONGEST_S = 0.020
INSTANCES = 50_000
STREAMS = 3_000
WATCH = "/registry.v1.Registry/Watch"
WAIT_S = 60.0
MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedServer]:
    """It holds so many instances of one service."""
    with WatchedServer(tmp_path_factory.mktemp("steps"), instances=INSTANCES) as server:
        yield server


@pytest.fixture
async def watched(server: WatchedServer) -> AsyncIterator[WatchedServer]:
    """The steps from here to the end of the test are looked at."""
    began = time.monotonic()
    yield server
    await passed(0.5)
    longest_s = here(LONGEST_S)
    assert [f"{took * 1000:.0f} ms" for took in server.steps(began) if took > longest_s] == []


async def connected(stack: contextlib.AsyncExitStack, server: WatchedServer, count: int) -> list[Http2]:
    return [await stack.enter_async_context(Http2(server.address)) for _ in range(count)]


async def test_filtered_watches_of_very_many(watched: WatchedServer) -> None:
    """Each with a filter of its own, all at once; and a change, which each of them has to look at."""
    async with RawClient(watched.address) as client, Http2(watched.address) as many:
        filters = [pb.Filter(metadata={"shard": f"{number}"}) for number in range(20)]
        calls = [many.call(WATCH, pb.WatchRequest(services=[SERVICE], filter=it)) for it in filters]
        await many.flush()
        await many.wait_received(calls, WAIT_S)
        async with client.watching(SERVICE, filter_=pb.Filter(metadata={"shard": "new"})) as watch:
            await watch.wait_started()
            await client.register("a", 1, service=SERVICE, metadata={"shard": "new"})
            await watch.wait(lambda: (SERVICE, "a") in watch.view, "the change")


async def test_full_sets_of_very_many(watched: WatchedServer) -> None:
    async with RawClient(watched.address) as client:
        for filter_ in (None, pb.Filter(tags=["t1"])):
            async with client.watching(SERVICE, filter_=filter_) as watch:
                await watch.wait_started()
                assert len(watch.view) >= INSTANCES / 10


async def test_made_up_resume_tokens(watched: WatchedServer) -> None:
    """Each claims another revision, so that each would be a difference of its own."""
    async with RawClient(watched.address) as client, Http2(watched.address) as many:
        for number in range(2000):
            await client.register(f"b{number % 20}", 1 + number % 20, service="busy", weight=number)
        async with client.watching("busy") as watch:
            await watch.wait_started()
        epoch, revision, fingerprint, _ = watch.token.split("/")
        tokens = [f"{epoch}/{int(revision) - 30 * number}/{fingerprint}/{number:016x}" for number in range(60)]
        calls = [many.call(WATCH, pb.WatchRequest(services=["busy"], resume_token=it)) for it in tokens]
        await many.flush()
        await many.wait_received(calls, WAIT_S)


async def test_a_crowd_that_comes_is_told_a_change_and_bookmarks(watched: WatchedServer) -> None:
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(RawClient(watched.address))
        for number in range(300):
            await client.register(f"c{number}", 1 + number, service="crowd")
        connections = await connected(stack, watched, STREAMS // 250)
        for it in connections:
            calls = [it.call(WATCH, pb.WatchRequest(services=["crowd"])) for _ in range(250)]
            await it.flush()
            await it.wait_received(calls, WAIT_S)
        for _ in range(2):  # the change, and then a bookmark
            before = [sum(it.received.values()) for it in connections]
            await client.register("c1", 2, service="crowd", weight=7)
            await eventually_async(
                lambda before=before: all(  # type: ignore[misc]
                    sum(it.received.values()) >= was + 250 * 50 for it, was in zip(connections, before, strict=True)
                ),
                timeout_s=WAIT_S,
            )
            await passed(5.0)


async def test_readers_that_read_nothing_pin_no_copy_of_the_set(watched: WatchedServer) -> None:
    """Each takes the first bytes and no more; the set has so many megabytes."""
    process = psutil.Process(watched.pid)
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(RawClient(watched.address))
        set_bytes = sum(len(it.SerializeToString()) for it in (await client.list(SERVICE)).instances)
        set_bytes = set_bytes * INSTANCES // 10_000  # of a page
        before = process.memory_info().rss
        stuck = [await stack.enter_async_context(Http2(watched.address, window=1000)) for _ in range(4)]
        for it in stuck:
            calls = [it.call(WATCH, pb.WatchRequest(services=[SERVICE])) for _ in range(25)]
            await it.flush()
            await it.wait_received(calls, WAIT_S)
        await passed(1.0)
        grown = process.memory_info().rss - before
        # 100 readers: a message each, which gRPC copies, and the set once for all.
        assert grown < 100 * 0.4 * MEBIBYTE + 2 * set_bytes
        assert grown < 100 * set_bytes / 5
        async with client.watching(SERVICE) as watch:
            await watch.wait_started()
            await client.register("beside", 5, service=SERVICE)
            await watch.wait(lambda: (SERVICE, "beside") in watch.view, "the change")


async def test_lists_of_very_many(watched: WatchedServer) -> None:
    """Whole pages and the last of many, and what a filter looks for in all of them."""
    async with RawClient(watched.address) as client:
        for number in (0, INSTANCES * 9 // 10):
            request = pb.ListRequest(service=SERVICE, page_size=5_000, page_token=f"{SERVICE}/i{number:06}")
            page = await client.stub.List(request)
            assert [it.id for it in page.instances[:2]] == [f"i{number + 1:06}", f"i{number + 2:06}"]
        few = pb.ListRequest(service=SERVICE, filter=pb.Filter(metadata={"shard": "3"}), page_size=10)
        assert len((await client.stub.List(few)).instances) == 10
        assert len((await client.stub.List(pb.ListRequest(page_size=3))).instances) == 3
