"""A server that stops: streams end with a status that says so, calls under way are answered, nobody is let in."""

import asyncio
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from registry_server.transport import streams
from tests.integration.transport.conftest import Stage, failure
from tests.support.http2 import Http2, framed
from tests.support.raw import detail
from tests.support.transports import NAME, Everything, serving, value
from tests.support.waiting import eventually_async

SHUTTING_DOWN = "the server is shutting down"


async def test_streams_of_every_kind_end_with_a_status(stage: Stage) -> None:
    listening, chatting, talking = stage.listen(), stage.talk("Chat"), stage.talk("Talk")
    await chatting.write(value("one"))
    assert await chatting.read() == value("one?")
    assert await talking.read() == value("hello")
    await stage.service.heard_by(2)
    ends = [asyncio.create_task(failure(call.read)) for call in (listening, chatting, talking)]
    await asyncio.wait_for(stage.server.stop(), 10)
    for end in await asyncio.gather(*ends):
        assert (end.code(), end.details()) == (grpc.StatusCode.UNAVAILABLE, SHUTTING_DOWN)
        assert detail(end, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() == 0
    assert all(it.left for it in stage.service.all)
    assert stage.service.listeners == []


async def test_streams_that_are_never_at_rest_end_so_too(stage: Stage) -> None:
    calls = [stage.listen("on and on") for _ in range(30)]
    ends = [asyncio.create_task(failure(read_on(call))) for call in calls]
    for call in calls:
        await call.initial_metadata()
    await asyncio.wait_for(stage.server.stop(), 10)
    said = [(end.code(), end.details()) for end in await asyncio.gather(*ends)]
    assert said == [(grpc.StatusCode.UNAVAILABLE, SHUTTING_DOWN)] * len(calls)


@pytest.mark.parametrize("turns", range(5))
async def test_streams_whose_first_message_is_being_written_end_so_too(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    monkeypatch.setattr(streams, "NOTICE_S", 0.0)
    monkeypatch.setattr(streams, "MAX_JITTER_S", 0.0)
    ends = [asyncio.create_task(failure(read_on(stage.listen()))) for _ in range(10)]
    await stage.service.heard_by(10)
    stopping = asyncio.create_task(stage.server.stop())
    for _ in range(turns):
        await asyncio.sleep(0)
    stage.service.tell(value("x" * 100_000))
    assert {(end.code(), end.details()) for end in await asyncio.gather(*ends)} == {
        (grpc.StatusCode.UNAVAILABLE, SHUTTING_DOWN)
    }
    await asyncio.wait_for(stopping, 10)


@pytest.mark.parametrize("path", ["Listen", "Talk"])
async def test_who_does_not_read_holds_up_no_end(stage: Stage, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(streams, "GRACE_S", 0.2)
    async with Http2(stage.address, window=1000) as slow:
        slow.say(slow.begin(f"/{NAME}/{path}"), framed(b""))
        await slow.flush()
        await stage.service.heard_by(1)
        (reader,) = stage.service.listeners
        reader.tell(value("x" * 5000))
        await eventually_async(lambda: sum(slow.received.values()) == 1000)
        assert reader.is_writing
        await asyncio.wait_for(stage.server.stop(), 5)
        await eventually_async(lambda: bool(reader.left))


async def read_on(call: Any) -> None:
    """Read until there is no more, or an error."""
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_a_call_under_way_is_answered(stage: Stage) -> None:
    call = stage.begin("Wait", value("late"))
    await eventually_async(lambda: stage.service.entered == 1)
    stopping = asyncio.create_task(stage.server.stop())
    stage.service.may_end.set()
    assert await call == value("late")
    await asyncio.wait_for(stopping, 10)


async def test_nobody_is_let_in_while_the_others_leave(stage: Stage) -> None:
    listening = stage.listen()
    await stage.service.heard_by(1)
    stopping = asyncio.create_task(stage.server.stop())
    await asyncio.sleep(0)
    late = await failure(stage.listen().read)
    assert (late.code(), late.details()) == (grpc.StatusCode.UNAVAILABLE, SHUTTING_DOWN)
    assert (await failure(listening.read)).details() == SHUTTING_DOWN
    await asyncio.wait_for(stopping, 10)


async def test_a_taken_port_is_an_os_error(stage: Stage, transport: str) -> None:
    with pytest.raises(OSError, match=r"."):
        async with serving(transport, Everything().service(), port=int(stage.address.rpartition(":")[2])):
            raise AssertionError("two servers on one port")
