"""Logs: what a client can bring about at will fills none, what repeats itself is cut short, who comes and leaves is
said at debug."""

import asyncio
import json
import logging
import os
import subprocess
import sys
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from functools import partial

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from registry_server.observe import changes
from registry_server.observe.lines import LogWriter
from registry_server.observe.logs import (
    FIELDS,
    GRPC_LOGGER,
    MAX_KINDS,
    MAX_REPEATS,
    PERIOD_S,
    CallFields,
    ClientFaults,
    JsonFormatter,
    Repeats,
    TextFormatter,
)
from registry_server.observe.traces import Traces, named
from registry_server.records import Cause, Snapshot
from registry_server.rpc.table import Caller, Service, Table, Unary
from tests.support.core import Core, gone, key, put


class ExecuteBatchError(Exception):
    """Goes by the name of gRPC's own, which is private."""


def record(text: str, *args: object, at: float = 0.0, level: int = logging.ERROR, name: str = "x") -> logging.LogRecord:
    made = logging.LogRecord(name, level, __file__, 1, text, args, None)
    made.created = at
    return made


def failed(error: Exception, name: str = GRPC_LOGGER) -> logging.LogRecord:
    made = record("ExecuteBatchError raised in core by servicer method [%s]", "/a/b", name=name)
    made.exc_info = (type(error), error, None)
    return made


@pytest.fixture(params=[logging.INFO, logging.DEBUG])
def level(request: pytest.FixtureRequest) -> Iterator[int]:
    """The level of gRPC's logger."""
    logger, before = logging.getLogger(GRPC_LOGGER), logging.getLogger(GRPC_LOGGER).level
    logger.setLevel(request.param)
    yield logger.level
    logger.setLevel(before)


def test_a_header_that_is_not_utf_8_is_not_shown() -> None:
    made = record("Invalid encoding on %s", b"Bearer s3cret\xff")
    ClientFaults().filter(made)
    assert made.getMessage() == "a header of a client is not UTF-8"


@pytest.mark.parametrize("made", [failed(ExecuteBatchError()), record("Invalid encoding on %s", b"\xff")])
def test_faults_of_clients_are_a_line_at_debug(level: int, made: logging.LogRecord) -> None:
    made.levelno, made.name = logging.ERROR, GRPC_LOGGER
    assert bool(ClientFaults().filter(made)) is (level == logging.DEBUG)
    assert (made.levelname, made.exc_info) == ("DEBUG", None)


@pytest.mark.parametrize("made", [failed(ValueError()), record("Unexpected error"), record("Invalid", level=10)])
def test_faults_of_our_own_pass(made: logging.LogRecord) -> None:
    before = (made.levelno, made.exc_info)
    assert ClientFaults().filter(made)
    assert (made.levelno, made.exc_info) == before


def passed(filter_: Repeats, *records: logging.LogRecord) -> list[str]:
    return [it.getMessage() for it in records if filter_.filter(it)]


def test_what_repeats_itself_is_cut_short_and_counted() -> None:
    filter_ = Repeats()
    first = passed(filter_, *(record("a call failed: %d", number, at=number / 1000) for number in range(1000)))
    assert first[:-1] == [f"a call failed: {number}" for number in range(MAX_REPEATS - 1)]
    assert first[-1] == f"a call failed: {MAX_REPEATS - 1} (more like this are left out for 60 s)"
    assert passed(filter_, record("a call failed: %d", 7, at=PERIOD_S)) == [
        f"a call failed: 7 ({1000 - MAX_REPEATS} like this were left out)"
    ]


def test_what_differs_is_told_each() -> None:
    filter_ = Repeats()
    for _ in range(MAX_REPEATS + 1):
        filter_.filter(record("the same"))
    others = [record("another"), record("the same", level=logging.WARNING), record("the same", name="y")]
    others.append(failed(ValueError(), "x"))
    assert len(passed(filter_, *others)) == len(others)


