"""What is counted of calls, of the store, and of how long things take."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.errors import NotFound, RequestError
from registry_server.metrics.calls import Calls
from registry_server.metrics.times import BOUNDS_S, Times
from registry_server.records import Commit, Key, Lease, Outcome, Renewal
from registry_server.rpc.table import Broadcast, Caller, Conversation, Service, Session, Table, Unary
from registry_server.stores import MeasuredStore
from registry_server.stores.base import Conflict, Emit, NoSuchLease, Store, StoreAway

CALLER = Caller("ipv4:127.0.0.1:1")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_times_are_counted_by_their_upper_bounds() -> None:
    times = Times()
    for seconds in (0.0, BOUNDS_S[0], BOUNDS_S[0] * 1.01, BOUNDS_S[-1], 1e9):
        times.add(seconds)
    buckets = dict(times.buckets())
    assert buckets[str(BOUNDS_S[0])] == 2
    assert buckets[str(BOUNDS_S[1])] == 3
    assert buckets[str(BOUNDS_S[-1])] == 4
    assert buckets["+Inf"] == 5
    assert times.sum_s == pytest.approx(1e9, rel=1e-6)


class Stream:
    def __init__(self) -> None:
        self.left = 0

    def free(self) -> None: ...

    def leave(self) -> None:
        self.left += 1

    async def received(self, request: Any) -> None: ...


def counted(method: Any, clock: Clock | None = None) -> tuple[Calls, Any]:
    calls = Calls(clock or Clock(), lambda error: type(error).__name__)
    table = calls.counted(Table(Service("s", {"M": method})))
    return calls, table.methods["/s/M"]


@pytest.mark.parametrize("kind", [Unary, Conversation])
async def test_how_calls_end(kind: Any) -> None:
    clock = Clock()
    ends: list[BaseException | None] = [None, None, NotFound("x", "y"), RuntimeError(), asyncio.CancelledError()]

    async def answer(request: Any, caller: Caller) -> bytes:
        clock.now += 1.0
        if (end := ends.pop(0)) is not None:
            raise end
        return b"answer"

    calls, method = counted(kind(pb.GetRequest, answer), clock)
    ask = method.call if kind is Unary else method.answer
    assert await ask(pb.GetRequest(), CALLER) == b"answer"
    await ask(pb.GetRequest(), CALLER)
    for expected in (NotFound, RuntimeError, asyncio.CancelledError):
        with pytest.raises(expected):
            await ask(pb.GetRequest(), CALLER)
    of_it = calls.methods["/s/M"]
    assert dict(of_it.codes) == {"OK": 2, "NotFound": 1, "INTERNAL": 1, "CANCELLED": 1}
    assert of_it.times.sum_s == 5.0


@pytest.mark.parametrize("kind", ["broadcast", "session"])
def test_streams_are_open_until_they_are_left_and_that_counts_once(kind: str) -> None:
    inner = Stream()
    method: Any = (
        Broadcast(pb.WatchRequest, lambda request, caller, outlet: inner)
        if kind == "broadcast"
        else Session(pb.WatchRequest, lambda caller, outlet: inner)
    )
    calls, method = counted(method)
    of_it = calls.methods["/s/M"]
    opened = [
        method.join(pb.WatchRequest(), CALLER, None) if kind == "broadcast" else method.open(CALLER, None)
        for _ in range(3)
    ]
    assert (of_it.open, of_it.codes["OK"]) == (3, 3)
    opened[0].leave()
    opened[0].leave()
    assert of_it.open == 2
    assert inner.left == 2  # how often is the stream's own business


def test_a_stream_that_is_refused_was_never_open() -> None:
    def refuse(request: Any, caller: Caller, outlet: Any) -> Stream:
        raise NotFound("x", "y")

    calls, method = counted(Broadcast(pb.WatchRequest, refuse))
    with pytest.raises(RequestError):
        method.join(pb.WatchRequest(), CALLER, None)
    assert (calls.methods["/s/M"].open, dict(calls.methods["/s/M"].codes)) == (0, {"NotFound": 1})


class Failing(Store):
    """Raises what it is told to."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    async def run(self, emit: Emit) -> None: ...

    async def grant(self, ttl_s: float) -> Lease:
        self._maybe()
        return Lease("lease", ttl_s)

    async def keep_alive(self, lease_ids: Sequence[str]) -> list[Renewal]:
        outcome = Outcome.RENEWED if self.error is None else Outcome.HELD
        return [Renewal(it, outcome, 1.0) for it in lease_ids]

    async def release(self, lease_id: str) -> None: ...

    async def commit(self, commit: Commit) -> int:
        self._maybe()
        return 7

    async def aclose(self) -> None: ...

    def _maybe(self) -> None:
        if self.error is not None:
            raise self.error


async def test_a_store_does_what_it_did_and_is_counted() -> None:
    inner = Failing()
    store = MeasuredStore(inner, Clock())
    assert await store.commit(Commit()) == 7
    assert (await store.grant(3.0)).ttl_s == 3.0
    for error, end in (
        (Conflict([Key("n", "s", "i")]), "conflict"),
        (NoSuchLease("x"), "no_such_lease"),
        (StoreAway("x"), "away"),
        (ValueError("x"), "error"),
    ):
        inner.error = error
        with pytest.raises(type(error)):
            await store.commit(Commit())
        assert store.ends["commit", end] == 1
    assert store.ends["commit", "ok"] == store.ends["grant", "ok"] == 1
    await store.keep_alive(["a", "b"])
    inner.error = None
    await store.keep_alive(["a"])
    assert store.held == 2
