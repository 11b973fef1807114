"""Every method of every kind, within the limits: what is refused, what is counted, and that all of it is let go of."""

import asyncio
import random
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server import turns
from registry_server.errors import LimitExceeded, RequestError, Unavailable
from registry_server.limits.gate import Gate
from registry_server.limits.overload import Overload
from registry_server.limits.quotas import Quotas
from registry_server.limits.refusals import Refusals
from registry_server.rpc.table import Broadcast, Caller, Conversation, Service, Session, Table, Unary
from tests.support.core import NOBODY, drive

OTHER = Caller("ipv4:192.0.2.2:1")


class Stream:
    """A subscription, and the outlet that it has."""

    def __init__(self) -> None:
        self.freed = self.left = 0
        self.heard: list[str] = []

    def free(self) -> None:
        self.freed += 1

    def leave(self) -> None:
        self.left += 1

    async def received(self, request: Any) -> None:
        if request.value == "limit":
            raise LimitExceeded("within", "no more names")
        self.heard.append(request.value)

    def send(self, chunks: Any) -> None: ...

    def refuse(self, error: RequestError, /) -> None: ...


class Stage:
    """Methods of all kinds behind a gate."""

    def __init__(self, **quotas: int) -> None:
        self.now = 0.0
        self.said: list[str] = []
        self.overload = Overload(Quotas(**quotas), None)
        self.may_end = asyncio.Event()
        self.stream = Stream()
        self.at_work = self.most_at_work = 0
        self.gate = Gate(
            Quotas(**quotas), Refusals(self.said.append), self.overload, lambda: self.now, random.Random(1)
        )
        methods = {
            "Get": Unary(StringValue, self.get),
            "Register": Unary(StringValue, self.get),
            "KeepAlive": Conversation(pb.KeepAliveRequest, self.work),
            "Ask": Conversation(StringValue, self.get),
            "Watch": Broadcast(pb.WatchRequest, self.watch),
            "Talk": Session(StringValue, self.talk),
        }
        health = {"Check": Unary(StringValue, self.get)}
        table = Table(Service("test", methods), Service("grpc.health.v1.Health", health))
        self.methods: Any = self.gate.limited(table).methods

    async def get(self, request: StringValue, caller: Caller) -> bytes:
        if request.value == "wait":
            await self.may_end.wait()
        if request.value == "limit":
            raise LimitExceeded("rules", "there are enough")
        return request.SerializeToString()

    async def work(self, request: pb.KeepAliveRequest, caller: Caller) -> bytes:
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        await asyncio.sleep(0)
        self.at_work -= 1
        return b""

    def watch(self, request: pb.WatchRequest, caller: Caller, outlet: Any) -> Stream:
        if request.namespace == "no":
            raise LimitExceeded("other", "no")
        return self.stream

    def talk(self, caller: Caller, outlet: Any) -> Stream:
        return self.stream

    def ask(self, method: str, value: str = "", caller: Caller = NOBODY) -> bytes:
        it = self.methods[f"/test/{method}"]
        answer: bytes = drive((it.call if isinstance(it, Unary) else it.answer)(StringValue(value=value), caller))
        return answer

    def join(self, caller: Caller = NOBODY, **request: Any) -> Any:
        return self.methods["/test/Watch"].join(pb.WatchRequest(**request), caller, self.stream)

    def open(self, caller: Caller = NOBODY) -> Any:
        return self.methods["/test/Talk"].open(caller, self.stream)

    @property
    def is_idle(self) -> bool:
        account = self.gate.accounts.of("ipv4:192.0.2.1")
        return account.is_idle and not account.filters and not self.gate.accounts.watches


def test_one_peer_asks_too_often_and_another_does_not() -> None:
    stage = Stage(max_requests_per_s_per_peer=1)
    for _ in range(2):
        stage.ask("Get")
    for caller in (NOBODY, NOBODY._replace(peer="ipv4:192.0.2.1:2")):
        with pytest.raises(LimitExceeded, match=r"^max_requests_per_s_per_peer: "):
            stage.ask("Get", caller=caller)
    assert stage.ask("Get", "x", OTHER)
    assert stage.gate.refusals.counts == {"max_requests_per_s_per_peer": 2}
    assert len(stage.said) == 1
    stage.now = 1.0
    stage.ask("Ask")
    assert stage.is_idle


