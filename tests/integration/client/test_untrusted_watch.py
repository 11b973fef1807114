"""What a server answers to a watch is not trusted: it is bounded, refused, and not asked for in a hurry."""

import asyncio
import contextlib
import resource
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc.aio
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

import registry_client
from registry_api.registry.v1 import registry_pb2 as pb
from registry_client import Backoff, Watch, WatchLimits
from registry_client.view import ViewFold
from tests.integration.client.conftest import WAIT_S, ids, until
from tests.support.liar import Answer, Liar, full, named
from tests.support.waiting import always_async, eventually_async, passed

Answers = AsyncIterator[pb.WatchResponse | bytes]
Context = grpc.aio.ServicerContext[Any, Any]
FEW = 12  # streams in three seconds; without a pause there were 18 in one


async def for_ever() -> None:
    await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def watching(answer: Answer, **options: Any) -> AsyncIterator[tuple[Liar, Watch]]:
    async with (
        Liar(answer) as liar,
        registry_client.connect(liar.address, cache_dir=None, **options) as registry,
        registry.watch("player") as watch,
    ):
        yield liar, watch


# ---- answers that are refused


def once(response: pb.WatchResponse | bytes) -> Answer:
    async def answer(_: pb.WatchRequest, __: Context) -> Answers:
        yield response
        await for_ever()

    return answer


async def a_checksum_that_never_matches(_: pb.WatchRequest, __: Context) -> Answers:
    yield full(named("a"), checksum=1)
    await for_ever()


async def a_difference_at_first(_: pb.WatchRequest, __: Context) -> Answers:
    yield full(named("a"), reset=False)
    await for_ever()


async def a_set_of_another_size(_: pb.WatchRequest, __: Context) -> Answers:
    """Of messages so small that their number is what hurts."""
    for _number in range(10_000):
        yield full(more=True, reset=_number == 0)
    await for_ever()


REFUSED: dict[str, tuple[Answer, str]] = {
    "a checksum that never matches": (a_checksum_that_never_matches, "checksum"),
    "an empty epoch": (once(full(named("a"), epoch="")), "epoch"),
    "an epoch of absurd size": (once(full(named("a"), epoch="e" * 2_000_000)), "epoch"),
    "a token of absurd size": (once(full(named("a"), resume_token="t" * 2_000_000)), "resume_token"),
    "another service": (once(full(named("a", service="chat"))), "another question"),
    "another namespace": (once(full(named("a", namespace="prod"))), "another question"),
    "a negative revision": (once(full(named("a"), revision=-5)), "revision"),
    "a difference without a set": (a_difference_at_first, "without the full set"),
    "no message at all": (once(b"\xff\xff\xff"), "cannot be read"),
    "text that is none": (once(b"\x0a\x04\x0a\x02\xff\xfe"), "cannot be read"),
    "parts without end": (a_set_of_another_size, "parts"),
}


async def test_what_is_refused_is_said_and_not_asked_for_in_a_hurry(caplog: pytest.LogCaptureFixture) -> None:
    async def refused(name: str) -> None:
        answer, reason = REFUSED[name]
        async with watching(answer, watch_limits=WatchLimits(parts=100)) as (liar, watch):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(watch), 3.0)
            assert watch.view is None, name
            assert reason in watch.trouble, name
            assert liar.address in watch.trouble
            assert 2 <= liar.streams <= FEW, name
            # And the watch is no worse for that: as soon as the answer is right, it is taken.
            liar.answer = once(full(named("a")))
            assert ids(await asyncio.wait_for(anext(watch), 40)) == ["a"], name
            assert watch.trouble == ""

    await asyncio.gather(*map(refused, REFUSED))
    assert len([it for it in caplog.records if it.name.startswith("registry_client")]) <= 5 * len(REFUSED)


@pytest.mark.parametrize("limits", [WatchLimits(size=4 * 1024 * 1024), WatchLimits(instances=10_000)])
async def test_a_full_set_without_end_is_bounded(limits: WatchLimits) -> None:
    part = full(*(named(f"{i}", metadata={"x": "y" * 200}) for i in range(2000)), more=True)
    sent = 0

    async def endless(_: pb.WatchRequest, __: Context) -> Answers:
        nonlocal sent
        while True:
            yield part
            part.reset = False
            sent += 1

    async with watching(endless, watch_limits=limits) as (liar, watch):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(watch), 3.0)
        assert "has more than" in watch.trouble
        assert liar.streams <= FEW
        assert sent * part.ByteSize() < FEW * 30 * 1024 * 1024


