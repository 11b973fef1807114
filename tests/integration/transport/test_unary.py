"""One request, one answer: sizes, errors, deadlines, cancellation, metadata, compression."""

import asyncio
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2
from google.rpc.status_pb2 import Status

from registry_server.errors import RequestError
from registry_server.rpc.table import Credentials
from registry_server.transport.status import CODES
from tests.integration.transport.conftest import Stage, failure
from tests.support.http2 import Http2
from tests.support.raw import detail
from tests.support.transports import FAILURES, MAX_REQUEST_BYTES, NAME, SECRET, text, value
from tests.support.waiting import eventually_async

TAG_AND_LENGTH = 4  # of a StringValue of about a mebibyte


@pytest.mark.parametrize("size", [0, 1, 16_383, 16_384, 65_535, 65_536, 300_000])
async def test_answers_come_whole(stage: Stage, size: int) -> None:
    assert text(await stage.ask("Echo", "x" * size)) == "x" * size


async def test_an_empty_message_is_one(stage: Stage) -> None:
    assert await stage.begin("Echo", b"") == b""


async def test_the_largest_request_is_taken_and_one_more_byte_is_not(stage: Stage) -> None:
    largest = value("x" * (MAX_REQUEST_BYTES - TAG_AND_LENGTH))
    assert len(largest) == MAX_REQUEST_BYTES
    assert await stage.begin("Echo", largest) == largest
    refused = await failure(stage.begin("Echo", largest + b"\x00"))
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await stage.ask("Echo", "still there") == value("still there")


async def test_many_calls_at_a_time_get_the_answers_that_are_theirs(stage: Stage) -> None:
    answers = await asyncio.gather(*(stage.ask("Echo", str(number)) for number in range(200)))
    assert list(map(text, answers)) == list(map(str, range(200)))


@pytest.mark.parametrize("path", [f"/{NAME}/Nothing", "/test.Nobody/Echo", "/", "/a/b/c", f"/{NAME}/", f"/{NAME}"])
async def test_an_unknown_method_is_unimplemented(stage: Stage, path: str) -> None:
    refused = await failure(lambda: stage.channel.unary_unary(path)(b"", timeout=10))
    assert refused.code() is grpc.StatusCode.UNIMPLEMENTED
    assert await stage.ask("Echo", "still there") == value("still there")


# ---- errors


@pytest.mark.parametrize("name", FAILURES)
async def test_an_error_has_its_code_its_text_and_its_details(stage: Stage, name: str) -> None:
    error, told = FAILURES[name](), await failure(stage.ask("Fail", name))
    status = Status.FromString(dict([*(told.trailing_metadata() or ())])["grpc-status-details-bin"])
    assert (status.code, status.message) == (told.code().value[0], told.details())
    if isinstance(error, RequestError):
        assert (told.code().value[0], told.details()) == (CODES[type(error)], str(error))
    else:
        assert told.code() is grpc.StatusCode.INTERNAL
        assert SECRET not in str(told)
        assert type(error).__name__ not in str(told)


async def test_what_is_no_message_is_said_to_be_none(stage: Stage) -> None:
    told = await failure(stage.begin("Echo", b"\xff\xff"))
    assert told.code() is grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = detail(told, error_details_pb2.BadRequest).field_violations
    assert (violation.field, violation.description) == ("request", "is not an encoded google.protobuf.StringValue")


# ---- deadlines, cancellation


async def test_a_method_is_told_how_long_its_caller_waits(stage: Stage) -> None:
    await stage.ask("Echo", timeout=15)
    await stage.ask("Echo", timeout=None)
    timed, untimed = stage.service.callers
    assert timed.deadline_s is not None
    assert 5 < timed.deadline_s < 16  # clients round it up
    assert untimed.deadline_s is None
    assert timed.identity == untimed.identity == ""


async def test_a_method_is_told_who_calls(stage: Stage) -> None:
    await stage.ask("Echo")
    await stage.ask("Echo")
    first, second = stage.service.callers
    assert first.peer == second.peer
    assert first.peer.startswith("ipv4:127.0.0.1:")


