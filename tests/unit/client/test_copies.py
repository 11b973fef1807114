"""What goes from one registry to another: the plan, the loop guard, and lines of a file."""

import contextlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_api.limits import MAX_LABEL_BYTES
from registry_api.registry.v1 import registry_pb2 as pb
from registry_client import HealthCheck, Instance, Locality
from registry_client.check_rules import CheckRule
from registry_client.copies import (
    MARK,
    MAX_LINE,
    BadLine,
    Plan,
    bare,
    copies_of,
    copy_of,
    header_line,
    line_of,
    parse_line,
    plan,
    travels,
)
from registry_client.instance import Key

NOTHING = Plan((), (), (), {})


def instance(name: str = "a", port: int = 8001, **fields: object) -> Instance:
    return Instance("player", "10.0.0.5", port, name, "default", **fields)  # type: ignore[arg-type]


def by_key(*instances: Instance) -> dict[Key, Instance]:
    return {it.key: it for it in instances}


COPY = copy_of(instance(), "h1:7400")


# ---- the plan


def test_one_that_cannot_be_copied_keeps_nobody_else_out() -> None:
    """The mark of a copy does not fit beside what it says of itself."""
    full = instance("full", 8002, metadata={"k": "v" * (MAX_LABEL_BYTES - 1)})
    copies, without = copies_of(by_key(instance(), full), "h1:7400")
    assert copies == {COPY.key: COPY}
    assert list(without) == [full.key]
    assert without[full.key].startswith("of a copy, instance.metadata: ")


def test_a_copy_is_begun_changed_and_left() -> None:
    assert plan(by_key(COPY), {}, {}, set()) == replace(NOTHING, begin=(COPY,))
    assert plan(by_key(COPY), by_key(COPY), by_key(COPY), set()) == NOTHING
    heavier = replace(COPY, weight=7)
    assert plan(by_key(heavier), by_key(COPY), by_key(COPY), set()) == replace(NOTHING, change=(heavier,))
    assert plan({}, by_key(COPY), by_key(COPY), set()) == replace(NOTHING, leave=(COPY.key,))


@pytest.mark.parametrize("elsewhere", [{"port": 8002}, {"host": "10.0.0.6"}, {"locality": Locality("eu")}])
def test_who_moved_leaves_and_begins_anew(elsewhere: dict[str, object]) -> None:
    moved = replace(COPY, **elsewhere)  # type: ignore[arg-type]
    assert plan(by_key(moved), by_key(COPY), by_key(COPY), set()) == replace(NOTHING, leave=(COPY.key,))
    assert plan(by_key(moved), {}, {}, set()) == replace(NOTHING, begin=(moved,))


def test_nobody_loses_his_place() -> None:
    for there, why in (
        (instance(), "one of that name is registered there"),
        (copy_of(instance(), "h3:7400"), "one of that name is registered there"),
        (instance("b"), "default/player/b has its address there"),
    ):
        assert plan(by_key(COPY), {}, by_key(there), set()) == replace(NOTHING, kept_out={COPY.key: why})


def test_the_copies_of_one_that_is_gone_are_taken_over_once() -> None:
    assert plan(by_key(COPY), {}, by_key(COPY), set()).begin == (COPY,)
    assert plan(by_key(COPY), {}, by_key(COPY), {COPY.key}).kept_out == {COPY.key: "another one keeps it there"}
    assert plan(by_key(COPY), {}, {}, {COPY.key}).begin == (COPY,)


KEYS = st.lists(st.sampled_from("abcd"), unique=True)


@given(KEYS, KEYS, KEYS)
def test_what_is_done_brings_it_about(wanted: list[str], held: list[str], strangers: list[str]) -> None:
    """After it, and once more for those who moved, everything wanted is there, but for who is kept out."""
    want = by_key(*(copy_of(instance(name, 8001 + ord(name)), "h1") for name in wanted))
    have = by_key(*(copy_of(instance(name, 8002 + ord(name)), "h1") for name in held))
    kept_out = {key for key in want if key.id in strangers and key not in have}
    there = {**by_key(*(instance(name, 9000 + ord(name)) for name in strangers)), **have}
    for _ in range(2):
        todo = plan(want, have, there, set())
        for key in todo.leave:
            del have[key], there[key]
        for it in (*todo.begin, *todo.change):
            have[it.key] = there[it.key] = it
    assert set(have) == set(want) - kept_out
    last = plan(want, have, there, set())
    assert (last.begin, last.change, last.leave, set(last.kept_out)) == ((), (), (), kept_out)