async def test_requests_under_way() -> None:
    stage = Stage(max_requests_per_peer=2)
    call = stage.methods["/test/Get"].call
    waiting = [asyncio.create_task(call(StringValue(value="wait"), NOBODY)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(LimitExceeded, match=r"^max_requests_per_peer: "):
        await waiting.pop()
    stage.ask("Get", caller=OTHER)
    waiting[0].cancel()
    await asyncio.wait([waiting[0]])
    stage.ask("Get")
    stage.may_end.set()
    await waiting[1]
    assert stage.is_idle


@pytest.mark.parametrize("limit", ["max_requests_per_s_per_peer", "max_requests_per_peer"])
async def test_no_lease_runs_out_for_what_else_its_peer_asks(limit: str) -> None:
    """Renewals count apart, and are bounded by themselves."""
    stage = Stage(**{limit: 1})
    renew, get = stage.methods["/test/KeepAlive"].answer, stage.methods["/test/Get"].call
    waiting = [asyncio.create_task(get(StringValue(value="wait"), NOBODY)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(LimitExceeded, match=f"^{limit}: "):
        await get(StringValue(), NOBODY)
    await renew(pb.KeepAliveRequest(), NOBODY)
    with pytest.raises(LimitExceeded, match=f"^{limit}: "):
        await asyncio.gather(*(renew(pb.KeepAliveRequest(), NOBODY) for _ in range(3)))
    stage.may_end.set()
    await asyncio.wait(waiting)
    assert stage.is_idle


def test_what_a_method_refuses_is_counted_too() -> None:
    stage = Stage()
    with pytest.raises(LimitExceeded):
        stage.ask("Register", "limit")
    assert stage.gate.refusals.counts == {"rules": 1}
    assert stage.is_idle


def test_watches_count_until_they_are_left() -> None:
    stage = Stage(max_watches_per_peer=2)
    one, two = stage.join(), stage.open()
    for join in (stage.join, stage.open):
        with pytest.raises(LimitExceeded, match=r"^max_watches_per_peer: "):
            join()
    stage.join(OTHER).leave()
    one.free()
    assert stage.stream.freed == 1
    for _ in range(3):
        one.leave()
    assert stage.stream.left == 4, "what is behind it is told, however often"
    three = stage.join()
    with pytest.raises(LimitExceeded):
        stage.join()
    two.leave()
    three.leave()
    assert stage.is_idle


def test_a_watch_that_is_refused_within_counts_no_more() -> None:
    stage = Stage()
    with pytest.raises(LimitExceeded, match=r"^other"):
        stage.join(namespace="no", filter=pb.Filter(tags=["a"]))
    assert stage.is_idle
    assert stage.gate.refusals.counts == {"other": 1}


async def test_what_is_refused_on_a_stream_is_counted_too() -> None:
    stage = Stage()
    stream = stage.open()
    with pytest.raises(LimitExceeded, match=r"^within"):
        await stream.received(StringValue(value="limit"))
    assert stage.gate.refusals.counts == {"within": 1}
    stream.leave()
    assert stage.is_idle


def test_filters() -> None:
    stage = Stage(max_filters_per_peer=1)
    first = stage.join(services=["a", "b"], filter=pb.Filter(metadata={"x": "1", "y": "2"}))
    again = stage.join(services=["c"], filter=pb.Filter(metadata={"y": "2", "x": "1"}), resume_token="any")
    with pytest.raises(LimitExceeded, match=r"^max_filters_per_peer: "):
        stage.join(services=["a"], filter=pb.Filter(metadata={"x": "1"}))
    for it in (first, again):
        it.leave()
    assert stage.is_idle


def test_a_filter_that_says_nothing_is_none() -> None:
    """Our own client sends one with every watch."""
    stage = Stage(max_filters_per_peer=1)
    for it in [stage.join(services=[name], filter=pb.Filter()) for name in "abc"]:
        it.leave()
    assert stage.is_idle


async def test_what_is_said_on_a_stream_counts_as_requests() -> None:
    stage = Stage(max_requests_per_s_per_peer=2)
    stream = stage.open()
    for _ in range(3):
        await stream.received(StringValue(value="x"))
    with pytest.raises(LimitExceeded, match=r"^max_requests_per_s_per_peer: "):
        await stream.received(StringValue(value="x"))
    assert stage.stream.heard == ["x"] * 3


async def test_large_renewals_of_one_peer_take_turns_and_small_ones_do_not() -> None:
    stage = Stage()
    answer = stage.methods["/test/KeepAlive"].answer
    large, small = pb.KeepAliveRequest(lease_ids=["x"] * 1001), pb.KeepAliveRequest(lease_ids=["x"])
    await asyncio.gather(*(answer(large, NOBODY) for _ in range(5)))
    assert stage.most_at_work == 1
    await asyncio.gather(*(answer(small, NOBODY) for _ in range(5)), answer(large, NOBODY), answer(large, OTHER))
    assert stage.most_at_work == 7


async def test_who_waits_too_long_for_its_own_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "MAX_WAITING", 2)
    stage = Stage()
    large = pb.KeepAliveRequest(lease_ids=["x"] * 1001)
    many = [stage.methods["/test/KeepAlive"].answer(large, NOBODY) for _ in range(5)]
    ends = await asyncio.gather(*many, return_exceptions=True)
    assert [str(it) for it in ends if isinstance(it, Exception)] == [
        "max_requests_per_peer: too many that take long wait for one another"
    ] * 2
    assert stage.gate.refusals.counts == {"max_requests_per_peer": 2}


def test_overload_refuses_streams_then_writes_then_reads_and_never_renewals_or_whether_it_lives() -> None:
    stage = Stage(max_lag_ms=1000)

    told: list[Unavailable] = []

    def refused() -> set[str]:
        found = set()
        for name in ("Get", "Register", "Ask", "Watch", "Talk", "KeepAlive", "Check"):
            try:
                match name:
                    case "Watch":
                        stage.join().leave()
                    case "Talk":
                        stage.open().leave()
                    case "KeepAlive":
                        asyncio.run(stage.methods["/test/KeepAlive"].answer(pb.KeepAliveRequest(), NOBODY))
                    case "Check":
                        drive(stage.methods["/grpc.health.v1.Health/Check"].call(StringValue(), NOBODY))
                    case _:
                        stage.ask(name)
            except Unavailable as error:
                found.add(name)
                told.append(error)
        return found

    assert refused() == set()
    for late_s, expected in (
        (1.5, {"Watch", "Talk"}),
        (3.0, {"Watch", "Talk", "Register"}),
        (6.0, {"Watch", "Talk", "Register", "Get", "Ask"}),
        (0.0, set()),
    ):
        for _ in range(60):
            stage.overload.waited(late_s, late_s, 0.25 + late_s)
        assert refused() == expected
    assert all("more to do than it can" in str(it) and 1.0 <= it.retry_after_s <= 3.0 for it in told)
    assert len(stage.said) == 1
    assert stage.gate.refusals.counts["overload"] == len(told) == 10
    assert stage.is_idle
