"""Logs on standard error, as text for people or as JSON lines for machines.

What a client can bring about at will fills no log: what it does to its own streams is said at debug, and of warnings
and errors that repeat themselves a few pass in a minute. Nor does it write any: what others wrote is spelt out where it
is not plain, so that each line is one that this server began.
"""

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from registry_api.tracing import ids_in, ids_of
from registry_server.observe.answering import TRACED, who
from registry_server.observe.lines import LogWriter

# gRPC's own logger for what happens to calls.
GRPC_LOGGER = "grpc._cython.cygrpc"
# It logs these as errors, with a traceback each: a stream that its client reset while it was written to, and a header
# that is not UTF-8.
_BROKEN_STREAM = "ExecuteBatchError"
_NOT_UTF8 = "Invalid encoding"

# Of one kind of warning or error so many pass in so long a time, in seconds.
MAX_REPEATS = 10
PERIOD_S = 60.0
# The kinds that are remembered at a time.
MAX_KINDS = 500


# What a line says beside its message, where it is known: who asked for what is told, and as part of which trace.
FIELDS = ("revision", "peer", "identity", "trace_id", "span_id")


class CallFields(logging.Filter):
    """Notes for whom a line is written, if that is a call: `revision` and `peer` may be said by `extra`, too."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always true."""
        if (caller := who()) is None:
            return True
        traced = TRACED.get()
        ids = ids_in(caller.traceparent) if traced is None else ids_of(traced.span)
        known = {"peer": caller.peer, "identity": caller.identity, **(ids._asdict() if ids is not None else {})}
        for name, value in known.items():
            if value and not hasattr(record, name):
                setattr(record, name, value)
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339), level, logger, message, what else is known (FIELDS), and the traceback
    if there is one. `is_ascii`: letters beyond ASCII are spelt out, for a stream that does not take all of them."""

    def __init__(self, *, is_ascii: bool = False) -> None:
        super().__init__()
        self._is_ascii = is_ascii

    def format(self, record: logging.LogRecord) -> str:
        """The line for one record."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
            **_fields(record),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return _spelt(json.dumps(line, ensure_ascii=self._is_ascii, default=_shown), _as_json)


class TextFormatter(logging.Formatter):
    """A line for people: time, level, logger, in brackets what else is known, message; and below it, indented, the
    traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The lines for one record."""
        known = " ".join(f"{name}={value}" for name, value in _fields(record).items())
        head = f"{self.formatTime(record)} {record.levelname:<7} {record.name}"
        lines = [f"{head} [{known}]: {_message(record)}" if known else f"{head}: {_message(record)}"]
        if record.exc_info:
            lines += [f"    {line}" for line in self.formatException(record.exc_info).split("\n")]
        return "\n".join(_spelt(line, _as_text) for line in lines)


def _message(record: logging.LogRecord) -> str:
    """What is said. A mistake in saying it must not keep it from being said, nor be shown as lines of its own."""
    try:
        return record.getMessage()
    except Exception as error:
        return f"{_shown(record.msg)} {_shown(record.args, repr)} ({_shown(error, repr)})"


def _shown(thing: object, show: Callable[[object], str] = str) -> str:
    """Whatever somebody's code does when it is asked for a text: whoever has something to log goes on."""
    try:
        return show(thing)
    except Exception:
        return f"<{type(thing).__name__} that cannot be shown>"


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}


def _spelt(line: str, spell: Callable[[str], str]) -> str:
    """The same line, in which nothing is unseen, or is taken for its end."""
    return line if line.isprintable() else "".join(it if it.isprintable() else spell(it) for it in line)


def _as_text(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def _as_json(letter: str) -> str:
    return json.dumps(letter)[1:-1]


class ClientFaults(logging.Filter):
    """Turns what gRPC logs of a client's own fault into one line at debug."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is logged."""
        if record.levelno <= logging.DEBUG or not _is_client_fault(record):
            return True
        record.levelno, record.levelname = logging.DEBUG, logging.getLevelName(logging.DEBUG)
        record.exc_info = record.exc_text = None
        if _shown(record.msg).startswith(_NOT_UTF8):  # it is shown, and may be a token
            record.msg, record.args = "a header of a client is not UTF-8", None
        return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)


@dataclass(slots=True)
class _Repeated:
    """How often a kind came within its period, and how often it was left out before."""

    since: float
    count: int = 0


class Repeats(logging.Filter):
    """Lets the first few of each kind of warning and error pass in a period, and says how many it left out."""

    def __init__(self) -> None:
        super().__init__()
        self._kinds: dict[object, _Repeated] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is logged."""
        if record.levelno < logging.WARNING:
            return True
        kind = self._kind(record)
        if record.created - kind.since >= PERIOD_S:
            left_out = kind.count - MAX_REPEATS
            kind.since, kind.count = record.created, 0
            if left_out > 0:
                _append(record, f"{left_out} like this were left out")
        kind.count += 1
        if kind.count == MAX_REPEATS:
            _append(record, f"more like this are left out for {PERIOD_S:g} s")
        return kind.count <= MAX_REPEATS

    def _kind(self, record: logging.LogRecord) -> _Repeated:
        error = record.exc_info[0] if record.exc_info else None
        name = (record.name, record.levelno, _shown(record.msg), error)
        found = self._kinds.get(name)
        if found is None:
            if len(self._kinds) >= MAX_KINDS:
                del self._kinds[next(iter(self._kinds))]
            found = self._kinds[name] = _Repeated(record.created)
        return found


def set_up(log_format: str, level: str) -> None:
    """Send all logs of this process to standard error."""
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    handler = LogWriter(encoding=encoding)
    is_ascii = not encoding.lower().startswith("utf")
    handler.setFormatter(JsonFormatter(is_ascii=is_ascii) if log_format == "json" else TextFormatter())
    handler.addFilter(Repeats())
    handler.addFilter(CallFields())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger(GRPC_LOGGER).addFilter(ClientFaults())


def _is_client_fault(record: logging.LogRecord) -> bool:
    error = record.exc_info[0] if record.exc_info else None
    return (error is not None and error.__name__ == _BROKEN_STREAM) or _shown(record.msg).startswith(_NOT_UTF8)


def _append(record: logging.LogRecord, note: str) -> None:
    record.msg, record.args = f"{_message(record)} ({note})", None
