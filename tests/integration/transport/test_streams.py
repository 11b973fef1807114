"""Streams of every kind: order, ends, who is told of them, readers that do not read."""

import asyncio

import grpc
import pytest
from google.rpc import error_details_pb2

from registry_server.errors import PermissionDenied
from tests.integration.transport.conftest import Stage, failure
from tests.support.http2 import Http2
from tests.support.raw import detail
from tests.support.transports import FAILURES, NAME, text, value
from tests.support.waiting import eventually_async

CHUNK = b"\x0a\x80\x80\x01"  # what a StringValue of 16 KiB begins with
BODY = b"x" * 16_384


# ---- Conversation


async def test_each_request_has_its_answer_in_order(stage: Stage) -> None:
    call = stage.talk("Chat")
    for number in range(50):
        await call.write(value(str(number)))
    assert [text(await call.read()) for _ in range(50)] == [f"{number}?" for number in range(50)]
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_a_client_with_nothing_to_ask_ends_well(stage: Stage) -> None:
    for method in ("Chat", "Talk"):
        call = stage.talk(method)
        await call.done_writing()
        assert [it async for it in call] in ([], [value("hello")])
        assert await call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("method", ["Chat", "Talk"])
async def test_the_head_of_the_answer_comes_before_anything_is_asked(stage: Stage, method: str) -> None:
    """Clients in Rust wait for it before they give the stream to their user."""
    call = stage.talk(method)
    await asyncio.wait_for(call.initial_metadata(), 15)
    await call.done_writing()
    assert [it async for it in call] in ([], [value("hello")])
    assert await call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("method", ["Chat", "Talk"])
async def test_an_error_ends_the_stream_after_what_came_before(stage: Stage, method: str) -> None:
    call = stage.talk(method)
    await call.write(value("one"))
    first = [await call.read() for _ in range({"Chat": 1, "Talk": 3}[method])]
    await call.write(value("invalid"))
    told = await failure(call.read)
    assert "one" in text(first[-1])
    assert (told.code(), told.details()) == (grpc.StatusCode.INVALID_ARGUMENT, str(FAILURES["invalid"]()))
    assert detail(told, error_details_pb2.BadRequest)


@pytest.mark.parametrize("method", ["Chat", "Talk"])
async def test_what_is_no_message_ends_the_stream(stage: Stage, method: str) -> None:
    call = stage.talk(method)
    await call.write(b"\xff\xff")

    async def read_on() -> None:
        while await call.read() is not grpc.aio.EOF:
            pass

    told = await failure(read_on)
    assert told.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert detail(told, error_details_pb2.BadRequest).field_violations[0].field == "request"


@pytest.mark.parametrize("how", ["cancel", "deadline"])
async def test_a_conversation_that_is_over_ends_its_answer(stage: Stage, how: str) -> None:
    call = stage.talk("Chat", timeout=20 if how == "cancel" else 0.5)
    await call.write(value("wait"))
    await eventually_async(lambda: stage.service.entered == 1)
    if how == "cancel":
        call.cancel()
    await eventually_async(lambda: stage.service.cancelled == 1)


# ---- Broadcast


async def test_all_hear_the_same_in_order(stage: Stage) -> None:
    calls = [stage.listen() for _ in range(5)]
    await stage.service.heard_by(5)
    told = [value(str(number)) for number in range(20)]
    for message in told:
        stage.service.tell(message)
    for call in calls:
        assert [await call.read() for _ in range(20)] == told
        call.cancel()
    await eventually_async(lambda: not stage.service.listeners)


async def test_a_message_may_come_in_chunks(stage: Stage) -> None:
    call = stage.listen()
    await stage.service.heard_by(1)
    stage.service.tell(CHUNK, BODY)
    stage.service.tell(b"")
    stage.service.tell(CHUNK, BODY[:8192], BODY[8192:])
    assert [await call.read() for _ in range(3)] == [CHUNK + BODY, b"", CHUNK + BODY]


async def test_a_message_of_megabytes_comes_whole(stage: Stage) -> None:
    call = stage.listen()
    await stage.service.heard_by(1)
    stage.service.tell(value("y" * 5_000_000))
    assert text(await call.read()) == "y" * 5_000_000


