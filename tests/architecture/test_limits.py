"""registry.proto is the reference manual: its comments say the numbers that both sides go by. docs/limits.md says those
that a server may be told."""

import re
from dataclasses import fields

import pytest

from registry_api import limits
from registry_server.rpc.checks import MAX_RULES
from registry_server.rpc.policies import MAX_POLICIES
from registry_server.transport.limits import Limits
from registry_server.xds.session import MAX_NAMES, MAX_UNKNOWN
from tests.support.source import ROOT

MANUAL = " ".join(re.findall(r"//\s*(.*)", (ROOT / "protos/registry/v1/registry.proto").read_text()))


def hours(seconds: float) -> str:
    return f"{seconds / 3600:g} h"


@pytest.mark.parametrize(
    "says",
    [
        f"1 to {limits.MAX_NAME} characters, letters, digits and any of `_ . : @ ~ + -`",
        f"Default `{limits.DEFAULT_VERSION}`; at most {limits.MAX_NAME} characters",
        f"Default {limits.DEFAULT_WEIGHT}, at most {limits.MAX_WEIGHT:,}",
        f"Tags and metadata together are at most {limits.MAX_LABEL_BYTES // 1024} KiB",
        f"{limits.MIN_TTL_S:g} s to {hours(limits.MAX_TTL_S)}, default {limits.DEFAULT_TTL_S:g} s",
        f"stay DRAINING that long, at most {hours(limits.MAX_DRAIN_S)}",
        f"At most {limits.MAX_LEASE_IDS:,} a message",
        f"At most this many instances in the answer: 1 to {limits.MAX_PAGE:,}, 0 means {limits.DEFAULT_PAGE:,}",
        f"At most {limits.MAX_SERVICES:,}; none means every service",
    ],
)
def test_the_manual_says_it(says: str) -> None:
    assert says in MANUAL


def test_a_name_is_what_the_rule_says() -> None:
    assert limits.NAME.fullmatch("x" * limits.MAX_NAME)
    assert not limits.NAME.fullmatch("x" * (limits.MAX_NAME + 1))
    assert str(limits.MAX_NAME) in limits.NAME_RULE
    assert [it for it in map(chr, range(0x250)) if limits.NAME.fullmatch(f"a{it}") and not it.isalnum()] == sorted(
        limits.NAME_RULE.partition("any of ")[2].partition(",")[0].split()
    )


ROWS = [line for line in (ROOT / "docs/limits.md").read_text().splitlines() if line.startswith("| `max_")]


def as_written(number: int) -> str:
    for size, unit in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if number >= size and number % size == 0:
            return f"{number // size} {unit}"
    return f"{number:,}"


def test_what_cannot_be_set_is_documented_too() -> None:
    text = " ".join((ROOT / "docs/limits.md").read_text().split())
    assert f"{MAX_POLICIES:,} policies and {MAX_RULES:,} rules of health checks" in text
    assert f"may want {MAX_NAMES:,} names, {MAX_UNKNOWN:,} of them of services that nobody registered" in text


def test_every_limit_is_documented_with_its_default() -> None:
    """But for times, and for what only guards the machinery of HTTP/2."""
    documented: dict[str, str] = {}
    for row in ROWS:
        names, defaults = row.split("|")[1:3]
        documented |= dict(zip(re.findall(r"`(\w+)`", names), defaults.strip().split(", "), strict=True))
    text = (ROOT / "docs/limits.md").read_text()
    known = {it.name: as_written(it.default) for it in fields(Limits)}  # type: ignore[arg-type]
    assert documented == {name: known[name] for name in documented}
    missing = {name for name in known if f"`{name}`" not in text}
    assert missing == {
        "max_resets",
        "max_resets_per_s",
        "max_idle_frames",
        "max_begun",
        "keepalive_timeout_s",
        "leaving_s",
    }