def test_what_is_rare_or_informs_always_passes() -> None:
    filter_ = Repeats()
    rare = [record("rare", at=number * PERIOD_S) for number in range(100)]
    assert passed(filter_, *rare) == ["rare"] * 100
    assert len(passed(filter_, *(record("informs", level=logging.INFO) for _ in range(100)))) == 100


def test_kinds_are_remembered_within_a_limit() -> None:
    filter_ = Repeats()
    assert len(passed(filter_, *(record(f"kind {number}") for number in range(3 * MAX_KINDS)))) == 3 * MAX_KINDS
    assert len(filter_._kinds) == MAX_KINDS


def test_json_has_what_happened() -> None:
    line = json.loads(JsonFormatter().format(failed(ValueError("no"))))
    assert (line["level"], line["logger"]) == ("error", GRPC_LOGGER)
    assert line["message"] == "ExecuteBatchError raised in core by servicer method [/a/b]"
    assert "ValueError: no" in line["error"]


FORGERIES = [
    "a\n2026-11-26 WARNING registry_server.feed: forged",
    "a\r\nb",
    "a\x85b",
    "a\u2028b",
    "a\x1b[31mb",
    "a\u202eb",
]


@pytest.mark.parametrize("text", FORGERIES)
@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_foreign_text_forges_no_line(text: str, formatter: logging.Formatter) -> None:
    made = record("%s calls", text)
    made.peer = text
    made.exc_info = (ValueError, ValueError(text), None)
    first, *below = formatter.format(made).split("\n")
    assert first.isprintable()
    assert all(line.startswith("    ") and line.isprintable() for line in below)
    assert len(below) == (0 if isinstance(formatter, JsonFormatter) else len(text.split("\n")))
    if not below:
        assert json.loads(first)["message"] == f"{text} calls"


def test_text_that_people_read_stays() -> None:
    made = record("%s came", "玩家服务")
    assert TextFormatter().format(made).endswith("ERROR   x: 玩家服务 came")
    assert "玩家服务" in JsonFormatter().format(made)


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_a_mistake_in_saying_it_is_said(formatter: logging.Formatter) -> None:
    assert "%d players ('many',)" in formatter.format(record("%d players", "many"))


