"""The calls of a channel as spans: one for a call, one below it for each attempt, of which its back end knows."""

import asyncio
import gc
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.instrumentation.grpc import GrpcAioInstrumentorClient, GrpcInstrumentorClient
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.propagators.textmap import TextMapPropagator

from balancer import blocking_channel
from tests.support.interop_backend import SERVICE
from tests.support.interop_fleet import Caller
from tests.support.spans import Spans, is_child, recorded
from tests.support.waiting import eventually_async

BOTH = pytest.mark.parametrize("kind", ["aio", "sync"])
CALL, ATTEMPT = f"{SERVICE}/Call", f"attempt {SERVICE}/Call"
TIMEOUT_S = 20.0
RETRIES = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.01s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": ["ABORTED"],
            },
        }
    ]
}
HEDGES = {
    "methodConfig": [{"name": [{}], "hedgingPolicy": {"maxAttempts": 2, "hedgingDelay": "0.01s"}}],
}


@dataclass
class BackEnd:
    """Answers every call, but fails so many first; `parents` are the spans that it was told of."""

    address: str = ""
    failures: int = 0
    parents: list[str] = field(default_factory=list)
    metadata: dict[str, str | bytes] = field(default_factory=dict)
    """Of the last call."""

    def answer(self, request: Any, context: grpc.ServicerContext) -> bytes:
        self.metadata = dict(context.invocation_metadata())  # type: ignore[arg-type]
        self.parents += [value for name, value in context.invocation_metadata() if name == "traceparent"]  # type: ignore[misc]
        if self.failures:
            self.failures -= 1
            context.abort(grpc.StatusCode.ABORTED, "not yet")
        return b"{}"

    def stream(self, request: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
        for _ in range(3):
            yield self.answer(request, context)
        if b"wait" in request:
            while context.is_active():
                yield b"{}"

    def of_many(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        return self.answer(list(requests), context)

    def chat(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        return (self.answer(request, context) for request in requests)


@pytest.fixture
def back_end() -> Iterator[BackEnd]:
    back_end = BackEnd()
    handlers: dict[str, Any] = {
        "Call": grpc.unary_unary_rpc_method_handler(back_end.answer),
        "Stream": grpc.unary_stream_rpc_method_handler(back_end.stream),
        "Collect": grpc.stream_unary_rpc_method_handler(back_end.of_many),
        "Chat": grpc.stream_stream_rpc_method_handler(back_end.chat),
    }
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        back_end.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        yield back_end
        server.stop(0).wait()


@pytest.fixture
def spans() -> Iterator[Spans]:
    with recorded() as spans:
        yield spans


@pytest.fixture
def make(back_end: BackEnd) -> Callable[..., Caller]:
    def make(kind: str, config: Any = None, target: str = "") -> Caller:
        options = [("grpc.service_config", json.dumps(config))] if config else []
        return Caller(kind, target or f"static://{back_end.address}", options=options)

    return make


def ids(parent: str) -> tuple[int, int]:
    _, trace_id, span_id, _ = parent.split("-")
    return int(trace_id, 16), int(span_id, 16)


@BOTH
async def test_a_call_and_its_attempt(kind: str, back_end: BackEnd, make: Callable[..., Caller], spans: Spans) -> None:
    async with make(kind) as caller:
        with trace.get_tracer("game").start_as_current_span("a turn") as turn:
            await caller.call(timeout=TIMEOUT_S)
        await eventually_async(lambda: len(spans.of("INTERNAL", CALL)) == 1)
    call, attempt = spans.one("INTERNAL", CALL), spans.one("CLIENT", ATTEMPT)
    assert is_child(call, turn)  # type: ignore[arg-type]
    assert is_child(attempt, call)
    assert attempt.attributes is not None
    assert attempt.attributes["server.address"] == back_end.address
    assert attempt.attributes["rpc.grpc.status_code"] == 0
    assert attempt.context is not None
    assert [ids(it) for it in back_end.parents] == [(attempt.context.trace_id, attempt.context.span_id)]


@BOTH
@pytest.mark.parametrize("name", ["Call", "Stream", "Collect", "Chat"])
async def test_every_kind_of_call(kind: str, name: str, make: Callable[..., Caller], spans: Spans) -> None:
    async with make(kind) as caller:
        asking: dict[str, Any] = {
            "Call": lambda: caller.future({}, timeout=TIMEOUT_S),
            "Stream": lambda: caller.stream({}, timeout=TIMEOUT_S),
            "Collect": lambda: caller.collect([{}], timeout=TIMEOUT_S),
            "Chat": lambda: caller.chat([{}], timeout=TIMEOUT_S),
        }
        await asking[name]()
        await eventually_async(lambda: len(spans.of("INTERNAL")) == 1)
    assert is_child(spans.one("CLIENT", f"attempt {SERVICE}/{name}"), spans.one("INTERNAL", f"{SERVICE}/{name}"))


@BOTH
async def test_each_retry_is_an_attempt(
    kind: str, back_end: BackEnd, make: Callable[..., Caller], spans: Spans
) -> None:
    async with make(kind, RETRIES) as caller:
        await caller.call(timeout=TIMEOUT_S)
        spans.clear()
        back_end.parents.clear()
        back_end.failures = 2
        await caller.call(timeout=TIMEOUT_S)
        await eventually_async(lambda: len(spans.of("INTERNAL", CALL)) == 1)
    call, attempts = spans.one("INTERNAL", CALL), spans.of("CLIENT", ATTEMPT)
    assert call.status.status_code.name == "UNSET"
    assert all(is_child(it, call) for it in attempts)
    told = [dict(it.attributes or {}) for it in attempts]
    assert [it["previous-rpc-attempts"] for it in told] == [0, 1, 2]
    assert [it["rpc.grpc.status_code"] for it in told] == [grpc.StatusCode.ABORTED.value[0]] * 2 + [0]
    assert [ids(it)[1] for it in back_end.parents] == [it.context.span_id for it in attempts if it.context is not None]


@BOTH
async def test_hedges_are_attempts(kind: str, make: Callable[..., Caller], spans: Spans) -> None:
    async with make(kind, HEDGES) as caller:
        await caller.call(timeout=TIMEOUT_S)
        await eventually_async(lambda: len(spans.of("INTERNAL", CALL)) == 1)
        began = len(spans.of("CLIENT"))
    await eventually_async(lambda: len(spans.of("CLIENT")) >= began >= 1)
    assert all(is_child(it, spans.one("INTERNAL", CALL)) for it in spans.of("CLIENT"))


@BOTH
async def test_a_call_that_finds_nobody_has_no_attempt(kind: str, make: Callable[..., Caller], spans: Spans) -> None:
    async with make(kind, target="static://127.0.0.1:1") as caller:
        with pytest.raises(grpc.RpcError):
            await caller.call(timeout=TIMEOUT_S)
        await eventually_async(lambda: len(spans.of("INTERNAL", CALL)) == 1)
    call = spans.one("INTERNAL", CALL)
    assert (call.status.status_code.name, call.status.description) == ("ERROR", "UNAVAILABLE")


@BOTH
async def test_what_is_cancelled_and_what_is_forgotten_ends(
    kind: str, make: Callable[..., Caller], spans: Spans
) -> None:
    async with make(kind) as caller:
        method = caller._methods["Stream"]
        for is_cancelled in (True, False):
            spans.clear()
            stream = method(b'{"wait": 1}', timeout=TIMEOUT_S)
            if kind == "aio":
                await stream.read()
            else:
                await asyncio.to_thread(next, stream)
            if is_cancelled:
                stream.cancel()
            del stream
            gc.collect()
            await eventually_async(
                lambda: len(spans.of("INTERNAL")) == 1 == len(spans.of("CLIENT")), what="both are told of"
            )
            assert spans.one("CLIENT").status.description == "CANCELLED"
            assert spans.one("INTERNAL").status.description == "CANCELLED"


@BOTH
async def test_what_is_under_way_when_the_channel_closes_ends(
    kind: str, make: Callable[..., Caller], spans: Spans
) -> None:
    caller = make(kind)
    stream = caller._methods["Stream"](b'{"wait": 1}', timeout=TIMEOUT_S)
    await (stream.read() if kind == "aio" else asyncio.to_thread(next, stream))
    await caller.close()
    await eventually_async(lambda: len(spans.of("INTERNAL")) == 1)
    assert is_child(spans.one("CLIENT"), spans.one("INTERNAL"))


@BOTH
async def test_whose_metadata_names_a_span_is_below_that(
    kind: str, back_end: BackEnd, make: Callable[..., Caller], spans: Spans
) -> None:
    given = f"00-{'ab' * 16}-{'cd' * 8}-01"
    async with make(kind) as caller:
        await caller.call(timeout=TIMEOUT_S, metadata=(("traceparent", given), ("x-mine", "1")))
        await eventually_async(lambda: len(spans.of("INTERNAL", CALL)) == 1)
    call = spans.one("INTERNAL", CALL)
    assert call.parent is not None
    assert (call.parent.trace_id, call.parent.span_id) == ids(given)
    assert len(back_end.parents) == 1
    assert back_end.parents[0] != given


@BOTH
async def test_beside_the_instrumentation_of_grpcio(
    kind: str, back_end: BackEnd, make: Callable[..., Caller], spans: Spans
) -> None:
    """Which traces what goes through a channel of asyncio, and what goes out of one for threads."""
    instrumentor: Any = {"aio": GrpcAioInstrumentorClient, "sync": GrpcInstrumentorClient}[kind]()
    instrumentor.instrument(tracer_provider=spans.provider)
    try:
        async with make(kind) as caller:
            await caller.call(timeout=TIMEOUT_S)
            await eventually_async(lambda: len(spans.of("INTERNAL", CALL)) == 1)
            told = list(back_end.parents)
            caller.channel.engine.count()
            assert len(await caller.stream({}, timeout=TIMEOUT_S)) == 3  # of whose end nobody may be told
            await eventually_async(lambda: len(spans.of("INTERNAL", "Stream")) == 1)
            assert caller.channel.engine.numbers().totals.calls == ({"OK": 1} if kind == "aio" else {})
    finally:
        instrumentor.uninstrument()
    [theirs] = [it for it in spans.of("CLIENT", "/Call") if not it.name.startswith("attempt")]
    call, attempt = spans.one("INTERNAL", CALL), spans.one("CLIENT", ATTEMPT)
    assert is_child(call, theirs) if kind == "aio" else is_child(theirs, attempt)
    last = attempt if kind == "aio" else theirs
    assert last.context is not None
    assert [ids(it)[1] for it in told] == [last.context.span_id]


class Propagator(TextMapPropagator):
    """Somebody's own, which gives that."""

    def __init__(self, given: dict[Any, Any] | None) -> None:
        self.given = given
        self.asked: dict[str, str] = {}

    def inject(self, carrier: Any, *_: Any, **__: Any) -> None:
        if self.given is None:
            raise ValueError("it does not work")
        carrier.update(self.given)

    def extract(self, carrier: Any, *_: Any, **__: Any) -> context.Context:
        self.asked = dict(carrier)
        return context.get_current()

    @property
    def fields(self) -> set[str]:
        return {it for it in self.given or () if isinstance(it, str)}


@BOTH
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"X-Amzn-Trace-Id": "Root=1"}, {"x-amzn-trace-id": "Root=1"}),
        ({"baggage": "a=\u2603", "a b": "1", "x-mine-bin": "1", "x": "a\nb", "y": 5, 6: "z", "ok": "1"}, {"ok": "1"}),
        (None, {}),
    ],
    ids=["capitals", "no metadata", "it fails"],
)
async def test_whatever_a_propagator_gives_ends_no_call(
    kind: str,
    given: dict[Any, Any] | None,
    told: dict[str, str],
    back_end: BackEnd,
    make: Callable[..., Caller],
    spans: Spans,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("opentelemetry.propagate._HTTP_TEXT_FORMAT", propagator := Propagator(given))
    async with make(kind) as caller:
        await caller.call(timeout=TIMEOUT_S, metadata=tuple(told.items()))
        await eventually_async(lambda: len(spans.of("INTERNAL", CALL)) == 1)
    assert is_child(spans.one("CLIENT", ATTEMPT), spans.one("INTERNAL", CALL))
    assert (
        propagator.asked.items()
        >= {name: it for name, it in (given or {}).items() if str(name).lower() in told}.items()
    )
    assert {name: it for name, it in back_end.metadata.items() if name != "user-agent"} == told


@BOTH
async def test_baggage_that_a_call_brings_is_kept(
    kind: str, back_end: BackEnd, make: Callable[..., Caller], spans: Spans
) -> None:
    """Also with the one that is current; and it takes no call out of its trace."""
    token = context.attach(baggage.set_baggage("of", "all"))
    try:
        async with make(kind) as caller:
            with trace.get_tracer("game").start_as_current_span("a turn") as turn:
                await caller.call(timeout=TIMEOUT_S, metadata=(("baggage", "mine=1"),))
            await eventually_async(lambda: len(spans.of("INTERNAL", CALL)) == 1)
    finally:
        context.detach(token)
    assert is_child(spans.one("INTERNAL", CALL), turn)  # type: ignore[arg-type]
    assert sorted(str(back_end.metadata["baggage"]).split(",")) == ["mine=1", "of=all"]


@BOTH
async def test_what_is_not_to_be_traced_is_not(kind: str, make: Callable[..., Caller], spans: Spans) -> None:
    """Or an exporter that sends spans through a channel of ours would have more to send with each of them."""
    async with make(kind) as caller:
        with suppress_instrumentation():
            await caller.call(timeout=TIMEOUT_S)
        assert list(spans) == []
        await caller.call(timeout=TIMEOUT_S)
        await eventually_async(lambda: len(spans.of("CLIENT")) == 1)


@BOTH
async def test_a_call_that_cannot_begin_is_told_of(kind: str, make: Callable[..., Caller], spans: Spans) -> None:
    async with make(kind) as caller:
        await caller.call(timeout=TIMEOUT_S)
        await eventually_async(lambda: len(spans.of("INTERNAL", CALL)) == 1)
        spans.clear()
        method = caller._methods["Stream"]
        with pytest.raises(TypeError):
            method(b"{}", timeout="soon")
        call, attempt = spans.one("INTERNAL"), spans.one("CLIENT")
    assert is_child(attempt, call)
    assert call.status.description == attempt.status.description == "UNKNOWN"


@pytest.mark.parametrize("way", ["future", "stream"])
@pytest.mark.parametrize("side", ["request_serializer", "response_deserializer"])
async def test_what_cannot_be_encoded_is_told_of(way: str, side: str, back_end: BackEnd, spans: Spans) -> None:
    """In threads; grpc.aio takes no notice of it."""

    def fails(_: object) -> bytes:
        raise ValueError("it cannot be encoded")

    def call() -> None:
        with blocking_channel(f"static://{back_end.address}") as channel:
            channel.unary_unary(f"/{SERVICE}/Call")(b"{}", timeout=TIMEOUT_S)
            channel.engine.count()
            spans.clear()
            unary = channel.unary_unary(f"/{SERVICE}/Call", **{side: fails})
            stream = channel.unary_stream(f"/{SERVICE}/Stream", **{side: fails})
            ways = {"future": lambda: unary.future(b"{}").result(TIMEOUT_S), "stream": lambda: list(stream(b"{}"))}
            with pytest.raises(grpc.RpcError):
                ways[way]()
            assert channel.engine.numbers().totals.calls == {"INTERNAL": 1}

    await asyncio.to_thread(call)
    assert is_child(spans.one("CLIENT"), spans.one("INTERNAL"))
    assert spans.one("CLIENT").status.description == spans.one("INTERNAL").status.description == "INTERNAL"


@pytest.mark.parametrize("way", ["future", "stream"])
async def test_what_is_forgotten_while_it_waits_ends(way: str, spans: Spans) -> None:
    """In threads; with asyncio it goes on."""
    with blocking_channel("static://127.0.0.1:1") as channel:
        channel.engine.count()
        begin = channel.unary_unary("/a/b").future if way == "future" else channel.unary_stream("/a/b")
        call = begin(b"", wait_for_ready=True)
        await eventually_async(lambda: channel.engine.numbers().totals.picks.get("wait", 0) > 0)
        assert spans.of("INTERNAL") == []
        del call
        gc.collect()
        await eventually_async(lambda: len(spans.of("INTERNAL")) == 1, what="the call is told of")
        assert channel.engine.numbers().totals.calls == {"CANCELLED": 1}
    assert spans.one("INTERNAL").status.description == "CANCELLED"
