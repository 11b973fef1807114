"""What a check may be: every rule, with the field named; and how one is written in short."""

from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import strategies as st

from registry_api.registry.v1 import registry_pb2 as pb
from registry_checks.rules import MAX_OUTPUT, BadCheck, limits_of, settle, settle_all, shown
from registry_checks.text import BadText, parse, written


def check(**fields: Any) -> pb.HealthCheck:
    return ParseDict(fields, pb.HealthCheck())


def refused(**fields: Any) -> str:
    """The field that is named."""
    with pytest.raises(BadCheck) as error:
        settle(check(**fields), {"redis"})
    assert len(str(error.value)) < 300
    return error.value.field


def test_defaults() -> None:
    it = check(http={})
    settle(it)
    assert (it.name, it.http.path, it.http.method, it.failures, it.successes) == ("http", "/", "GET", 3, 2)
    assert (it.interval.seconds, it.timeout.seconds) == (5, 3)
    assert (limits_of(it).critical_after_s, limits_of(it).deregister_after_s) == (0, 0)


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("kind", {}),
        ("name", {"tcp": {}, "name": "a b"}),
        ("http.path", {"http": {"path": "healthz"}}),
        ("http.path", {"http": {"path": "/a b"}}),
        ("http.path", {"http": {"path": "/a\r\nX: y"}}),
        ("http.path", {"http": {"path": "/" + "a" * 2048}}),
        ("http.path", {"http": {"path": "/ä"}}),
        ("http.port", {"http": {"port": 65536}}),
        ("http.method", {"http": {"method": "get"}}),
        ("http.method", {"http": {"method": "CONNECT"}}),
        ("http.headers", {"http": {"headers": {"a b": "c"}}}),
        ("http.headers", {"http": {"headers": {"": "c"}}}),
        ("http.headers", {"http": {"headers": {"a": "b\r\nc: d"}}}),
        ("http.headers", {"http": {"headers": {"a": "ä"}}}),
        ("http.headers", {"http": {"headers": {"Host": "a"}}}),
        ("http.headers", {"http": {"headers": {"Transfer-Encoding": "chunked"}}}),
        ("http.headers", {"http": {"headers": {f"h{number}": "v" for number in range(21)}}}),
        ("http.host", {"http": {"host": "a\r\nb"}}),
        ("http.host", {"http": {"host": "a/b"}}),
        ("http.statuses", {"http": {"statuses": [99]}}),
        ("http.statuses", {"http": {"statuses": [200, 200]}}),
        ("http.body", {"http": {"body": "YWFh" * 342}}),
        ("http.insecure", {"http": {"insecure": True}}),
        ("tcp.port", {"tcp": {"port": 70000}}),
        ("grpc.port", {"grpc": {"port": 70000}}),
        ("grpc.service", {"grpc": {"service": "a\nb"}}),
        ("grpc.service", {"grpc": {"service": "a" * 257}}),
        ("grpc.authority", {"grpc": {"authority": "a b"}}),
        ("custom.type", {"custom": {}}),
        ("custom.type", {"custom": {"type": "mongo"}}),
        ("custom.settings", {"custom": {"type": "redis", "settings": {"": "x"}}}),
        ("custom.settings", {"custom": {"type": "redis", "settings": {"x": "y" * 1025}}}),
        ("interval", {"tcp": {}, "interval": "0.05s"}),
        ("interval", {"tcp": {}, "interval": "3601s"}),
        ("interval", {"tcp": {}, "interval": "-5s"}),
        ("timeout", {"tcp": {}, "timeout": "0s"}),
        ("timeout", {"tcp": {}, "timeout": "61s"}),
        ("initial_delay", {"tcp": {}, "initial_delay": "-1s"}),
        ("critical_after", {"tcp": {}, "critical_after": "-1s"}),
        ("deregister_after", {"tcp": {}, "deregister_after": "2592001s"}),
        ("failures", {"tcp": {}, "failures": 101}),
        ("successes", {"tcp": {}, "successes": 101}),
    ],
)
def test_what_may_not_be_is_named(field: str, fields: dict[str, Any]) -> None:
    assert refused(**fields) == field


