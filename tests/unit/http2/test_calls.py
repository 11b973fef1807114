"""A call of a Session, with a connection of the test's own: when what its client says is taken in."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from registry_server.errors import InvalidField
from registry_server.rpc.table import Caller, Session, Table
from registry_server.transport.http2.calls import Call, SessionCall
from registry_server.transport.http2.framing import Head, Header, framed
from registry_server.transport.http2.shared import Shared
from registry_server.transport.limits import Limits
from registry_server.transport.streams import Streams


class Wire:
    """A connection that notes how calls end, and how much more their clients may send."""

    def __init__(self) -> None:
        self.ended: list[Sequence[Header]] = []
        self.returned = 0

    def greet(self, call: Call[Any]) -> None:
        pass

    def end(self, call: Call[Any], trailers: Sequence[Header]) -> None:
        self.ended.append(trailers)
        call.stop()

    def taken(self, call: Call[Any], count: int) -> None:
        self.returned += count

    def expect(self, call: Call[Any], *, is_owed: bool) -> None:
        pass

    def hold(self, change: int) -> None:
        pass


class Dialogue:
    """One that notes what it is told. What is "slow" it takes in when the test says so; it does not take what is
    "wrong"."""

    def __init__(self) -> None:
        self.took: list[str] = []
        self.gate = asyncio.Event()

    async def received(self, request: StringValue) -> None:
        if request.value == "wrong":
            raise InvalidField("value", "is wrong")
        if request.value == "slow":
            await self.gate.wait()
        self.took.append(request.value)

    def free(self) -> None:
        pass

    def leave(self) -> None:
        pass


class Stage:
    """A session that is open."""

    def __init__(self) -> None:
        self.wire, self.dialogue = Wire(), Dialogue()
        self.shared = Shared(Table(), Streams(random.Random(0)), Limits())
        method = Session(StringValue, lambda caller, outlet: self.dialogue)
        self.call = SessionCall(self.wire, self.shared, 1, method, Head(b"/"), Caller(""))  # type: ignore[arg-type]
        self.call.begin()

    def say(self, *texts: str, is_last: bool = False) -> int:
        """What the client says, in one piece; gives its bytes."""
        data = b"".join(framed(StringValue(value=text).SerializeToString()) for text in texts)
        self.call.data(data, is_last=is_last)
        return len(data)

    async def turn(self) -> None:
        """The loop has a turn in which somebody writes."""
        self.shared._arm()
        await asyncio.sleep(0)


async def test_a_request_that_comes_whole_is_taken_in_at_once_and_the_next_of_that_turn_later() -> None:
    stage = Stage()
    said = sum(stage.say(text) for text in ("one", "two", "three"))
    assert stage.dialogue.took == ["one"]
    for _ in range(5):
        await stage.turn()
    assert stage.dialogue.took == ["one", "two", "three"]
    stage.say("four")
    assert stage.dialogue.took[-1] == "four"
    assert stage.wire.returned > said


async def test_what_comes_behind_a_request_that_takes_long_waits_for_it() -> None:
    stage = Stage()
    stage.say("slow")
    await stage.turn()
    stage.say("quick")
    for _ in range(5):
        await stage.turn()
    assert stage.dialogue.took == []
    stage.dialogue.gate.set()
    for _ in range(5):
        await stage.turn()
    assert stage.dialogue.took == ["slow", "quick"]


@pytest.mark.parametrize("turns", [0, 1, 3])
async def test_a_request_that_takes_long_ends_with_its_call(turns: int) -> None:
    stage = Stage()
    stage.say("slow")
    for _ in range(turns):
        await stage.turn()
    stage.call.stop()
    stage.dialogue.gate.set()
    for _ in range(5):
        await stage.turn()
    assert stage.dialogue.took == []


async def test_a_request_that_is_wrong_ends_its_call_at_once() -> None:
    stage = Stage()
    stage.say("wrong")
    assert stage.call.is_over
    assert [dict(trailers)[b"grpc-status"] for trailers in stage.wire.ended] == [b"3"]


async def test_the_last_request_is_taken_in_before_the_stream_ends_well() -> None:
    stage = Stage()
    stage.say("one")
    stage.say("two", is_last=True)
    for _ in range(5):
        await stage.turn()
    assert stage.dialogue.took == ["one", "two"]
    assert [dict(trailers)[b"grpc-status"] for trailers in stage.wire.ended] == [b"0"]