@pytest.mark.parametrize(
    ("shown", "token"),
    [
        ([], ""),
        (["Bearer abc-1.2_3~+/="], "abc-1.2_3~+/="),
        (["bEARER  abc"], "abc"),
        (["Bearer abc", "Bearer abc"], "abc"),
        (["Bearer abc", "Bearer def"], " "),
        (["Basic YTpi"], " "),
        (["Bearer"], " "),
        (["Bearer a b"], " "),
        (["abc"], " "),
        ([""], " "),
    ],
    ids=lambda it: it if isinstance(it, str) else " and ".join(it) or "nothing",
)
async def test_a_method_is_told_what_token_its_caller_shows(stage: Stage, shown: list[str], token: str) -> None:
    metadata: Any = [("authorization", value) for value in shown]
    await stage.ask("Echo", metadata=metadata)
    await stage.ask("Echo", metadata=metadata, timeout=None)
    await stage.ask("Echo")
    first, second, without = stage.service.callers
    assert first.credentials == second.credentials == Credentials(token)
    assert without.credentials == Credentials()


async def test_a_token_that_is_no_text_is_nobodys(stage: Stage) -> None:
    async with Http2(stage.address) as raw:
        for shown in (b"Bearer \xff\xfe", b"\xc3\x28", b"Bearer " + b"x" * 9_000):
            raw.call(f"/{NAME}/Echo", b"\x0a\x01x", headers=[(b"authorization", shown)])
        await raw.flush()
        await eventually_async(lambda: stage.service.callers)
    assert await stage.ask("Echo", "still there") == value("still there")
    assert all(it.credentials.token for it in stage.service.callers[:-1])


async def test_a_deadline_ends_the_method(stage: Stage) -> None:
    told = await failure(stage.ask("Wait", timeout=0.3))
    assert told.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await eventually_async(lambda: stage.service.cancelled == 1)


async def test_a_client_that_gives_up_ends_the_method(stage: Stage) -> None:
    call = stage.begin("Wait", b"")
    await eventually_async(lambda: stage.service.entered == 1)
    call.cancel()
    await eventually_async(lambda: stage.service.cancelled == 1)
    assert await call.code() is grpc.StatusCode.CANCELLED


async def test_a_client_that_goes_away_ends_its_methods(stage: Stage) -> None:
    async with grpc.aio.insecure_channel(stage.address) as channel:
        calls = [channel.unary_unary(f"/{NAME}/Wait")(b"", timeout=20) for _ in range(3)]
        await eventually_async(lambda: stage.service.entered == 3)
    await eventually_async(lambda: stage.service.cancelled == 3)
    assert {await call.code() for call in calls} == {grpc.StatusCode.CANCELLED}


# ---- metadata, compression


async def test_metadata_of_a_few_kilobytes_is_taken(stage: Stage) -> None:
    metadata: Any = [(f"name-{number}", "x" * 50) for number in range(50)] + [("data-bin", bytes(range(256)) * 8)]
    assert await stage.ask("Echo", "x", metadata=metadata) == value("x")


async def test_metadata_without_end_is_refused_and_the_connection_goes_on(stage: Stage) -> None:
    other = stage.begin("Wait", value("other"))
    await eventually_async(lambda: stage.service.entered == 1)
    told = await failure(stage.ask("Echo", "x", metadata=[("name", "x" * 30_000)]))
    assert told.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    stage.service.may_end.set()
    assert await other == value("other")


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_requests_are_read(stage: Stage, compression: grpc.Compression) -> None:
    assert text(await stage.ask("Echo", "x" * 10_000, compression=compression)) == "x" * 10_000


async def test_a_request_is_as_large_as_it_is_unpacked(stage: Stage) -> None:
    told = await failure(stage.ask("Echo", "x" * 3 * MAX_REQUEST_BYTES, compression=grpc.Compression.Gzip))
    assert told.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await stage.ask("Echo", "still there") == value("still there")


def test_codes_of_errors_are_those_of_google_rpc() -> None:
    assert {it.name: it.value for it in CODES.values()}.items() <= dict(code_pb2.Code.items()).items()