@pytest.mark.parametrize("how", ["cancel", "deadline", "gone"])
async def test_a_listener_that_is_over_leaves(stage: Stage, how: str) -> None:
    async with grpc.aio.insecure_channel(stage.address) as channel:
        call = channel.unary_stream(f"/{NAME}/Listen")(b"", timeout=0.5 if how == "deadline" else 20)
        await stage.service.heard_by(1)
        assert stage.service.all[0].caller.peer.startswith("ipv4:127.0.0.1:")
        if how == "cancel":
            call.cancel()
        elif how == "deadline":
            assert (await failure(call.read)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        else:
            await channel.close()
        await eventually_async(lambda: stage.service.all[0].left)
    stage.service.tell(value("to nobody"))


@pytest.mark.parametrize("name", ["invalid", "away", "xvalue"])
async def test_who_may_not_listen_is_told_why(stage: Stage, name: str) -> None:
    told = await failure(stage.listen(name).read)
    expected = {"invalid": "INVALID_ARGUMENT", "away": "UNAVAILABLE", "xvalue": "INTERNAL"}[name]
    assert told.code().name == expected
    assert stage.service.all == []


async def test_who_does_not_read_is_not_free_and_holds_up_nobody(stage: Stage) -> None:
    message, count = value("z" * 100_000), 20
    async with Http2(stage.address, window=65_535) as slow:
        stream = slow.call(f"/{NAME}/Listen", b"")
        await slow.flush()
        await stage.service.heard_by(1)
        quick = stage.listen()
        await stage.service.heard_by(2)
        for _ in range(count):
            stage.service.tell(message)
        assert [await quick.read() for _ in range(count)] == [message] * count
        reader = stage.service.all[0]
        await eventually_async(lambda: slow.received.get(stream) == 65_535)
        assert reader.freed < count
        assert reader.is_writing
        slow.cancel(stream)
        await slow.flush()
        await eventually_async(lambda: reader.left)


# ---- Session


async def test_both_sides_speak_by_themselves(stage: Stage) -> None:
    call = stage.talk("Talk")
    assert text(await call.read()) == "hello"
    stage.service.tell(value("unasked"))
    assert text(await call.read()) == "unasked"
    await call.write(value("one"))
    assert [text(await call.read()) for _ in range(2)] == ["one once", "one twice"]
    stage.service.tell(value("again"))
    assert text(await call.read()) == "again"


async def test_a_session_ends_well_once_all_is_written(stage: Stage) -> None:
    call = stage.talk("Talk")
    for number in range(10):
        await call.write(value(str(number)))
    await call.done_writing()
    heard = [text(it) async for it in call]
    assert heard == ["hello", *(f"{number} {how}" for number in range(10) for how in ("once", "twice"))]
    assert await call.code() is grpc.StatusCode.OK
    await eventually_async(lambda: stage.service.all[0].left)
    assert stage.service.all[0].received_ == list(map(str, range(10)))


@pytest.mark.parametrize("how", ["cancel", "deadline"])
async def test_a_session_that_is_over_leaves(stage: Stage, how: str) -> None:
    call = stage.talk("Talk", timeout=20 if how == "cancel" else 0.5)
    assert text(await call.read()) == "hello"
    if how == "cancel":
        call.cancel()
    await eventually_async(lambda: stage.service.all[0].left)


# ---- streams that are refused later


@pytest.mark.parametrize("method", ["Chat", "Talk", "Listen"])
async def test_a_stream_may_be_ended_with_an_error(stage: Stage, method: str) -> None:
    call = stage.listen() if method == "Listen" else stage.talk(method)
    await eventually_async(lambda: stage.service.chats if method == "Chat" else stage.service.listeners)
    if method == "Talk":
        assert text(await call.read()) == "hello"
    endings = [*stage.service.chats, *(it.sink for it in stage.service.listeners)]
    for _ in range(2):  # the second says nothing more
        endings[0].refuse(PermissionDenied("game", "read", "default/player"))
    told = await failure(call.read)
    assert told.code() is grpc.StatusCode.PERMISSION_DENIED
    assert detail(told, error_details_pb2.ErrorInfo).metadata["name"] == "default/player"
    await eventually_async(lambda: stage.service.left_chats or all(it.left for it in stage.service.all))
    assert await stage.ask("Echo", "still there") == value("still there")


async def test_a_stream_that_writes_is_ended_too(stage: Stage) -> None:
    async with Http2(stage.address, window=65_535) as slow:
        stream = slow.call(f"/{NAME}/Listen", b"")
        await slow.flush()
        await stage.service.heard_by(1)
        reader = stage.service.all[0]
        reader.tell(value("z" * 100_000))
        await eventually_async(lambda: slow.received.get(stream) == 65_535)
        reader.sink.refuse(PermissionDenied("game", "read", "default/player"))
        await slow.open_window(stream, 200_000)
        await eventually_async(lambda: reader.left)
    assert await stage.ask("Echo", "still there") == value("still there")


async def test_a_conversation_is_told_of_from_its_beginning_to_its_end(stage: Stage) -> None:
    call = stage.talk("Chat", metadata=[("authorization", "Bearer mine")])
    await eventually_async(lambda: stage.service.chats)
    assert [it.credentials.token for it in stage.service.chats.values()] == ["mine"]
    await call.write(value("one"))
    assert text(await call.read()) == "one?"
    assert not stage.service.left_chats
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    await eventually_async(lambda: stage.service.left_chats == 1 and not stage.service.chats)


async def test_a_conversation_may_be_refused_before_it_begins(stage: Stage) -> None:
    call = stage.talk("Chat", metadata=[("authorization", "Bearer stranger")])
    told = await failure(call.read)
    assert (told.code(), stage.service.left_chats) == (grpc.StatusCode.UNAUTHENTICATED, 0)