async def test_a_full_set_without_end_costs_no_more_than_the_default_limit_says() -> None:
    part = full(*(named(f"{i}", metadata={"x": "y" * 1000}) for i in range(800)), more=True)

    async def endless(_: pb.WatchRequest, __: Context) -> Answers:
        while True:
            yield part
            part.reset = False

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with watching(endless) as (_, watch):
        await eventually_async(lambda: "has more than 67,108,864 bytes" in watch.trouble, timeout_s=30)
    # The server of this test is in the same process, and its buffers with it.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600 * 1024


async def test_parts_that_never_complete_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry_client.watcher.STEP_S", 1.0)

    async def trickle(_: pb.WatchRequest, __: Context) -> Answers:
        yield full(named("a"), more=True)
        while True:
            await passed(0.05)
            yield full(named("b"), more=True, reset=False)

    async with watching(trickle) as (liar, watch):
        await eventually_async(lambda: liar.streams >= 2)
        assert "does not answer" in watch.trouble
        assert watch.view is None


async def test_a_flood_of_answers_is_taken_at_its_own_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    first = full(named("a"))
    bookmark = full(bookmark=True, reset=False, checksum=first.checksum).SerializeToString()

    async def flood(_: pb.WatchRequest, __: Context) -> Answers:
        yield first
        while True:
            yield bookmark

    async with watching(flood) as (_, watch):
        await anext(watch)
        taken: list[int] = []
        fold = ViewFold.on_response

        def counted(*args: Any) -> Any:
            taken.append(1)
            return fold(*args)

        monkeypatch.setattr(ViewFold, "on_response", counted)
        await passed(2.0)
        assert 0 < len(taken) < 2400


# ---- streams that end


async def ends_at_once(_: pb.WatchRequest, __: Context) -> Answers:
    yield full(named("a"))


async def ends_without_a_word(_: pb.WatchRequest, __: Context) -> Answers:
    for response in ():
        yield response


async def aborts(_: pb.WatchRequest, context: Context) -> Answers:
    yield full(named("a"))
    await context.abort(grpc.StatusCode.INTERNAL, "no")


async def says_that_it_was_cancelled(_: pb.WatchRequest, context: Context) -> Answers:
    yield full(named("a"))
    await context.abort(grpc.StatusCode.CANCELLED, "no")


async def is_good_at_first(_: pb.WatchRequest, __: Context) -> Answers:
    yield full(named("a"))
    yield full(named("a"), checksum=7)
    await for_ever()


async def is_full(_: pb.WatchRequest, context: Context) -> Answers:
    yield full(named("a"))
    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no")


@pytest.mark.parametrize(
    "answer", [ends_at_once, ends_without_a_word, aborts, says_that_it_was_cancelled, is_good_at_first, is_full]
)
async def test_a_stream_that_ends_at_once_is_no_use(answer: Answer) -> None:
    async with watching(answer) as (liar, watch):
        await passed(3.0)
        assert 2 <= liar.streams <= FEW
        before = liar.streams
        liar.answer = once(full(named("a"), named("b")))
        assert ids(await until(watch, lambda view: len(view.instances) == 2)) == ["a", "b"]
        assert liar.streams > before
        assert watch.trouble == ""


