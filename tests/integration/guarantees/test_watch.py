"""What a Watch stream promises: Ordered, Complete, Atomic, Resumable, ResetFirst, Bounded.

Every Watching checks the order of revisions, the checksum of every step, and that nothing comes twice, by itself.
"""

import asyncio
import contextlib
import random

import grpc
import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from tests.support.bounded import bounded
from tests.support.raw import RawClient, Watching, checksum, refusal
from tests.support.servers import RegistryServer
from tests.support.waiting import eventually_async

BUSY_S = 4.0  # what a busy machine may add to what is promised

WRITERS = 4
CHANGES = 60  # of each writer


async def churn(client: RawClient, name: str, seed: int, changes: int = CHANGES) -> int:
    """One writer at work on instances of its own: registers, updates, takes over, removes. The last revision."""
    rng, alive, revision = random.Random(seed), dict[str, int](), 0
    for _ in range(changes):
        one = f"{name}-{rng.randrange(8)}"
        match rng.randrange(4 if one in alive else 1):
            case 0:
                alive[one] = port = alive.get(one) or 1000 * seed + rng.randrange(1, 900)
                answer = await client.register(one, port)
                alive = {other: its for other, its in alive.items() if its != port or other == one}
                revision = answer.header.revision
            case 1 | 2:
                weight = rng.randrange(1000)
                revision = (await client.update(one, weight=weight, tags=[f"tag-{weight % 3}"])).header.revision
            case _:
                del alive[one]
                revision = (await client.deregister(one)).header.revision
    return revision


async def churned(client: RawClient) -> int:
    """Several writers at the same time; the newest revision of all."""
    return max(await asyncio.gather(*(churn(client, f"w{seed}", seed) for seed in range(1, WRITERS + 1))))


async def same_as_list(client: RawClient, watch: Watching, revision: int, filter_: pb.Filter | None = None) -> None:
    """The folded set is what List says, instance by instance. Only for a registry that is at rest."""
    listed = await client.list(min_revision=revision, filter_=filter_)
    wanted = {(it.service, it.id): it for it in listed.instances}
    await watch.wait(lambda: watch.view == wanted, "what List says")
    assert listed.checksum == checksum(watch.view.values())


async def test_watch_ordered(client: RawClient) -> None:
    async with contextlib.AsyncExitStack() as stack:
        watches = [await stack.enter_async_context(client.watching()) for _ in range(5)]
        await asyncio.gather(*(watch.wait_started() for watch in watches))
        revision = await churned(client)
        for watch in watches:
            await watch.wait_revision(revision)
            revisions = [step.revision for step in watch.steps]
            assert revisions == sorted(set(revisions)), "two steps at one revision, or back in time"
            assert len(revisions) > 10


async def test_watch_complete(client: RawClient) -> None:
    """Whoever watches whatever, from whenever on, ends up with what List says, at the same checksum."""
    filters = [None, pb.Filter(tags=["tag-1"]), pb.Filter(routable_only=True)]
    async with contextlib.AsyncExitStack() as stack:
        watches = [(filter_, await stack.enter_async_context(client.watching(filter_=filter_))) for filter_ in filters]
        writing = asyncio.create_task(churned(client))
        while not writing.done():  # some come while it goes on
            late = await stack.enter_async_context(client.watching())
            await late.wait_started()
            watches.append((None, late))
            await asyncio.wait([writing], timeout=0.05)
        revision = await writing
        assert len(watches) > 3
        for filter_, watch in watches:
            await same_as_list(client, watch, revision, filter_)


async def test_watch_complete_one_by_one(client: RawClient) -> None:
    """Changes that come slower than they are told are all told, each with its own revision."""
    async with client.watching() as watch:
        await watch.wait_started()
        revisions = []
        for weight in range(1, 21):
            answer = await client.register("one") if weight == 1 else await client.update("one", weight=weight)
            revisions.append(answer.header.revision)
            await watch.wait_revision(revisions[-1])
        assert [step.revision for step in watch.steps[1:]] == revisions
        assert [step.upserts["player", "one"].revision for step in watch.steps[1:]] == revisions


