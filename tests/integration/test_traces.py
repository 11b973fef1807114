"""Traces: a span of the server below its caller's, one of the store below that; and nothing without a provider."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from typing import Any
from unittest.mock import MagicMock

import grpc
import grpc.aio
import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import SpanProcessor

import registry_client
from registry_api.registry.v1 import registry_pb2 as pb
from registry_client import Instance
from registry_client.tasks import Tasks
from registry_server.config import Config
from registry_server.observe.traces import Traces
from registry_server.rpc.table import Caller, Service, Table, Unary
from registry_server.server import serve
from tests.support.access import granted, token
from tests.support.spans import Spans, is_child, recorded
from tests.support.transports import FLAGS
from tests.support.waiting import eventually_async

PLAYER = Instance("player", "127.0.0.1", 9000, id="one")
TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
ADS = "envoy.service.discovery.v3.AggregatedDiscoveryService"
SAMPLED = f"00-{TRACE_ID}-{SPAN_ID}-01"


@pytest.fixture
def spans() -> Iterator[Spans]:
    with recorded() as spans:
        yield spans


@pytest.fixture(params=FLAGS)
async def address(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    async with serve(Config(listen="127.0.0.1:0", admin="off", transport=request.param)) as address:
        yield address


async def ask(address: str, method: str, request: Any, *metadata: tuple[str, str | bytes]) -> None:
    """As a client would that is none of ours."""
    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.unary_unary(method)
        await call(request.SerializeToString(), timeout=10, metadata=metadata)


async def test_a_call_is_one_trace(address: str, spans: Spans) -> None:
    async with registry_client.connect(address, cache_dir=None) as registry:
        with trace.get_tracer("game").start_as_current_span("start of the game") as game:
            await registry.register(PLAYER)
        server = spans.one("SERVER", "Registry/Register")
        attempt, call = spans.one("CLIENT", "Registry/Register"), spans.one("INTERNAL", "Registry/Register")
        assert is_child(call, game)  # type: ignore[arg-type]
        assert is_child(attempt, call)
        assert is_child(server, attempt)
        assert [it.name for it in spans.of("INTERNAL", "store.") if is_child(it, server)] == [
            "store.grant",
            "store.commit",
        ]
        assert server.name == "registry.v1.Registry/Register"
        assert server.attributes is not None
        assert server.attributes["rpc.service"] == "registry.v1.Registry"
        assert server.attributes["rpc.method"] == "Register"
        assert server.attributes["rpc.grpc.status_code"] == 0
        [found] = await registry.list("player")
        assert server.attributes["registry.revision"] == found.revision


async def test_what_outlives_who_began_it_is_no_part_of_it(spans: Spans) -> None:
    """Tasks that a client has for as long as it lives are begun by whoever uses it first."""
    given: ContextVar[str] = ContextVar("given", default="")
    tasks = Tasks()

    async def look() -> tuple[bool, str]:
        return trace.get_current_span().get_span_context().is_valid, given.get()

    with trace.get_tracer("game").start_as_current_span("start of the game") as game:
        given.set("by the user")
        assert await tasks.start(look(), "look") == (False, "by the user")
        assert trace.get_current_span() is game
    await tasks.aclose()


async def test_who_is_refused_is_told_apart_from_what_failed(address: str, spans: Spans) -> None:
    async with registry_client.connect(address, cache_dir=None) as registry:
        with pytest.raises(registry_client.NotFound):
            await registry.get("player", "nobody")
    server, attempt = spans.one("SERVER", "Get"), spans.one("CLIENT", "Get")
    assert server.attributes is not None
    assert server.attributes["rpc.grpc.status_code"] == grpc.StatusCode.NOT_FOUND.value[0]
    assert (server.status.status_code.name, attempt.status.status_code.name) == ("UNSET", "ERROR")


async def test_each_try_is_told(spans: Spans) -> None:
    async with (
        serve(Config(listen="127.0.0.1:0", admin="off")) as address,
        registry_client.connect(["127.0.0.1:1", address], cache_dir=None) as registry,
    ):
        while len(spans.of("CLIENT")) < 2:  # which of the two is first is left to chance
            spans.clear()
            await registry.list("player")
            registry._session.link._index = 0  # type: ignore[union-attr]
    first, second = spans.of("CLIENT")
    assert first.attributes is not None
    assert second.attributes is not None
    assert (first.attributes["server.address"], second.attributes["server.address"]) == ("127.0.0.1:1", address)
    assert (first.status.status_code.name, second.status.status_code.name) == ("ERROR", "UNSET")
    assert second.attributes["previous-rpc-attempts"] == 1
    call = spans.one("INTERNAL", "Registry/List")
    assert call.status.status_code.name == "UNSET"
    assert is_child(first, call)
    assert is_child(second, call)
    assert is_child(spans.one("SERVER", "List"), second)


async def test_a_client_of_another_kind_is_followed(address: str, spans: Spans) -> None:
    await ask(
        address,
        "/registry.v1.Registry/List",
        pb.ListRequest(service="player"),
        ("traceparent", SAMPLED),
        ("tracestate", "vendor=1"),
    )
    server = spans.one("SERVER", "List")
    assert server.parent is not None
    assert (f"{server.parent.trace_id:032x}", f"{server.parent.span_id:016x}") == (TRACE_ID, SPAN_ID)
    assert server.parent.trace_state.get("vendor") == "1"
    spans.clear()
    await ask(address, "/registry.v1.Registry/List", pb.ListRequest(), ("traceparent", SAMPLED[:-1] + "0"))
    assert not list(spans)  # its caller does not record it, and so nobody does


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "x",
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"ff-{TRACE_ID}-{SPAN_ID}-01",
        SAMPLED + "-more",
        SAMPLED.upper(),
        "0" * 5000,
    ],
)
async def test_what_names_no_span_is_none(parent: str, spans: Spans, caplog: pytest.LogCaptureFixture) -> None:
    async with serve(Config(listen="127.0.0.1:0", admin="off")) as address:
        headers = (("traceparent", parent), ("tracestate", "x" * 2000))
        await ask(address, "/registry.v1.Registry/List", pb.ListRequest(), *headers)
    assert spans.one("SERVER", "List").parent is None
    assert not [it for it in caplog.records if it.name.startswith("opentelemetry")]


async def test_streams_and_probes_are_traced_for_who_traces_them(address: str, spans: Spans) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        for metadata in ((), (("traceparent", SAMPLED),)):
            listen: Any = channel.unary_stream("/registry.v1.Registry/Watch")
            watch = listen(b"", metadata=metadata, timeout=30)
            await watch.read()
            watch.cancel()
            talk: Any = channel.stream_stream("/registry.v1.Registry/KeepAlive")
            renewing = talk(metadata=metadata, timeout=30)
            await renewing.write(pb.KeepAliveRequest(lease_ids=["none"]).SerializeToString())
            await renewing.read()
            renewing.cancel()
            discover: Any = channel.stream_stream(f"/{ADS}/StreamAggregatedResources")
            discovering = discover(metadata=metadata, timeout=30)
            await discovering.done_writing()
            assert await discovering.code() is grpc.StatusCode.OK
            await ask(address, "/grpc.health.v1.Health/Check", pb.ListRequest(), *metadata)
            if not metadata:
                assert not list(spans)
    asked = {"Watch", "KeepAlive", "Check", "StreamAggregatedResources"}
    await eventually_async(lambda: {it.name.rpartition("/")[2] for it in spans.of("SERVER")} == asked)
    assert all(it.parent is not None and it.parent.span_id == int(SPAN_ID, 16) for it in spans.of("SERVER"))


async def test_a_refusal_is_part_of_it(spans: Spans) -> None:
    config = Config(listen="127.0.0.1:0", admin="off", access=granted())
    async with (
        serve(config) as address,
        registry_client.connect(address, cache_dir=None, token=token("reader")) as registry,
    ):
        with pytest.raises(registry_client.PermissionDenied):
            await registry.register(PLAYER)
    server = spans.one("SERVER", "Register")
    assert server.attributes is not None
    assert server.attributes["rpc.grpc.status_code"] == grpc.StatusCode.PERMISSION_DENIED.value[0]
    assert is_child(server, spans.one("CLIENT", "Register"))


class Broken(SpanProcessor):
    """Somebody's that does not work."""

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        raise RuntimeError("no start")

    def on_end(self, span: Any) -> None:
        raise RuntimeError("no end")


