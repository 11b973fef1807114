"""CORE: what a health check may be: one set of rules for the server's door, its configuration, and clients.

Each rule names the field that it finds wrong, as a path in `HealthCheck`, by raising BadCheck.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from google.protobuf.duration_pb2 import Duration

from registry_api.registry.v1 import registry_pb2 as pb
from registry_checks.ladder import Limits

MAX_CHECKS = 10
MAX_BYTES = 8 * 1024
MAX_OUTPUT = 256
KINDS = ("http", "tcp", "grpc", "ttl", "custom")
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT")
MAX_PAIRS = 20
MAX_VALUE = 1_024
MAX_PATH = 2_048
DEFAULT_INTERVAL_S = 5.0
DEFAULT_TIMEOUT_S = 3.0
DEFAULT_FAILURES = 3
DEFAULT_SUCCESSES = 2
MAX_COUNT = 100
DEFAULT_STATUSES = range(200, 400)
# The least and the most of each time span, in seconds.
SPANS: Mapping[str, tuple[float, float]] = {
    "interval": (0.1, 3600.0),
    "timeout": (0.05, 60.0),
    "initial_delay": (0.0, 3600.0),
    "critical_after": (0.0, 30 * 86_400.0),
    "deregister_after": (0.0, 30 * 86_400.0),
}
# These say how the message is framed, or who is asked: they are not the check's to give.
FORBIDDEN_HEADERS = frozenset(
    {"host", "connection", "content-length", "transfer-encoding", "te", "upgrade", "trailer", "expect", "keep-alive"}
)

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@~+-]{0,127}")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?|")
_PATH = re.compile(r"/[\x21-\x22\x24-\x7e]*")  # no space, and no `#`, which no server is sent
_AUTHORITY = re.compile(r"[A-Za-z0-9_.-]{1,253}|\[[0-9a-fA-F:.]{2,45}\]")
_AUTHORITY_PORT = re.compile(rf"(?:{_AUTHORITY.pattern})(?::[0-9]{{1,5}})?")


class BadCheck(ValueError):
    """A field of a check is wrong. `field` is its path, such as `http.path`; empty for the check itself."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


def settle_all(checks: Sequence[pb.HealthCheck], custom: Collection[str] | None = None) -> None:
    """Check all checks of an instance, and fill in what is not set. The field of a BadCheck begins with `[0]`.

    `custom` are the kinds that were added to the server; None where that is not known.
    """
    if len(checks) > MAX_CHECKS:
        raise BadCheck("", f"must be at most {MAX_CHECKS}, are {len(checks)}")
    for number, check in enumerate(checks):
        try:
            settle(check, custom)
        except BadCheck as wrong:
            raise BadCheck(f"[{number}].{wrong.field}", wrong.reason) from None
        if check.name in {other.name for other in checks[:number]}:
            raise BadCheck(f"[{number}].name", f"{check.name} is the name of another check, too")
    if (size := sum(check.ByteSize() for check in checks)) > MAX_BYTES:
        raise BadCheck("", f"must be at most {MAX_BYTES} bytes together, are {size}")


def settle(check: pb.HealthCheck, custom: Collection[str] | None = None) -> None:
    """Check one check, and fill in what is not set."""
    kind = check.WhichOneof("kind")
    if kind is None:
        raise BadCheck("kind", f"is required: one of {', '.join(KINDS)}")
    match kind:
        case "http":
            _http(check.http)
        case "tcp":
            _port("tcp.port", check.tcp.port)
        case "grpc":
            _grpc(check.grpc)
        case "custom":
            _custom(check.custom, custom)
    check.name = check.name or kind
    if _NAME.fullmatch(check.name) is None:
        raise BadCheck("name", "must be 1 to 128 letters, digits and any of _ . : @ ~ + -")
    _times(check)


def limits_of(check: pb.HealthCheck) -> Limits:
    """How much it takes until the check says so; of one that was settled."""
    return Limits(check.failures, check.successes, seconds_of(check.critical_after), seconds_of(check.deregister_after))


def seconds_of(span: Duration) -> float:
    """A time span in seconds."""
    return span.seconds + span.nanos / 1e9


# ---- kinds


def _http(http: pb.HealthCheck.Http) -> None:
    _port("http.port", http.port)
    http.path = http.path or "/"
    if _PATH.fullmatch(http.path) is None or len(http.path) > MAX_PATH:
        raise BadCheck("http.path", f"must begin with / and be at most {MAX_PATH} printable characters without spaces")
    http.method = http.method or "GET"
    if http.method not in METHODS:
        raise BadCheck("http.method", f"must be one of {', '.join(METHODS)}")
    _headers(http.headers)
    if http.host and _AUTHORITY_PORT.fullmatch(http.host) is None:
        raise BadCheck("http.host", "must be a DNS name or an IP address, with a port where that belongs to it")
    _statuses(http.statuses)
    if len(http.body) > MAX_VALUE:
        raise BadCheck("http.body", f"must be at most {MAX_VALUE} bytes, are {len(http.body)}")
    if http.insecure and not http.tls:
        raise BadCheck("http.insecure", "goes with tls")