async def test_watch_atomic_address(client: RawClient) -> None:
    """An address that goes from one instance to the next is never shown twice, and never missing."""
    async with client.watching() as watch:
        await client.register("owner-0", 7000)
        await watch.wait_ids("owner-0")
        for number in range(1, 40):
            revision = (await client.register(f"owner-{number}", 7000)).header.revision
        await watch.wait_revision(revision)
        await watch.wait_ids("owner-39")
    assert {len(step.names) for step in watch.steps if step.at >= first_full(watch)} == {1}


def first_full(watch: Watching) -> float:
    """When the set first had something in it."""
    return next(step.at for step in watch.steps if step.names)


async def test_watch_atomic_lease(client: RawClient) -> None:
    """What one write does to all instances of a lease comes in one step: draining, leaving, and expiring too."""
    for leave in ("deregister", "drain", "expire"):
        lease = (await client.register("a", 7001, ttl_s=2)).lease_id
        for number, name in enumerate("bcde"):
            await client.register(name, 7002 + number, lease_id=lease)
        async with client.watching() as watch:
            await watch.wait_ids(*"abcde")
            if leave == "deregister":
                assert (await client.deregister(lease_id=lease)).removed == 5
            if leave == "drain":
                assert (await client.deregister(lease_id=lease, drain_s=1)).removed == 5
                await watch.wait(lambda: statuses(watch) == {pb.DRAINING}, "all are draining")
            await watch.wait_ids()
        assert {len(step.names) for step in watch.steps} == {5, 0}, leave
        assert len(watch.steps) == (3 if leave == "drain" else 2), leave


def statuses(watch: Watching) -> set[int]:
    return {instance.status for instance in watch.view.values()}


async def test_watch_resumable(client: RawClient) -> None:
    """A token leads on from where it was given out: the difference, not the set, and nothing twice."""
    for number in range(20):
        revision = (await client.register(f"old-{number}", 7100 + number)).header.revision
    async with client.watching() as watch:
        await watch.wait_revision(revision)
    await client.deregister("old-3")
    await client.update("old-4", weight=7)
    await client.update("old-4", weight=8)
    await client.register("come-and-gone", 7200)
    await client.deregister("come-and-gone")
    revision = (await client.register("new", 7201)).header.revision
    async with client.watching(token=watch.token, view=watch.view) as resumed:
        await resumed.wait_revision(revision)
        (step,) = resumed.steps
        assert not step.reset
        assert set(step.upserts) == {("player", "old-4"), ("player", "new")}
        assert step.removed == {("player", "old-3")}
        assert resumed.view["player", "old-4"].weight == 8
        await same_as_list(client, resumed, revision)
    async with client.watching(token=resumed.token, view=resumed.view) as idle:
        await idle.wait_started()
        assert not idle.steps[0].upserts
        assert not idle.steps[0].reset
        assert idle.view == resumed.view


async def test_watch_resumable_across_replicas(replicas: list[RegistryServer]) -> None:
    """A token of one replica is good on the other, in both directions, while writes go on."""
    async with RawClient(replicas[0].address) as one, RawClient(replicas[1].address) as two:
        revision = (await one.register("first", 7001)).header.revision
        token, view = "", dict[tuple[str, str], pb.Instance]()
        for number, here in enumerate((one, two, one, two)):
            async with here.watching(token=token, view=view) as watch:
                await watch.wait_revision(revision)
                assert watch.steps[0].reset == (number == 0), "a token of the other replica is good here"
                assert watch.ids == {"first", *(f"id-{before}" for before in range(number))}
            token, view = watch.token, watch.view
            other = two if here is one else one
            revision = (await other.register(f"id-{number}", 7100 + number)).header.revision


async def test_watch_resumable_on_a_replica_that_came_later(
    replicas: list[RegistryServer],
) -> None:
    """It does not know what changed before it started, so it tells everything, and the set is right."""
    async with RawClient(replicas[0].address) as client:
        revision = (await client.register("before", 7001)).header.revision
        async with client.watching() as watch:
            await watch.wait_revision(revision)
        revision = (await client.register("meanwhile", 7002)).header.revision
    await replicas[1].restart_async()
    async with (
        RawClient(replicas[1].address) as client,
        client.watching(token=watch.token, view=watch.view) as resumed,
    ):
        await resumed.wait_revision(revision)
        assert resumed.ids == {"before", "meanwhile"}
        await same_as_list(client, resumed, revision)