async def test_somebodys_mistake_costs_no_call(spans: Spans, caplog: pytest.LogCaptureFixture) -> None:
    spans.provider.add_span_processor(Broken())
    async with (
        serve(Config(listen="127.0.0.1:0", admin="off")) as address,
        registry_client.connect(address, cache_dir=None) as registry,
    ):
        for _ in range(3):
            await registry.list("player")
    assert len([it for it in caplog.records if it.message.startswith("tracing does not work")]) == 2


@pytest.mark.usefixtures("spans")
@pytest.mark.parametrize("span", [object(), None, MagicMock(spec=trace.Span)], ids=["object", "none", "mock"])
async def test_spans_of_somebodys_own_cost_no_call(
    span: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As a provider gives that is of another version, or a part of a test."""

    class Own:
        def get_tracer(self, *_: Any, **__: Any) -> "Own":
            return self

        def start_span(self, *_: Any, **__: Any) -> object:
            return span

    async with serve(Config(listen="127.0.0.1:0", admin="off")) as address:
        monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", Own())
        async with registry_client.connect(address, cache_dir=None) as registry, registry.register(PLAYER):
            assert len(await registry.list("player")) == 1
        with registry_client.channel(f"registry://{address}/player") as channel:
            call = channel.unary_unary("/a/b")
            with pytest.raises(grpc.RpcError):
                await asyncio.to_thread(call, b"", timeout=0.1)
    assert "Traceback" not in caplog.text


async def test_a_store_that_makes_spans_of_its_own_has_the_call_as_current_one(spans: Spans) -> None:
    """As one that asks by an instrumented library."""
    seen: list[bool] = []

    async def answer(request: Any, caller: Caller) -> bytes:
        seen.append(trace.get_current_span().is_recording())
        return b""

    table = Table(Service("test.Own", {"Ask": Unary(pb.GetRequest, answer)}))
    method = Traces(lambda _: "UNKNOWN").traced(table).methods["/test.Own/Ask"]
    assert isinstance(method, Unary)
    assert await method.call(pb.GetRequest(), Caller("ipv4:10.0.0.9:1")) == b""
    assert (seen, trace.get_current_span().is_recording()) == ([True], False)


async def test_what_is_not_to_be_traced_is_not(address: str, spans: Spans) -> None:
    """Or an exporter that asks the registry where to send spans would have more to send with each of them."""
    async with registry_client.connect(address) as registry:
        with suppress_instrumentation():
            await registry.list("player")
        assert spans.of("INTERNAL") == spans.of("CLIENT") == []
        await registry.list("player")
        assert spans.one("CLIENT")


def test_threads_hand_on_their_span(spans: Spans) -> None:
    with registry_client.sync.connect("memory:") as registry:
        with trace.get_tracer("game").start_as_current_span("start of the game") as game:
            registry.list("player")
        assert is_child(spans.one("INTERNAL", "Registry/List"), game)  # type: ignore[arg-type]
        assert is_child(spans.one("SERVER", "List"), spans.one("CLIENT", "List"))


def test_without_a_provider_nothing_is_loaded() -> None:
    code = (
        "import sys, balancer, registry_client.sync\n"
        "from registry_server.embedded import Clock, in_thread\n"
        "with in_thread(Clock()) as address:\n"
        "    with registry_client.sync.connect(address) as registry: registry.list('player')\n"
        "    with balancer.blocking_channel('static://' + address) as channel:\n"
        "        channel.unary_unary('/registry.v1.Registry/List')(b'', timeout=20)\n"
        "sys.exit(any(it.startswith('opentelemetry') for it in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


async def test_with_the_api_alone_there_are_no_spans(address: str) -> None:
    async with registry_client.connect(address, cache_dir=None) as registry:
        await registry.list("player")
        assert not registry._session.link._tracing.is_on  # type: ignore[union-attr]