# ---- the guard


def test_copies_and_what_neighbours_have_stay_where_they_are() -> None:
    assert travels(instance())
    assert not travels(COPY)
    assert not travels(instance(origin="consul"))
    assert COPY.metadata == {MARK: "h1:7400"}


def test_a_copy_has_the_health_that_was_found_and_no_checks() -> None:
    found = instance(checks=[HealthCheck.tcp()], health="UNHEALTHY", metadata={"map": "dust"}, generation=7)
    copy = copy_of(found, "h1")
    assert (copy.checks, copy.health, copy.generation) == ((), "UNHEALTHY", 0)
    assert copy.metadata == {"map": "dust", MARK: "h1"}


# ---- lines


@pytest.mark.parametrize(
    "it",
    [
        instance(),
        instance(
            weight=0,
            tags=["eu", "ü"],
            metadata={"a": "\n\u2028"},
            locality=Locality("eu", "1"),
            status="DRAINING",
            health="CRITICAL",
            version="",
        ),
        instance(checks=[HealthCheck.http("/healthz", failures=2), HealthCheck.tcp(9000)]),
    ],
)
def test_an_instance_as_a_line(it: Instance) -> None:
    line = line_of(replace(it, generation=7, revision=9, ttl_s=30.0))
    assert "\n" not in line
    assert parse_line(line.encode()) == replace(bare(it), ttl_s=30.0)


def test_checks_that_are_a_rules_are_not_its_own() -> None:
    line = line_of(instance(checks=[HealthCheck.tcp()], checks_by_rule=True))
    assert parse_line(line.encode()) == instance()


def test_a_rule_as_a_line() -> None:
    rule = CheckRule("*", "games", (HealthCheck.tcp(),), revision=7)
    read = parse_line(line_of(rule.to_proto()).encode())
    assert isinstance(read, pb.CheckRule)
    assert CheckRule.from_proto(read) == replace(rule, revision=0)


def test_what_says_nothing() -> None:
    assert parse_line(header_line("e1", 7).encode()) is None
    assert parse_line(b"") is None
    assert parse_line("\ufeff".encode() + header_line("e1", 7).encode()) is None


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "no JSON"),
        (b"\xff", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", "must be"),
        (b"7", "must be"),
        (b"{}", "must be"),
        (b'{"instance": {}, "checks": {}}', "must be"),
        (b'{"instances": []}', "'instances' is unknown"),
        (b'{"export": {"version": 2}}', "written for version 2"),
        (b'{"export": 7}', "written for version None"),
        (b'{"instance": 7}', ""),
        (b'{"instance": {"id": 7}}', ""),
        (b'{"instance": {"service": "player", "host": "h", "port": 1}}', "instance.id: must not be empty"),
        (b'{"instance": {"id": "a", "service": "a b", "host": "h", "port": 1}}', "instance.service"),
        (b'{"instance": {"id": "a", "service": "a", "host": "0.0.0.0", "port": 1}}', "instance.host"),
        (b'{"instance": {"id": "a", "service": "a", "host": "h", "port": 99999}}', "instance.port"),
        (b'{"instance": {"id": "a", "service": "a", "host": "h", "port": 1, "weight": 4000000000}}', "instance.weight"),
        (b'{"instance": {"id": "a", "service": "a", "host": "h", "port": 1, "checks": [{}]}}', "instance.checks"),
        (b'{"checks": {"checks": [{"tcp": {"port": 99999}}]}}', "port"),
        (b" " * (MAX_LINE + 1), "longer than"),
    ],
)
def test_lines_that_cannot_be_read(line: bytes, why: str) -> None:
    with pytest.raises(BadLine) as wrong:
        parse_line(line)
    assert why in str(wrong.value)
    assert len(str(wrong.value)) <= 600
    assert "\n" not in str(wrong.value)


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
).map(lambda it: json.dumps({"instance": it}).encode()))  # fmt: skip
def test_whatever_stands_there(line: bytes) -> None:
    """It is read, or it is a bad line, and nothing else is raised."""
    with contextlib.suppress(BadLine):
        parse_line(line)