async def test_watch_resumable_after_the_memory_is_gone(server: RegistryServer, client: RawClient, store: str) -> None:
    """A server that was killed: on etcd and on a file the token is still good, in memory the set starts anew."""
    revision = (await client.register("one", 7001)).header.revision
    async with client.watching() as watch:
        await watch.wait_revision(revision)
        await server.restart_async()
        error = await watch.wait_ended()
        assert error.code() is grpc.StatusCode.UNAVAILABLE
    async with RawClient(server.address) as again, again.watching(token=watch.token, view=watch.view) as resumed:
        await resumed.wait_started()
        assert (resumed.epoch == watch.epoch) == (store != "memory")
        assert resumed.steps[0].reset == (store == "memory")
        assert resumed.ids == ({"one"} if store != "memory" else set())


async def test_watch_resumable_by_its_own_question_alone(client: RawClient) -> None:
    async with client.watching() as watch:
        await watch.wait_started()
    for token, options in ((watch.token, {"filter_": pb.Filter(version="2")}), ("nonsense", {})):
        async with client.watching(token=token, **options) as refused:
            error = await refused.wait_ended()
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "resume_token" in (error.details() or "")
    error = await refusal(
        client.stub.Watch(pb.WatchRequest(resume_token=watch.token)).read(), grpc.StatusCode.INVALID_ARGUMENT
    )
    assert "resume_token" in (error.details() or "")


@pytest.mark.parametrize("instances", [0, 1, 150])
async def test_watch_reset_first(client: RawClient, instances: int) -> None:
    """The first step is the full set, in several messages when it is large."""
    metadata = {"pad": "x" * (15 * 1024)}  # 150 of these are more than two messages take
    for number in range(instances):
        revision = (await client.register(f"id-{number}", 7000 + number, metadata=metadata)).header.revision
    async with client.watching() as watch:
        await watch.wait_started()
        (first,) = watch.steps
        assert first.reset
        assert len(first.upserts) == instances
        assert instances == 0 or first.revision >= revision


async def test_watch_bookmark(client: RawClient) -> None:
    """An idle stream proves every 5 s that its set is still good."""
    revision = (await client.register("one")).header.revision
    async with client.watching() as watch:
        await watch.wait_started()
        await watch.wait(lambda: watch.bookmarks, "a bookmark", timeout_s=5.0 + BUSY_S)
        assert (watch.ids, watch.revision >= revision) == ({"one"}, True)


async def test_watch_reset_first_for_every_service(client: RawClient) -> None:
    """A watch without names has all services, also those that come later."""
    await client.register("a", 7001, service="one")
    async with Watching(client, pb.WatchRequest()) as watch:
        await watch.wait_ids("a")
        await client.register("b", 7002, service="two")
        await watch.wait_ids("a", "b")
        assert [step.reset for step in watch.steps] == [True, False]


async def test_one_change_is_told_at_once(client: RawClient) -> None:
    """An idle registry does not gather changes: the watcher has it about when the writer has its answer."""
    async with client.watching() as watch:
        await watch.wait_started()
        loop, ages = asyncio.get_running_loop(), []
        for weight in range(1, 31):
            began = loop.time()
            answer = await (client.register("one") if weight == 1 else client.update("one", weight=weight))
            await watch.wait_revision(answer.header.revision)
            ages.append(loop.time() - began)
        await eventually_async(lambda: watch.steps[-1].revision == answer.header.revision)
    assert sorted(ages)[len(ages) // 2] < 0.1, ages


@pytest.mark.timeout(240)
@pytest.mark.parametrize("store", ["memory", "etcd"], indirect=True)  # it takes a minute, and no store has a part in it
async def test_watch_bounded(server: RegistryServer, client: RawClient) -> None:
    """A watcher that stops reading for a minute, while 10,000 changes happen, costs the server next to nothing, delays
    nobody, and ends up right."""
    await bounded(server, client)