def _headers(headers: Mapping[str, str]) -> None:
    _count("http.headers", headers)
    for name, value in headers.items():
        if _TOKEN.fullmatch(name) is None:
            raise BadCheck("http.headers", f"{name[:64]!a} is no name of a header")
        if name.lower() in FORBIDDEN_HEADERS:
            hint = "; give http.host" if name.lower() == "host" else ""
            raise BadCheck("http.headers", f"{name} is not the check's to give{hint}")
        if _VALUE.fullmatch(value) is None or len(value) > MAX_VALUE:
            raise BadCheck("http.headers", f"{name} must be at most {MAX_VALUE} printable ASCII characters in one line")


def _statuses(statuses: Sequence[int]) -> None:
    if len(statuses) > MAX_PAIRS or len(set(statuses)) != len(statuses):
        raise BadCheck("http.statuses", f"must be at most {MAX_PAIRS}, and none twice")
    for status in statuses:
        if not 200 <= status <= 599:
            raise BadCheck("http.statuses", f"must be 200 to 599, is {status}")


def _grpc(grpc: pb.HealthCheck.Grpc) -> None:
    _port("grpc.port", grpc.port)
    if len(grpc.service) > MAX_OUTPUT or not grpc.service.isprintable():
        raise BadCheck("grpc.service", f"must be at most {MAX_OUTPUT} printable characters")
    if grpc.authority and _AUTHORITY_PORT.fullmatch(grpc.authority) is None:
        raise BadCheck("grpc.authority", "must be a DNS name or an IP address")


def _custom(custom: pb.HealthCheck.Custom, known: Collection[str] | None) -> None:
    if not custom.type:
        raise BadCheck("custom.type", "is required")
    if _NAME.fullmatch(custom.type) is None or (known is not None and custom.type not in known):
        there_are = ", ".join(sorted(known or ())) or "none"
        raise BadCheck("custom.type", f"{custom.type[:64]!a} was not added to this server; there are: {there_are}")
    _count("custom.settings", custom.settings)
    for name, value in custom.settings.items():
        if not name or len(name) > MAX_VALUE or len(value) > MAX_VALUE:
            raise BadCheck("custom.settings", f"names must not be empty, nor anything longer than {MAX_VALUE}")


def _count(field: str, pairs: Mapping[str, str]) -> None:
    if len(pairs) > MAX_PAIRS:
        raise BadCheck(field, f"must be at most {MAX_PAIRS}, are {len(pairs)}")


def _port(field: str, port: int) -> None:
    if port > 65_535:
        raise BadCheck(field, f"must be 1 to 65535, is {port}")


# ---- times and numbers


def _times(check: pb.HealthCheck) -> None:
    for name, default_s in (("interval", DEFAULT_INTERVAL_S), ("timeout", DEFAULT_TIMEOUT_S)):
        if not check.HasField(name):  # type: ignore[arg-type]  # one of its own names
            getattr(check, name).FromNanoseconds(round(default_s * 1e9))
    for name, (least, most) in SPANS.items():
        _span(name, getattr(check, name), least, most)
    check.failures = _times_in_a_row("failures", check.failures or DEFAULT_FAILURES)
    check.successes = _times_in_a_row("successes", check.successes or DEFAULT_SUCCESSES)


def _span(field: str, span: Duration, least: float, most: float) -> None:
    if not -999_999_999 <= span.nanos <= 999_999_999:
        raise BadCheck(field, f"nanos must be within a second, is {span.nanos}")
    if span.seconds > 0 > span.nanos:  # nobody could write that as JSON
        raise BadCheck(field, f"seconds and nanos must have the same sign, are {span.seconds} and {span.nanos}")
    if not least <= seconds_of(span) <= most:
        raise BadCheck(field, f"must be {least:g} s to {most:g} s, is {seconds_of(span):g} s")


def _times_in_a_row(field: str, count: int) -> int:
    if count > MAX_COUNT:
        raise BadCheck(field, f"must be 1 to {MAX_COUNT}, is {count}")
    return count


def shown(output: str) -> str:
    """What a check found, for people: one line of bounded length, whatever it is."""
    if len(output) <= MAX_OUTPUT and output.isprintable() and "  " not in output:
        return output.strip()
    words: Iterable[str] = output[: 4 * MAX_OUTPUT].split()
    text = "".join(letter if letter.isprintable() else "?" for letter in " ".join(words))
    return text if len(text) <= MAX_OUTPUT else f"{text[: MAX_OUTPUT - 1]}…"
