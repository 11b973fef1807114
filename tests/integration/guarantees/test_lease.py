"""What a lease promises: NoEarlyExpiry, ExpiryWithinOneTick, StreamLossIsNotDeath, and who may have an id."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import pytest
from google.rpc import error_details_pb2

from registry_api.registry.v1 import registry_pb2 as pb
from tests.support.proxy import Proxy
from tests.support.raw import Owner, RawClient, Watching, detail, owners, refusal
from tests.support.servers import RegistryServer
from tests.support.stores import MAY_BUILD
from tests.support.waiting import eventually_async, passed

TTL_S = 2.0
# A tick of 0.1 s; etcd looks twice a second and ends leases through its log. The rest is for a busy machine, which may
# hold up one or another for longer.
TICK_S = {
    "memory": 0.1 + 0.9,
    "sqlite": 0.1 + 0.9,
    "mirror": 0.1 + 1.4,
    "etcd": 0.5 + 1.5,
    "consul": 0.1 + 1.5,
    "zookeeper": 0.1 + 1.4,
}
BUSY_S = 4.0
BUILT = ("consul", "zookeeper")


@pytest.fixture(params=[pytest.param(kind, marks=MAY_BUILD if kind in BUILT else ()) for kind in TICK_S])
def store(request: pytest.FixtureRequest) -> str:
    """The kind of store; here also a mirror of files."""
    kind: str = request.param
    return kind


@dataclass(frozen=True, slots=True)
class Life:
    """The last sign of life of an instance: asked for at, answered at, on the monotonic clock; its ttl in force."""

    asked_at: float
    answered_at: float
    ttl_s: float


async def live(client: RawClient, name: str, port: int, ttl_s: float, renewals: int) -> Life:
    """Register, renew at half time so many times, and renew no more."""
    asked_at = time.monotonic()
    answer = await client.register(name, port, ttl_s=ttl_s)
    in_force_s = answer.ttl.ToNanoseconds() / 1e9
    life = Life(asked_at, time.monotonic(), in_force_s)
    for _ in range(renewals):
        await passed(in_force_s / 2)
        asked_at = time.monotonic()
        assert (await client.renew_one(answer.lease_id)).state == pb.Renewal.RENEWED
        life = Life(asked_at, time.monotonic(), in_force_s)
    return life


@contextlib.asynccontextmanager
async def lives_and_ends(client: RawClient) -> AsyncIterator[dict[str, tuple[Life, float]]]:
    """Instances with several ttls, renewed never or once: their last sign of life, and when they were gone."""
    plans = {f"ttl-{ttl_s}-renewed-{renewals}": (ttl_s, renewals) for ttl_s in (2.0, 2.4) for renewals in (0, 1)}
    async with client.watching() as watch:
        await watch.wait_started()
        lives = await asyncio.gather(
            *(live(client, name, 7000 + number, *plan) for number, (name, plan) in enumerate(plans.items()))
        )
        await watch.wait_ids()
        yield {name: (life, gone_at(watch, name)) for name, life in zip(plans, lives, strict=True)}


def gone_at(watch: Watching, name: str) -> float:
    """When it left the set, for the only time."""
    (at,) = [step.at for step in watch.steps if ("player", name) in step.removed]
    return at


async def test_lease_no_early_expiry_and_expiry_within_one_tick(client: RawClient, store: str) -> None:
    """An instance is there for its whole ttl after the last renewal, counted from when that was asked for, and it is
    gone, for everybody who watches, a tick after that, counted from when that was answered."""
    async with lives_and_ends(client) as ends:
        lived_s = {name: gone - life.asked_at - life.ttl_s for name, (life, gone) in ends.items()}
        late_s = {name: gone - life.answered_at - life.ttl_s for name, (life, gone) in ends.items()}
        assert min(lived_s.values()) >= 0, f"NoEarlyExpiry: {lived_s}"
        assert min(late_s.values()) < TICK_S[store], f"ExpiryWithinOneTick: {late_s}"
        assert max(late_s.values()) < TICK_S[store] + BUSY_S, f"ExpiryWithinOneTick: {late_s}"


# ---- the end of a stream is not the end of a life


async def stays_its_ttl(watch: Watching, name: str, cut_at: float, ttl_s: float, slack_s: float) -> None:
    """The instance is there for its ttl after the cut, and gone after that."""
    await watch.wait(lambda: ("player", name) not in watch.view, "its lease ran out", timeout_s=ttl_s + slack_s)
    assert gone_at(watch, name) >= cut_at + ttl_s * 0.6, (
        "the last renewal was at most a third of the ttl before the cut"
    )
    assert gone_at(watch, name) <= cut_at + ttl_s + slack_s


async def test_stream_loss_is_not_death(client: RawClient, store: str) -> None:
    """A KeepAlive stream that ends, in order or not, ends no lease."""
    async with client.watching() as watch:
        calls = {}
        for number, how in enumerate(("half-closed", "cancelled")):
            lease = (await client.register(how, 7000 + number, ttl_s=TTL_S)).lease_id
            calls[how] = client.stub.KeepAlive()
            await calls[how].write(pb.KeepAliveRequest(lease_ids=[lease]))
            assert isinstance(await calls[how].read(), pb.KeepAliveResponse)
        await watch.wait_ids(*calls)
        cut_at = time.monotonic()
        calls["cancelled"].cancel()
        await calls["half-closed"].done_writing()
        assert await calls["half-closed"].read() == grpc.aio.EOF
        for how in calls:
            await stays_its_ttl(watch, how, cut_at, TTL_S, TICK_S[store] + BUSY_S)


async def test_stream_loss_is_not_death_when_the_connection_breaks(
    server: RegistryServer, client: RawClient, store: str
) -> None:
    """The owner's connection is cut off, with all its streams: the instance stays until its ttl, and for good if the
    owner comes back in time."""
    async with Proxy(server.address) as gate, RawClient(gate.address) as behind, contextlib.AsyncExitStack() as stack:
        lost, back = await owners(stack, behind, ["lost", "back"], ttl_s=3.0)
        async with client.watching() as watch:
            await watch.wait_ids("lost", "back")
            await asyncio.gather(*(owner.wait_state(pb.Renewal.RENEWED) for owner in (lost, back)))
            cut_at = time.monotonic()
            await gate.cut()
            await lost.stop()
            await gate.restore()
            await back.wait_state(pb.Renewal.RENEWED, after=len(back.states))
            await stays_its_ttl(watch, "lost", cut_at, 3.0, TICK_S[store] + BUSY_S)
            await back.wait_state(pb.Renewal.RENEWED, after=len(back.states))
            assert watch.ids == {"back"}
            assert {len(step.names) for step in watch.steps} == {2, 1}
        assert back.registrations == 1


# ---- who has an id, and who has an address


async def test_take_over_has_a_higher_generation_and_tells_the_old_owner(client: RawClient) -> None:
    async with client.watching() as watch:
        old = await client.register("one", 7001)
        new = await client.register("one", 7002)
        assert new.instance.generation > old.instance.generation
        assert new.instance.create_revision == old.instance.create_revision
        assert (await client.renew_one(old.lease_id)).state == pb.Renewal.UNKNOWN
        assert (await client.renew_one(new.lease_id)).state == pb.Renewal.RENEWED
        await watch.wait(lambda: watch.revision >= new.header.revision, "the new owner")
        assert watch.view["player", "one"] == new.instance
        assert all(len(step.names) == 1 for step in watch.steps[1:])


async def test_take_over_from_a_lease_that_holds_more(client: RawClient) -> None:
    """The old lease lives on for what it still has, and says that it has less."""
    lease = (await client.register("one", 7001)).lease_id
    await client.register("two", 7002, lease_id=lease)
    assert (await client.renew_one(lease)).instances == 2
    await client.register("one", 7003)
    renewal = await client.renew_one(lease)
    assert (renewal.state, renewal.instances) == (pb.Renewal.RENEWED, 1)


async def test_old_owner_cannot_come_back(client: RawClient) -> None:
    """With the generation it held it is refused, and nothing has changed; whoever holds the newest may come back."""
    old = (await client.register("one", 7001)).instance
    new = await client.register("one", 7002)
    before = await client.list()
    error = await refusal(client.register("one", 7001, generation=old.generation), grpc.StatusCode.FAILED_PRECONDITION)
    (violation,) = detail(error, error_details_pb2.PreconditionFailure).violations
    assert violation.subject == "default/player/one"
    after = await client.list()
    assert after.instances == before.instances
    assert (await client.renew_one(new.lease_id)).instances == 1
    again = await client.register("one", 7002, generation=new.instance.generation)
    assert again.instance.generation > new.instance.generation


async def test_old_owner_learns_it_by_its_renewals(client: RawClient) -> None:
    """That its lease is gone, or, while that is under way, that it holds nothing any more."""
    async with Owner(client, "one", 7001, ttl_s=TTL_S) as owner:
        await client.register("one", 7002)
        await eventually_async(lambda: owner.lost, what="its registration is refused")
        assert owner.lost is not None
        assert owner.lost.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_address_taken_by_a_new_id_leaves_no_ghost(client: RawClient) -> None:
    async with client.watching() as watch:
        crashed = await client.register("crashed", 7001)
        await client.register("restarted", 7001)
        await watch.wait_ids("restarted")
        assert await client.ids() == {"restarted"}
        assert (await client.renew_one(crashed.lease_id)).state == pb.Renewal.UNKNOWN
        await refusal(
            client.stub.Get(pb.GetRequest(key=pb.InstanceKey(service="player", id="crashed"))),
            grpc.StatusCode.NOT_FOUND,
        )
        assert all(len(step.names) == 1 for step in watch.steps[1:]), "never two, never none"
    other = await client.register("other", 7001, service="chat")
    assert await client.ids() == {"restarted"}, "the same address in another service is no concern of it"
    assert other.instance.id == "other"


# ---- a server that stands still


async def test_server_that_was_stopped_forgets_nobody(server: RegistryServer, client: RawClient) -> None:
    """SIGSTOP for longer than the ttl: nobody could renew, so nobody is gone, and no list was ever shorter."""
    async with contextlib.AsyncExitStack() as stack:
        held = await owners(stack, client, ["a", "b", "c"], ttl_s=TTL_S)
        watch = await stack.enter_async_context(client.watching())
        await watch.wait_ids("a", "b", "c")
        await asyncio.gather(*(owner.wait_state(pb.Renewal.RENEWED) for owner in held))
        server.pause()
        await passed(2 * TTL_S)
        server.resume()
        seen = {owner.id: len(owner.states) for owner in held}
        await asyncio.gather(*(owner.wait_state(pb.Renewal.RENEWED, after=seen[owner.id] + 1) for owner in held))
        await passed(TTL_S)
        assert watch.ids == await client.ids() == {"a", "b", "c"}
        assert {len(step.names) for step in watch.steps} == {3}
        assert all(owner.lost is None for owner in held)
