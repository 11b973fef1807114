"""CORE: how a check is written in short: `http:/healthz`, `https:8443/healthz`, `tcp`, `tcp:9000`, `grpc:game.Logic`,
`ttl`, `custom:redis,db=0`; and behind that what else is to be said: `http:/healthz interval=2 failures=3`.

And how a span of time is: `30s`. For command lines and configuration.
"""

import re

from registry_api.registry.v1 import registry_pb2 as pb
from registry_checks import rules

FORMS = "http[s]:[PORT]/PATH, tcp[:PORT], grpc[:SERVICE], ttl, custom:TYPE[,KEY=VALUE…]"

SECONDS = ("interval", "timeout", "initial_delay", "critical_after", "deregister_after")
COUNTS = ("failures", "successes")
_USUAL = {
    "interval": rules.DEFAULT_INTERVAL_S,
    "timeout": rules.DEFAULT_TIMEOUT_S,
    "failures": rules.DEFAULT_FAILURES,
    "successes": rules.DEFAULT_SUCCESSES,
}
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_HTTP = re.compile(r"(?P<port>[0-9]{1,5})?(?P<path>/.*)?", re.DOTALL)


def span_s(text: str) -> float | None:
    """The seconds that `30s`, `5m`, `1h` or `500ms` stand for; None if it is no such text."""
    found = _SPAN.fullmatch(text.strip())
    return float(found[1]) * _UNITS[found[2]] if found else None


class BadText(ValueError):
    """That is no check in short. The text says what would be."""


def parse(text: str) -> pb.HealthCheck:
    """The check that a text stands for; `rules.settle` looks at what is in it. Raises BadText."""
    words = text.split()
    check = _kind(words[0] if words else "")
    for word in words[1:]:
        name, _, value = word.partition("=")
        _set(check, name, value)
    return check


def written(check: pb.HealthCheck) -> str:
    """A check that was settled in short, without what is the default; `…` stands for what cannot be said like this."""
    words = [_head(check)]
    for name in (*SECONDS, *COUNTS, "name"):
        value, usual = _value(check, name), check.WhichOneof("kind") if name == "name" else _USUAL.get(name, 0)
        words += [f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"] if value != usual else []
    return " ".join(words if _says_all(words[0], check) else [*words, "…"])


def _says_all(head: str, check: pb.HealthCheck) -> bool:
    try:
        return parse(head) == _bare(check)
    except BadText:
        return False


def _value(check: pb.HealthCheck, name: str) -> float | int | str:
    found = getattr(check, name)
    return float(found.ToNanoseconds() / 1e9) if name in SECONDS else found


def _bare(check: pb.HealthCheck) -> pb.HealthCheck:
    """What `_head` has to say of a check."""
    bare = pb.HealthCheck()
    bare.MergeFrom(check)
    for name in (*SECONDS, *COUNTS, "name"):
        bare.ClearField(name)  # type: ignore[arg-type]  # one of its own names
    if bare.http.method == "GET":
        bare.http.ClearField("method")
    return bare


def _head(check: pb.HealthCheck) -> str:
    match check.WhichOneof("kind"):
        case "http":
            return f"http{'s' if check.http.tls else ''}:{check.http.port or ''}{check.http.path}"
        case "tcp":
            return f"tcp:{check.tcp.port}" if check.tcp.port else "tcp"
        case "grpc":
            return f"grpc:{check.grpc.service}" if check.grpc.service else "grpc"
        case "custom":
            pairs = (f"{key}={value}" for key, value in sorted(check.custom.settings.items()))
            return ",".join((f"custom:{check.custom.type}", *pairs))
    return check.WhichOneof("kind") or "?"


def _set(check: pb.HealthCheck, name: str, value: str) -> None:
    try:
        if name in SECONDS:
            getattr(check, name).FromNanoseconds(round(float(value) * 1e9))
        elif name in COUNTS:
            setattr(check, name, int(value))
        elif name == "name":
            check.name = value
        else:
            raise BadText(f"{name[:100]!a} is nothing of a check; there are {', '.join((*SECONDS, *COUNTS, 'name'))}")
    except (ValueError, OverflowError) as error:
        if isinstance(error, BadText):
            raise
        raise BadText(f"{name}: must be a number, is {value[:100]!a}") from None


def _kind(text: str) -> pb.HealthCheck:
    kind, colon, rest = text.partition(":")
    match kind:
        case "http" | "https":
            return pb.HealthCheck(http=_http(kind == "https", rest, text))
        case "tcp" if not colon or re.fullmatch(r"[0-9]{1,5}", rest):
            return pb.HealthCheck(tcp=pb.HealthCheck.Tcp(port=int(rest or 0)))
        case "grpc":
            return pb.HealthCheck(grpc=pb.HealthCheck.Grpc(service=rest))
        case "ttl" if not colon:
            return pb.HealthCheck(ttl=pb.HealthCheck.Ttl())
        case "custom":
            return pb.HealthCheck(custom=_custom(rest, text))
    raise _bad(text)


def _http(tls: bool, rest: str, text: str) -> pb.HealthCheck.Http:
    found = _HTTP.fullmatch(rest)
    if found is None:
        raise _bad(text)
    return pb.HealthCheck.Http(tls=tls, path=found["path"] or "/", port=int(found["port"] or 0))


def _custom(rest: str, text: str) -> pb.HealthCheck.Custom:
    kind, *pairs = rest.split(",")
    settings = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    if not kind or len(settings) != len(pairs):
        raise _bad(text)
    return pb.HealthCheck.Custom(type=kind, settings=settings)


def _bad(text: str) -> BadText:
    return BadText(f"{text[:100]!a} is no check; write one of {FORMS}")