class Mute(Exception):
    """Somebody's own, with a mistake in it."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_what_cannot_be_shown_harms_nobody_who_logs_it(formatter: logging.Formatter) -> None:
    """Nor does the line that says how often it came: that is put together within the call that logs."""
    told, filter_ = [], Repeats()
    for _ in range(MAX_REPEATS + 1):
        it = record("a check failed: %s", Mute())
        if filter_.filter(it):
            told.append(formatter.format(it))
    assert len(told) == MAX_REPEATS
    assert all("a check failed: %s" in line for line in told)
    assert "more like this are left out" in told[-1]
    bare = logging.LogRecord("x", logging.ERROR, __file__, 1, Mute(), (), None)
    assert filter_.filter(bare)
    assert "Mute" in formatter.format(bare)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1:strict", "utf-8"])
def test_a_line_of_json_is_one_in_every_encoding(encoding: str) -> None:
    program = "import logging; from registry_server.observe import logs; logs.set_up('json', 'info'); "
    program += "logging.error('größe 中 \\u2028 %s', '\\ud800')"
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, timeout=60, check=True)
    [line] = done.stderr.decode(encoding.partition(":")[0]).splitlines()
    assert json.loads(line)["message"] == "größe 中 \u2028 \ud800"


def test_who_does_not_read_keeps_nobody_waiting() -> None:
    """A pipe that nobody reads is full some time, and then a server would stand still at its next line."""
    end, begin = os.pipe()
    handler = LogWriter(begin, patience_s=0.0)
    handler.setFormatter(TextFormatter())
    for number in range(200):
        handler.emit(record(f"{number:03d} " + "x" * 1000))
    handler.emit(record("y" * 100_000))
    told = os.read(end, 1 << 20).decode()
    assert "000 xxx" in told
    assert "199 xxx" not in told
    handler.emit(record("again"))
    handler.emit(record("and again"))
    lines = os.read(end, 1 << 20).decode().splitlines()
    missing = 201 - told.count("\n")
    assert f"x: {missing} lines before this are missing" in lines[-3]
    assert [it.rpartition(": ")[2] for it in lines[-2:]] == ["again", "and again"]
    handler.emit(record("z" * 1_000_000))  # longer than there is room for: it is torn, and the next one begins anew
    os.read(end, 1 << 20)
    handler.emit(record("at last"))
    assert os.read(end, 1 << 20).decode().splitlines()[-1].endswith(": at last")
    os.close(end)
    handler.emit(record("nobody"))
    os.close(begin)


# ---- for whom a line is written


class Told(logging.Handler):
    """What is written meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(CallFields())
        self.setFormatter(JsonFormatter())
        self.lines: list[dict[str, object]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(json.loads(self.format(record)))


@pytest.fixture
def told() -> Iterator[Told]:
    handler, logger = Told(), logging.getLogger("registry_server.told")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
STRANGER = Caller("ipv4:10.0.0.9:1", traceparent=f"00-{TRACE_ID}-{SPAN_ID}-01")


async def test_a_line_says_for_whom_it_is(told: Told) -> None:
    said = logging.getLogger("registry_server.told")
    later: list[asyncio.Task[None]] = []

    async def say() -> None:
        said.warning("from another task")

    async def answer(request: StringValue, caller: Caller) -> bytes:
        said.warning("asked", extra={"revision": 7})
        later.append(asyncio.create_task(say()))
        return b""

    inner = named(Table(Service("test.Told", {"Ask": Unary(StringValue, answer)})))
    known = inner.changed(lambda _, it: replace(it, call=partial(as_game, it)))
    method = Traces(lambda _: "UNKNOWN").traced(known).methods["/test.Told/Ask"]
    assert isinstance(method, Unary)

    async def ask() -> None:  # as transports do: in a task for one call, or for one caller
        await method.call(StringValue(), STRANGER)

    await asyncio.create_task(ask())
    await later[0]
    said.warning("afterwards")
    asked, *others = told.lines
    assert {name: asked.get(name) for name in FIELDS} == {
        "revision": 7,
        "peer": STRANGER.peer,
        "identity": "game",
        "trace_id": TRACE_ID,
        "span_id": SPAN_ID,
    }
    assert [it["message"] for it in others] == ["from another task", "afterwards"]
    assert not any(name in it for it in others for name in FIELDS)


def as_game(method: Unary[StringValue], request: StringValue, caller: Caller) -> Coroutine[None, None, bytes]:
    return method.call(request, caller._replace(identity="game"))


# ---- who comes and leaves


@pytest.fixture
def core() -> Core:
    core = Core()
    core.feed.emit(Snapshot("e1", 10, ()))
    return core


def test_who_comes_and_leaves_is_said_at_debug(core: Core, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "registry_server")
    core.feed.emit(put(11, key(), lease="secret", host="10.0.0.5", port=8001))
    core.feed.emit(put(12, key(), lease="secret", host="10.0.0.5", port=8002))
    core.feed.emit(put(13, key("two"), lease="secret", host="10.0.0.5", port=8002))
    core.timeline.advance(20)  # so long after the full set, an end of a lease is nobody's fault
    core.feed.emit(gone(14, key("two"), cause=Cause.EXPIRED))
    assert caplog.messages == [
        "default/player/one came at revision 11: 10.0.0.5:8001",
        "default/player/one changed at revision 12: 10.0.0.5:8002",
        "default/player/one left at revision 13: replaced",
        "default/player/two came at revision 13: 10.0.0.5:8002",
        "default/player/two left at revision 14: expired",
    ]


def test_a_step_with_many_names_a_few(core: Core, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "registry_server")
    core.feed.emit(put(11, *(key(f"{number:03}") for number in range(100))))
    assert len(caplog.messages) == changes.MAX_NAMED + 1
    assert caplog.messages[-1] == "and 80 more at revision 11"


def test_nothing_of_it_is_said_at_info(core: Core, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "registry_server")
    core.feed.emit(put(11, key()))
    assert caplog.messages == []