@pytest.mark.parametrize("nanos", [-1, -999_999_999, -(2**31), 2**31 - 1])
@pytest.mark.parametrize("field", ["interval", "timeout", "initial_delay", "critical_after", "deregister_after"])
def test_a_time_span_that_nobody_could_write_as_json(field: Any, nanos: int) -> None:
    it = check(tcp={})
    getattr(it, field).seconds, getattr(it, field).nanos = 5, nanos
    with pytest.raises(BadCheck) as wrong:
        settle(it)
    assert wrong.value.field == field


def test_checks_of_an_instance() -> None:
    with pytest.raises(BadCheck, match=r"\[1\]\.name: tcp is the name of another check"):
        settle_all([check(tcp={}), check(tcp={"port": 5})])
    with pytest.raises(BadCheck, match=r"\[1\]\.http\.path: must begin with /"):
        settle_all([check(tcp={}), check(http={"path": "x"})])
    with pytest.raises(BadCheck, match="at most 10"):
        settle_all([check(tcp={}, name=f"n{number}") for number in range(11)])
    big = {"custom": {"type": "x", "settings": {f"k{number}": "v" * 1000 for number in range(9)}}}
    with pytest.raises(BadCheck, match="at most 8192 bytes"):
        settle_all([check(**big)])


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("http", {"http": {"path": "/"}}),
        ("http:/healthz", {"http": {"path": "/healthz"}}),
        ("https:8443/a?b=c", {"http": {"tls": True, "port": 8443, "path": "/a?b=c"}}),
        ("tcp", {"tcp": {}}),
        ("tcp:9000", {"tcp": {"port": 9000}}),
        ("grpc", {"grpc": {}}),
        ("grpc:game.Logic", {"grpc": {"service": "game.Logic"}}),
        ("ttl", {"ttl": {}}),
        ("custom:redis,db=0", {"custom": {"type": "redis", "settings": {"db": "0"}}}),
        ("tcp interval=0.5 failures=2 name=x", {"tcp": {}, "interval": "0.5s", "failures": 2, "name": "x"}),
    ],
)
def test_in_short(text: str, fields: dict[str, Any]) -> None:
    assert parse(text) == check(**fields)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "htp:/x",
        "http:x",
        "tcp:x",
        "ttl:5",
        "custom:",
        "custom:a,b",
        "tcp interval=x",
        "tcp color=red",
        "tcp failures=1.5",
    ],
)
def test_what_is_no_check_in_short(text: str) -> None:
    with pytest.raises(BadText):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "http:/healthz",
        "https:8443/a?b=c interval=0.5 deregister_after=30 failures=2",
        "tcp:9000 timeout=0.25 name=x",
        "grpc",
        "grpc:game.Logic initial_delay=1 critical_after=60 successes=1",
        "ttl",
        "custom:redis,db=0,host=a",
    ],
)
def test_what_is_written_in_short_is_read_again(text: str) -> None:
    settle(asked := parse(text))
    assert written(asked) == text


@pytest.mark.parametrize(
    "fields",
    [
        {"http": {"headers": {"a": "b"}}},
        {"http": {"insecure": True, "tls": True}},
        {"http": {"method": "HEAD"}},
        {"grpc": {"tls": True}},
        {"custom": {"type": "redis", "settings": {"a": "b c"}}},
        {"custom": {"type": "redis", "settings": {"a": "b,c"}}},
    ],
)
def test_what_cannot_be_said_in_short_is_hinted_at(fields: dict[str, Any]) -> None:
    settle(asked := check(**fields))
    assert written(asked).endswith(" …")


@given(st.text())
def test_what_a_check_found_is_one_line(output: str) -> None:
    assert shown(output).isprintable()
    assert len(shown(output)) <= MAX_OUTPUT
