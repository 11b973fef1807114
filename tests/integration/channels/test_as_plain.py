"""What a balanced channel does where a plain one does it right: each beside a plain channel, in the same run."""

from __future__ import annotations

import asyncio
import gc
import json
import queue
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import Context, ContextVar, copy_context
from typing import Any

import grpc
import grpc.aio
import pytest
import trustme

from balancer import StaticResolver, aio_channel, blocking_channel
from balancer.endpoints import Endpoint
from tests.support.counting import SERVICE, Counting, counting
from tests.support.waiting import eventually, eventually_async

RETRY = {
    "maxAttempts": 4,
    "initialBackoff": "0.01s",
    "maxBackoff": "0.02s",
    "backoffMultiplier": 1,
    "retryableStatusCodes": ["INTERNAL", "UNKNOWN", "UNAVAILABLE", "CANCELLED"],
}
TRIES_AGAIN = [("grpc.service_config", json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": RETRY}]}))]
PATH = f"/{SERVICE}/"


@pytest.fixture
def backend() -> Iterator[Counting]:
    with counting(workers=400) as started, counting() as twin:
        started.twin = twin
        yield started


def both(backend: Counting, options: Any = None, **arguments: Any) -> Iterator[tuple[str, Any]]:
    """A plain channel, to a back end like this one, and a balanced one, for threads."""
    with grpc.insecure_channel(backend.twin.address, options) as plain:
        yield "plain", plain
    with blocking_channel(f"static://{backend.address}", options=options, **arguments) as ours:
        yield "ours", ours
        eventually(lambda: in_flight(ours) == 0)


async def both_aio(backend: Counting, options: Any = None, **arguments: Any) -> AsyncIterator[tuple[str, Any]]:
    async with grpc.aio.insecure_channel(backend.twin.address, options) as plain:
        yield "plain", plain
    async with aio_channel(f"static://{backend.address}", options=options, **arguments) as ours:
        yield "ours", ours
        await eventually_async(lambda: in_flight(ours) == 0)


def in_flight(channel: Any) -> int:
    statistics = channel.stats()
    return 0 if statistics is None else sum(node.in_flight for node in statistics.nodes)


def failures(channel: Any) -> int:
    statistics = channel.stats()
    return 0 if statistics is None else sum(node.failures for node in statistics.nodes)


def told(error: BaseException) -> tuple[Any, ...]:
    """What a caller sees of an error."""
    if isinstance(error, grpc.RpcError):
        return error.code(), str(error.details()).partition(":")[0]  # type: ignore[attr-defined]
    return (type(error),)


# ---- a process that is instrumented


class Tracer(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """As OpenTelemetry, ddtrace and Sentry have it: every channel of the process is intercepted."""

    def __init__(self) -> None:
        self.spans: list[str] = []

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.spans.append(details.method)
        return continuation(details, request)

    intercept_unary_stream = intercept_unary_unary


class AioTracer(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self) -> None:
        self.spans: list[str] = []

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        self.spans.append(client_call_details.method)
        return await continuation(client_call_details, request)


def test_instrumented_calls_work_and_are_seen(backend: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    tracer, original = Tracer(), grpc.insecure_channel
    monkeypatch.setattr(
        grpc, "insecure_channel", lambda *args, **kw: grpc.intercept_channel(original(*args, **kw), tracer)
    )
    seen = {}
    for name, channel in both(backend):
        tracer.spans.clear()
        call = channel.unary_unary(PATH + "Echo")
        assert [call(b"x", timeout=10) for _ in range(3)] == [b"x"] * 3
        assert call.future(b"y", timeout=10).result() == b"y"
        assert call.with_call(b"z", timeout=10)[0] == b"z"
        stream = channel.unary_stream(PATH + "Stream")(b"s", timeout=10)
        assert next(stream) == b"s"
        stream.cancel()
        seen[name] = Counter(tracer.spans)
    assert seen["ours"] == seen["plain"]


@pytest.mark.parametrize("mine", [0, 1], ids=["no interceptors", "interceptors"])
async def test_instrumented_asyncio_calls_are_seen(
    backend: Counting, monkeypatch: pytest.MonkeyPatch, mine: int
) -> None:
    tracer, original = AioTracer(), grpc.aio.insecure_channel

    def traced(*args: Any, interceptors: Any = None, **kw: Any) -> Any:
        return original(*args, interceptors=[tracer, *(interceptors or [])], **kw)

    monkeypatch.setattr(grpc.aio, "insecure_channel", traced)
    makers: dict[str, Any] = {
        "plain": lambda given: grpc.aio.insecure_channel(backend.address, interceptors=given),
        "ours": lambda given: aio_channel(f"static://{backend.address}", interceptors=given, options=TRIES_AGAIN),
    }
    seen = {}
    for name, make in makers.items():
        own = [AioTracer() for _ in range(mine)]
        async with make(own) as channel:
            tracer.spans.clear()
            call = channel.unary_unary(PATH + "Echo")
            assert [await call(b"x", timeout=10) for _ in range(3)] == [b"x"] * 3
            with pytest.raises(grpc.RpcError):
                await channel.unary_unary(PATH + "Fail")(b"UNAVAILABLE", timeout=10)
            seen[name] = (Counter(tracer.spans), [Counter(one.spans) for one in own])
    assert seen["ours"] == seen["plain"], "one span a call, however many attempts it took"


class GeneratorChannel:
    """A channel whose streams are generators, as some tools make them: they are no calls."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def __enter__(self) -> GeneratorChannel:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._channel.close()

    def unary_stream(self, *args: Any, **kw: Any) -> Any:
        method = self._channel.unary_stream(*args, **kw)

        def call(*call_args: Any, **call_kw: Any) -> Iterator[Any]:
            yield from method(*call_args, **call_kw)

        return call


def test_streams_that_are_no_calls_are_passed_on(backend: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    original = grpc.insecure_channel
    monkeypatch.setattr(grpc, "insecure_channel", lambda *args, **kw: GeneratorChannel(original(*args, **kw)))
    for _, channel in both(backend):
        for _ in range(2):
            stream = iter(channel.unary_stream(PATH + "Stream")(b"s", timeout=10))
            assert next(stream) == b"s"
            del stream
            gc.collect()
            eventually(lambda: backend.active == backend.twin.active == 0)


# ---- what fails while dialling


BAD = {
    "call credentials": {"credentials": grpc.access_token_call_credentials("secret")},
    "a path": {"credentials": "/etc/ssl/ca.pem"},
    "compression by name": {"compression": "gzip"},
    "an option that is none": {"options": [("grpc.x", object())]},
    "options that are none": {"options": [1]},
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of grpc.aio, which refuses half-way
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("kind", ["aio", "sync"])
async def test_what_cannot_be_dialled_is_raised_when_the_channel_is_made(kind: str, bad: str) -> None:
    arguments: dict[str, Any] = BAD[bad]
    grpc_ = grpc.aio if kind == "aio" else grpc
    dial = grpc_.secure_channel if "credentials" in arguments else grpc_.insecure_channel
    with pytest.raises(Exception) as plain:  # noqa: PT011
        dial("127.0.0.1:1", **arguments)
    with pytest.raises(Exception) as ours:  # noqa: PT011
        (aio_channel if kind == "aio" else blocking_channel)("static://127.0.0.1:1", **arguments)
    assert ours.type is plain.type


@pytest.mark.parametrize("make", [aio_channel, blocking_channel])
def test_no_target_is_told(make: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="resolver"):
        make(None)


# ---- errors of this side


def refuses(_message: Any) -> Any:
    raise ValueError("cannot be read")


def cut_short() -> Iterator[bytes]:
    yield b"1"
    raise OSError("disk")


async def cut_short_aio() -> AsyncIterator[bytes]:
    yield b"1"
    raise OSError("disk")


def sync_mistakes(channel: Any) -> dict[str, Callable[[], Any]]:
    echo = channel.unary_unary(PATH + "Echo")
    return {
        "response": lambda: channel.unary_unary(PATH + "Echo", None, refuses)(b"x", timeout=10),
        "future": lambda: channel.unary_unary(PATH + "Echo", None, refuses).future(b"x", timeout=10).result(),
        "stream": lambda: list(channel.unary_stream(PATH + "Stream", None, refuses)(b"x", timeout=10)),
        "serializer": lambda: channel.unary_unary(PATH + "Echo", refuses)(b"x", timeout=10),
        "upload": lambda: channel.stream_unary(PATH + "Upload")(cut_short(), timeout=10),
        "upload future": lambda: channel.stream_unary(PATH + "Upload").future(cut_short(), timeout=10).result(),
        "chat": lambda: list(channel.stream_stream(PATH + "Chat")(cut_short(), timeout=10)),
        "upload serializer": lambda: channel.stream_unary(PATH + "Upload", refuses)(iter([b"1"]), timeout=10),
        "metadata key": lambda: echo(b"x", metadata=(("Not Allowed", "x"),), timeout=10),
        "metadata value": lambda: echo(b"x", metadata=(("key", 5),), timeout=10),
        "metadata shape": lambda: echo(b"x", metadata=(("key",),), timeout=10),
        "timeout": lambda: echo(b"x", timeout="soon"),
    }


@pytest.mark.parametrize("options", [None, TRIES_AGAIN], ids=["plain", "retry"])
@pytest.mark.parametrize("mistake", sync_mistakes(grpc.insecure_channel("127.0.0.1:1")))
@pytest.mark.parametrize("first", [True, False], ids=["first call", "ready"])
def test_mistakes_of_this_side(backend: Counting, mistake: str, options: Any, first: bool) -> None:
    """Carried out once at most, told as a plain channel tells it, and not held against the endpoint."""
    seen: dict[str, Any] = {}
    for name, channel in both(backend, options):
        if not first:
            grpc.channel_ready_future(channel).result(10)
        with pytest.raises(Exception) as raised:  # noqa: PT011
            sync_mistakes(channel)[mistake]()
        seen[name] = told(raised.value)
        assert sum(backend.seen.values()) <= 1
        if name == "ours":
            assert failures(channel) == 0
            assert channel.unary_unary(PATH + "Echo")(b"well", timeout=10) == b"well"
    assert seen["ours"] == seen["plain"]


def aio_mistakes(channel: Any) -> dict[str, Callable[[], Any]]:
    echo = channel.unary_unary(PATH + "Echo")

    async def read(call: Any) -> list[Any]:
        return [message async for message in call]

    async def answer(begin: Callable[[], Any]) -> Any:
        return await begin()

    return {
        "response": lambda: answer(lambda: channel.unary_unary(PATH + "Echo", None, refuses)(b"x", timeout=10)),
        "serializer": lambda: answer(lambda: channel.unary_unary(PATH + "Echo", refuses)(b"x", timeout=10)),
        "upload": lambda: answer(lambda: channel.stream_unary(PATH + "Upload")(cut_short_aio(), timeout=10)),
        "upload of a list": lambda: answer(lambda: channel.stream_unary(PATH + "Upload")(cut_short(), timeout=10)),
        "chat": lambda: read(channel.stream_stream(PATH + "Chat")(cut_short_aio(), timeout=10)),
        "serializer of no bytes": lambda: answer(lambda: channel.unary_unary(PATH + "Echo", len)(b"x", timeout=10)),
        "upload of no bytes": lambda: answer(
            lambda: channel.stream_unary(PATH + "Upload", len)(cut_short_aio(), timeout=10)
        ),
        "metadata key": lambda: answer(lambda: echo(b"x", metadata=(("Not Allowed", "x"),), timeout=10)),
        "metadata value": lambda: answer(lambda: echo(b"x", metadata=(("key", 5),), timeout=10)),
        "metadata shape": lambda: answer(lambda: echo(b"x", metadata=(("key",),), timeout=10)),
        "metadata that is none": lambda: answer(lambda: echo(b"x", metadata=5, timeout=10)),
        "timeout": lambda: answer(lambda: echo(b"x", timeout="soon")),
    }


AIO_MISTAKES = (
    "response", "serializer", "upload", "upload of a list", "chat", "serializer of no bytes", "upload of no bytes",
    "metadata key", "metadata value", "metadata shape", "metadata that is none", "timeout",
)  # fmt: skip


@pytest.mark.parametrize("options", [None, TRIES_AGAIN], ids=["plain", "retry"])
@pytest.mark.parametrize("mistake", AIO_MISTAKES)
@pytest.mark.parametrize("first", [True, False], ids=["first call", "ready"])
async def test_mistakes_of_this_side_with_asyncio(backend: Counting, mistake: str, options: Any, first: bool) -> None:
    seen: dict[str, Any] = {}
    async for name, channel in both_aio(backend, options):
        if not first:
            await asyncio.wait_for(channel.channel_ready(), 10)
        try:
            seen[name] = await aio_mistakes(channel)[mistake]()
        except (Exception, asyncio.CancelledError) as error:
            seen[name] = told(error)
        assert sum(backend.seen.values()) <= 1
        if name == "ours":
            assert failures(channel) == 0
            assert await channel.unary_unary(PATH + "Echo")(b"well", timeout=10) == b"well"
    assert seen["ours"] == seen["plain"]


async def test_an_interceptor_may_go_on_in_another_context(backend: Counting) -> None:
    """In a task of its own, say, that was begun long before the call."""

    class Elsewhere(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
        async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            work = continuation(client_call_details, request)
            return await asyncio.get_running_loop().create_task(work, context=Context())

    async with aio_channel(f"static://{backend.address}", interceptors=[Elsewhere()]) as channel:
        assert await channel.unary_unary(PATH + "Echo")(b"x", timeout=10) == b"x"


# ---- calls that nobody holds any more


MANY = 300


async def test_whatever_is_dropped_ends(backend: Counting) -> None:
    """Streams left by `break`, call objects dropped, tasks cancelled in the turn they begin. A plain channel keeps its
    streams until the garbage collector comes by, and longer."""
    async with aio_channel(f"static://{backend.address}") as channel:
        stream, echo, hang = (
            channel.unary_stream(PATH + "Stream"),
            channel.unary_unary(PATH + "Echo"),
            channel.unary_unary(PATH + "Hang"),
        )
        await echo(b"x", timeout=10)

        async def left_by_break() -> None:
            async for _ in stream(b"x"):
                break

        async def once() -> None:
            await echo(b"x")

        for _ in range(MANY):
            await left_by_break()
            stream(b"x")
            task = asyncio.create_task(once())
            task.cancel()
            await asyncio.wait([task])
            call = echo(b"x")
            call.cancel()
            del call
            hang(b"x").cancel()
        await eventually_async(lambda: backend.active == 0, timeout_s=30)
        await eventually_async(lambda: in_flight(channel) == 0)


@pytest.mark.parametrize("timeout", [None, 300.0])
async def test_a_stream_that_is_dropped_while_it_waits_for_an_endpoint_ends(timeout: float | None) -> None:
    """Nothing holds it until an endpoint comes, which may be never."""
    async with aio_channel("static://127.0.0.1:1") as channel:
        ended: list[grpc.aio.Call] = []
        for call in (
            channel.unary_stream(PATH + "Stream")(b"x", timeout=timeout, wait_for_ready=True),
            channel.stream_stream(PATH + "Chat")(timeout=timeout, wait_for_ready=True),
        ):
            call.add_done_callback(ended.append)
        assert len(channel.engine.waiting) == 2
        del call
        await eventually_async(lambda: not channel.engine.waiting)
        assert [it.cancelled() for it in ended] == [True, True]


async def test_a_stream_that_is_read_while_it_waits_for_an_endpoint_goes_on(backend: Counting) -> None:
    """Whoever reads it holds it, through however many pickers."""
    async with aio_channel(f"static://{backend.address}") as channel:

        async def first() -> object:
            async for response in channel.unary_stream(PATH + "Stream")(b"x", wait_for_ready=True, timeout=60):
                return response
            return None

        reading = asyncio.create_task(first())
        await asyncio.sleep(0)
        gc.collect()
        assert await reading is not None


def test_whatever_is_dropped_ends_in_threads(backend: Counting) -> None:
    for _, channel in both(backend):
        stream, echo, hang = (
            channel.unary_stream(PATH + "Stream"),
            channel.unary_unary(PATH + "Echo"),
            channel.unary_unary(PATH + "Hang"),
        )
        echo(b"x", timeout=10)
        for _ in range(MANY):
            for _ in stream(b"x"):
                break
            stream(b"x")
            hang.future(b"x")
            hang.future(b"x").cancel()
        gc.collect()
        eventually(lambda: backend.active == 0, timeout_s=30)


def test_a_future_that_somebody_waits_for_by_a_callback_lives(backend: Counting) -> None:
    for _, channel in both(backend):
        done: list[Any] = []
        channel.unary_unary(PATH + "Echo").future(b"x", timeout=10).add_done_callback(done.append)
        gc.collect()
        eventually(lambda: bool(done))  # noqa: B023


async def test_a_call_that_nobody_awaits_is_made(backend: Counting) -> None:
    async for name, channel in both_aio(backend):
        channel.unary_unary(PATH + "Echo")(b"x", timeout=10)
        gc.collect()
        called = backend if name == "ours" else backend.twin
        await eventually_async(lambda: called.seen["Echo"] == 1)  # noqa: B023


async def test_plain_channels_close_beside_calls_that_wait() -> None:
    """An older grpc.aio goes through all tasks of the loop then, and knows its own calls alone."""
    async with aio_channel("static://127.0.0.1:1") as channel:
        call = channel.unary_unary(PATH + "Echo")(b"x", wait_for_ready=True)
        waiting = asyncio.ensure_future(call.code())
        await asyncio.wait({waiting}, timeout=0.05)
        async with grpc.aio.insecure_channel("127.0.0.1:1"):
            pass
        assert not waiting.done()
        call.cancel()
        assert await waiting is grpc.StatusCode.CANCELLED


# ---- transparent retries


AGED = [("grpc.max_connection_age_ms", 100), ("grpc.max_connection_age_grace_ms", 2000)]


@pytest.mark.parametrize("kind", ["aio", "sync"])
async def test_a_policy_costs_no_other_method_its_transparent_retries(kind: str) -> None:
    config = {"methodConfig": [{"name": [{"service": "other.Service"}], "retryPolicy": RETRY}]}
    options = [("grpc.service_config", json.dumps(config))]
    with counting(options=AGED) as one, counting(options=AGED) as two:
        resolver = StaticResolver([Endpoint(one.address), Endpoint(two.address)])
        if kind == "aio":
            async with aio_channel(resolver, options=options) as channel:
                call = channel.unary_unary(PATH + "Echo")

                async def caller() -> None:
                    for _ in range(250):
                        await call(b"x", timeout=20)

                await asyncio.gather(*(caller() for _ in range(8)))
        else:
            with blocking_channel(resolver, options=options) as channel:
                call = channel.unary_unary(PATH + "Echo")
                calls = [asyncio.to_thread(lambda: [call(b"x", timeout=20) for _ in range(250)]) for _ in range(4)]
                await asyncio.gather(*calls)


# ---- users' code in a channel for threads


def test_callbacks_hold_up_nobody(backend: Counting) -> None:
    """One blocks, one raises, one calls again: on a channel that has yet to connect, so that they end elsewhere."""
    with blocking_channel("static://127.0.0.1:1") as channel:
        echo = channel.unary_unary(PATH + "Echo")
        release, again = threading.Event(), threading.Event()

        def calls_again(_future: Any) -> None:
            try:
                echo(b"x", timeout=5)
            except grpc.RpcError:
                again.set()

        echo.future(b"x", timeout=10).add_done_callback(lambda _: release.wait(20))
        echo.future(b"x", timeout=10).add_done_callback(lambda _: 1 / 0)
        echo.future(b"x", timeout=10).add_done_callback(calls_again)
        assert again.wait(10)
        with pytest.raises(grpc.RpcError):
            echo(b"x", timeout=5)
        release.set()


def test_a_serializer_that_blocks_holds_up_nobody(backend: Counting) -> None:
    with blocking_channel(f"static://{backend.address}") as channel:
        release = threading.Event()

        def slow(request: bytes) -> bytes:
            release.wait(20)
            return request

        stuck = channel.unary_unary(PATH + "Echo", slow)
        waiting = threading.Thread(target=lambda: stuck(b"x", timeout=20))
        waiting.start()
        assert channel.unary_unary(PATH + "Echo")(b"y", timeout=5) == b"y"
        release.set()
        waiting.join(10)


@pytest.mark.parametrize("options", [None, TRIES_AGAIN], ids=["plain", "retry"])
@pytest.mark.parametrize("how", ["iterator", "write"])
async def test_a_chat_goes_on_after_its_first_response(backend: Counting, options: Any, how: str) -> None:
    """From the first response on nothing is kept for another attempt; what comes then is sent all the same."""
    numbers = [b"%d" % number for number in range(5)]
    async for _, channel in both_aio(backend, options):
        due: asyncio.Queue[bytes] = asyncio.Queue()
        call = channel.stream_stream(PATH + "Chat")(_taken_from(due) if how == "iterator" else None, timeout=10)
        answers: Any = aiter(call)
        for number in numbers:
            if how == "iterator":
                due.put_nowait(number)
            else:
                await call.write(number)
            assert await anext(answers) == number
        call.cancel()


async def _taken_from(due: asyncio.Queue[bytes]) -> AsyncIterator[bytes]:
    while True:
        yield await due.get()


@pytest.mark.parametrize("options", [None, TRIES_AGAIN], ids=["plain", "retry"])
def test_a_chat_in_threads_goes_on_after_its_first_response(backend: Counting, options: Any) -> None:
    numbers = [b"%d" % number for number in range(5)]
    for _, channel in both(backend, options):
        due: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        call = channel.stream_stream(PATH + "Chat")(iter(due.get, None), timeout=10)
        for number in numbers:
            due.put(number)
            assert next(call) == number
        due.put(None)
        assert list(call) == []


@pytest.mark.parametrize("how", ["call", "future"])
def test_a_call_that_had_to_wait_begins_in_its_callers_context(backend: Counting, how: str) -> None:
    """As tools that trace calls expect it: the first call of a channel, too, which waits for a connection."""
    tenant, seen = ContextVar("tenant", default="nobody"), []

    def serializer(request: bytes) -> bytes:
        seen.append(tenant.get())
        return request

    def begin() -> bytes:
        tenant.set("somebody")
        method: Any = channel.unary_unary(PATH + "Echo", serializer)
        return bytes(method(b"x", timeout=10) if how == "call" else method.future(b"x", timeout=10).result())

    with blocking_channel(f"static://{backend.address}") as channel:
        assert copy_context().run(begin) == b"x"
    assert seen == ["somebody"]


# ---- options


def test_retries_may_be_switched_off(backend: Counting) -> None:
    for _, channel in both(backend, [*TRIES_AGAIN, ("grpc.enable_retries", 0)]):
        with pytest.raises(grpc.RpcError):
            channel.unary_unary(PATH + "Fail")(b"UNAVAILABLE", timeout=10)
    assert backend.seen["Fail"] == backend.twin.seen["Fail"] == 1


async def test_sizes_of_messages_are_limited_by_the_service_config(backend: Counting) -> None:
    limits = {"maxRequestMessageBytes": 100, "maxResponseMessageBytes": 50}
    options = [("grpc.service_config", json.dumps({"methodConfig": [{"name": [{}], **limits}]}))]
    seen: dict[str, list[Any]] = {"plain": [], "ours": []}
    async for name, channel in both_aio(backend, options):
        for size in (50, 51, 101):
            try:
                seen[name].append(len(await channel.unary_unary(PATH + "Echo")(b"x" * size, timeout=10)))
            except grpc.RpcError as error:
                seen[name].append((error.code(), error.details()))
    assert seen["ours"] == seen["plain"]
    for name, sync_channel in both(backend, options):
        answers: list[Any] = []
        for size in (50, 51, 101):
            try:
                answers.append(len(sync_channel.unary_unary(PATH + "Echo")(b"x" * size, timeout=10)))
            except grpc.RpcError as error:
                answers.append((error.code(), error.details()))  # type: ignore[attr-defined]
        assert answers == seen[name]


@pytest.mark.parametrize("given", [b"bytes", "text"])
def test_a_service_config_may_be_bytes(backend: Counting, given: bytes | str) -> None:
    text = TRIES_AGAIN[0][1]
    config = text.encode() if isinstance(given, bytes) else text
    with blocking_channel(f"static://{backend.address}", options=[("grpc.service_config", config)]) as channel:
        with pytest.raises(grpc.RpcError):
            channel.unary_unary(PATH + "Fail")(b"UNAVAILABLE", timeout=10)
        assert backend.seen["Fail"] == 4


def test_of_a_repeated_option_the_first_counts(backend: Counting) -> None:
    for _, channel in both(backend, [("grpc.max_send_message_length", 10), ("grpc.max_send_message_length", 1000)]):
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary(PATH + "Echo")(b"x" * 20, timeout=10)
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]


def test_grpcs_own_names_of_policies_and_idleness(backend: Counting) -> None:
    options = [("grpc.lb_policy_name", "pick_first"), ("grpc.client_idle_timeout_ms", 200)]
    with blocking_channel(f"static://{backend.address}", options=options) as channel:
        channel.unary_unary(PATH + "Echo")(b"x", timeout=10)
        assert channel.stats().policy == "pick_first"
        eventually(lambda: channel.stats().state.name == "IDLE")
        assert channel.unary_unary(PATH + "Echo")(b"x", timeout=10) == b"x"


# ---- names and errors


FORMS = ("dns://localhost:{port}", "dns:///localhost:{port}", "dns:localhost:{port}")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["aio", "sync"])
async def test_the_name_of_a_dns_target_is_what_tls_checks(kind: str, form: str) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    key, chain = certificate.private_key_pem.bytes(), b"".join(pem.bytes() for pem in certificate.cert_chain_pems)
    roots = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    with counting(credentials=grpc.ssl_server_credentials([(key, chain)])) as backend:
        target = form.format(port=backend.port)
        if kind == "aio":
            async with aio_channel(target, credentials=roots) as channel:
                assert await channel.unary_unary(PATH + "Echo")(b"x", timeout=10) == b"x"
        else:
            with blocking_channel(target, credentials=roots) as channel:
                assert await asyncio.to_thread(channel.unary_unary(PATH + "Echo"), b"x", 10) == b"x"


def test_a_name_server_of_its_own_is_refused() -> None:
    with pytest.raises(ValueError, match="name server"):
        blocking_channel("dns://8.8.8.8/players.example.org:80")


def test_closing_waits_for_no_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer = threading.Event(), threading.Event()

    def getaddrinfo(*_args: object, **_options: object) -> list[Any]:
        asked.set()
        answer.wait(30)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    channel = blocking_channel("dns://players.example.org:80")
    channel.subscribe(lambda _state: None, try_to_connect=True)
    assert asked.wait(10)
    before = time.monotonic()
    channel.close()
    assert time.monotonic() - before < 2
    answer.set()


@pytest.mark.parametrize("kind", ["aio", "sync"])
async def test_errors_say_why(kind: str) -> None:
    """In gRPC's own words: nobody listens; no such name."""
    for address in ("127.0.0.1:1", "nowhere.invalid:1"):
        errors = []
        make = grpc.aio.insecure_channel if kind == "aio" else grpc.insecure_channel
        ours = aio_channel if kind == "aio" else blocking_channel
        for channel in (make(address), ours(f"static://{address}")):
            call = channel.unary_unary(PATH + "Echo")
            try:
                await (call(b"x", timeout=20) if kind == "aio" else asyncio.to_thread(call, b"x", 20))
            except grpc.RpcError as error:
                # Which of a name's kinds of record is told of first is chance.
                said = str(error.details()).replace("qtype=AAAA", "qtype=A")  # type: ignore[attr-defined]
                errors.append((error.code(), said))  # type: ignore[attr-defined]
            await channel.close() if kind == "aio" else channel.close()
        assert errors[0] == errors[1]


# ---- a channel at rest


def test_a_channel_at_rest_uses_nothing(backend: Counting) -> None:
    with blocking_channel(f"static://{backend.address}") as channel:
        call = channel.unary_unary(PATH + "Echo")
        assert call(b"x", timeout=10) == b"x"
        eventually(lambda: channel.engine.resting, timeout_s=20)
        assert call(b"y", timeout=10) == b"y"


def test_a_connection_lost_at_rest_costs_no_call(backend: Counting) -> None:
    with counting() as other, blocking_channel(f"static://{backend.address},{other.address}") as channel:
        call = channel.unary_unary(PATH + "Echo")
        for _ in range(10):
            call(b"x", timeout=10)
        eventually(lambda: channel.engine.resting, timeout_s=20)
        before = time.monotonic()
        assert [call(b"y", timeout=10) for _ in range(10)] == [b"y"] * 10
        assert time.monotonic() - before < 5


def silent() -> socket.socket:
    """Takes connections, and says nothing on them."""
    return socket.create_server(("127.0.0.1", 0), backlog=16)


@pytest.mark.parametrize("kind", ["aio", "sync"])
async def test_pick_first_does_not_wait_for_one_address_alone(backend: Counting, kind: str) -> None:
    """The first takes the connection and says nothing; the next is tried after 250 ms (A61)."""
    with silent() as listener:
        target = f"static://127.0.0.1:{listener.getsockname()[1]},{backend.address}"
        began = time.monotonic()
        if kind == "aio":
            async with aio_channel(target, policy="pick_first") as channel:
                assert await channel.unary_unary(PATH + "Echo")(b"x", timeout=15) == b"x"
        else:
            with blocking_channel(target, policy="pick_first") as channel:
                assert await asyncio.to_thread(channel.unary_unary(PATH + "Echo"), b"x", 15) == b"x"
        assert 0.2 < time.monotonic() - began < 5


async def test_hashing_without_a_key_waits_for_nobody(backend: Counting) -> None:
    """One endpoint is ready, the others never will be: a call without a key goes where it can (A76)."""
    with silent() as one, silent() as two:
        dead = ",".join(f"127.0.0.1:{listener.getsockname()[1]}" for listener in (one, two))
        async with aio_channel(f"static://{backend.address},{dead}", policy="consistent_hash") as channel:
            call = channel.unary_unary(PATH + "Echo")
            await eventually_async(lambda: _answers(call), timeout_s=30)
            began = time.monotonic()
            for _ in range(30):
                assert await call(b"x", timeout=5) == b"x"
            assert time.monotonic() - began < 3


async def _answers(call: Any) -> bool:
    try:
        return bool(await call(b"x", timeout=0.5) == b"x")
    except grpc.RpcError:
        return False


async def test_calls_without_a_key_reach_every_endpoint(backend: Counting) -> None:
    with counting() as other:
        async with aio_channel(f"static://{backend.address},{other.address}", policy="consistent_hash") as channel:
            call = channel.unary_unary(PATH + "Echo")
            for _ in range(200):
                await call(b"x", timeout=5)
            assert backend.seen["Echo"] > 20
            assert other.seen["Echo"] > 20