async def test_a_stream_that_has_lasted_is_begun_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a server restarts: the pause is that of a first try."""
    monkeypatch.setattr("registry_client.watcher.LASTING_S", 0.5)
    ends = asyncio.Event()

    async def lasting_at_last(_: pb.WatchRequest, __: Context) -> Answers:
        yield full(named(f"p{liar.streams}"), revision=liar.streams)
        if liar.streams > 2:
            await ends.wait()

    pauses = Backoff(base_s=0.02, cap_s=60.0, factor=25.0, jitter=0.0)  # seconds: 0.02, 0.5, 12.5
    async with watching(lasting_at_last, backoff=pauses) as (liar, watch):
        await until(watch, lambda view: ids(view) == ["p3"])
        await passed(0.6)
        began = time.monotonic()
        liar.answer = once(full(named("p4"), revision=4))
        ends.set()
        await until(watch, lambda view: ids(view) == ["p4"])
        assert time.monotonic() - began < pauses.ceiling(2)


async def test_a_registry_that_says_when_to_come_back_is_given_that_time() -> None:
    packed = any_pb2.Any()
    packed.Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=2)))
    status = rpc_status.to_status(
        status_pb2.Status(code=grpc.StatusCode.UNAVAILABLE.value[0], message="later", details=[packed])
    )

    async def later(_: pb.WatchRequest, context: Context) -> Answers:
        await context.abort(status.code, status.details, status.trailing_metadata)
        for response in ():
            yield response

    async with watching(later) as (liar, _):
        await eventually_async(lambda: liar.streams == 1)
        await always_async(lambda: liar.streams == 1, for_s=1.5)
        await eventually_async(lambda: liar.streams == 2)


# ---- a good registry beside a bad one


@pytest.mark.parametrize("name", ["a checksum that never matches", "an empty epoch", "another service"])
async def test_a_good_registry_is_found_beside_one_that_is_refused(name: str) -> None:
    async with Liar(REFUSED[name][0]) as bad, Liar(once(full(named("a")))) as good:
        for addresses in ([bad.address, good.address], [good.address, bad.address]):
            async with (
                registry_client.connect(addresses, cache_dir=None) as registry,
                registry.watch("player") as watch,
            ):
                assert ids(await until(watch, lambda view: len(view.instances) == 1)) == ["a"]


async def test_a_replica_that_stays_behind_is_left_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry_client.watcher.BEHIND_S", 0.5)
    is_known = asyncio.Event()

    async def ahead(_: pb.WatchRequest, __: Context) -> Answers:
        if is_known.is_set():
            yield full(named("a"), named("b"), named("c"), revision=11)
            await for_ever()
        yield full(named("a"), named("b"), revision=9)
        await is_known.wait()

    async def behind(_: pb.WatchRequest, __: Context) -> Answers:
        first = full(named("a"), revision=5)
        yield first
        while True:
            await passed(0.1)
            yield full(bookmark=True, reset=False, checksum=first.checksum, revision=5)

    async with (
        Liar(ahead) as fresh,
        Liar(ends_without_a_word) as old,
        registry_client.connect([fresh.address, old.address], cache_dir=None) as registry,
        registry.watch("player") as watch,
    ):
        await until(watch, lambda view: ids(view) == ["a", "b"])
        old.answer = behind
        asked = old.streams
        is_known.set()
        view = await until(watch, lambda view: ids(view) != ["a", "b"])
        assert old.streams > asked
        assert ids(view) == ["a", "b", "c"]


async def test_what_was_known_stays_when_a_registry_goes_bad() -> None:
    async def stays(name: str) -> None:
        async with watching(once(full(named("a"))), watch_limits=WatchLimits(parts=100)) as (liar, watch):
            ends = asyncio.Event()

            async def good(_: pb.WatchRequest, __: Context) -> Answers:
                yield full(named("a"))
                await ends.wait()

            liar.answer = good
            assert ids(await anext(watch)) == ["a"]
            liar.answer = REFUSED[name][0]
            ends.set()
            view = await asyncio.wait_for(anext(watch), WAIT_S)
            assert ids(view) == ["a"], name
            assert view.stale_for is not None, name

    await asyncio.gather(*map(stays, REFUSED))


# ---- instances that make no sense


@pytest.mark.parametrize(
    "spoil",
    [
        lambda it: it.registered_at.FromJsonString("9999-12-31T23:59:59Z"),
        lambda it: setattr(it.registered_at, "seconds", 2**62),
        lambda it: setattr(it.ttl, "seconds", -(2**62)),
        lambda it: setattr(it, "port", 2**32 - 1),
        lambda it: setattr(it, "host", ""),
        lambda it: setattr(it, "id", ""),
        lambda it: setattr(it, "weight", 2**32 - 1),
        lambda it: setattr(it, "status", 77),
        lambda it: setattr(it, "revision", -1),
    ],
)
async def test_an_instance_that_makes_no_sense_harms_nobody_else(spoil: Callable[[pb.Instance], object]) -> None:
    broken = named("x")
    spoil(broken)
    async with watching(once(full(named("a"), broken, named("b")))) as (_, watch):
        view = await asyncio.wait_for(anext(watch), WAIT_S)
        assert {"a", "b"} <= set(ids(view))
        assert {endpoint.instance.id for endpoint in view.endpoints} >= {"a", "b"}
        assert all(0 < endpoint.instance.port < 65536 for endpoint in view.endpoints)


async def test_no_task_dies_of_a_mistake_in_the_client(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the fold chokes on, the watch goes on, and says so."""
    right, calls = ViewFold.on_response, []

    def choke(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError("a mistake")
        return right(*args)

    monkeypatch.setattr(ViewFold, "on_response", choke)
    async with watching(once(full(named("a")))) as (_, watch):
        assert ids(await asyncio.wait_for(anext(watch), WAIT_S)) == ["a"]
    assert "a mistake" in caplog.text
