"""CORE: what speaks for an instance and what against it, in the order in which it decides."""

from collections.abc import Callable, Iterator, Sequence
from math import inf
from types import MappingProxyType
from typing import NamedTuple

from registry_api.registry.v1 import policies_pb2, why_pb2
from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.model import Entry, Query
from registry_server.policies import explain
from registry_server.records import Author, Cause
from registry_server.why.past import LastLeft, Turned
from registry_server.why.sharing import SHARELESS, UNFITTING, WELL, Shares
from registry_server.why.words import clock, count, line, since, span

PASSES, STOPS, WARNS = why_pb2.Reason.PASSES, why_pb2.Reason.STOPS, why_pb2.Reason.WARNS
# A lease of which less than this part is left was not renewed when it should have been: owners do so every third.
LATE_PART = 0.4
_FOLLOWS = policies_pb2.Verdict
_Balancing = policies_pb2.Policy
# What the history says first of one that expired, and what is said here.
_EXPIRED = "its lease ran out: "
_HOW = MappingProxyType(
    {
        None: "left, and why is not known",
        Cause.EXPIRED: "left because its lease ran out",
        Cause.DEREGISTERED: "was deregistered",
        Cause.REPLACED: "was replaced by another instance at its address",
        Cause.DRAINED: "left when it had drained",
        Cause.UNHEALTHY: "was removed because its checks failed for too long",
    }
)


class Holding(NamedTuple):
    """What is known of a lease: how much of it is left, in seconds (None: no renewal came to this server), and how long
    the instances that it held are still shown though the store has them no more (None: it has them)."""

    left_s: float | None = None
    shown_for_s: float | None = None


class Circumstances(NamedTuple):
    """All that decides about the instances of a service beside themselves.

    `now_s`: seconds since 1970. `stale_for_s`: since when the store has not confirmed what is told. `flaw`: why the
    policy of the service is not followed. `unreachable`: why xDS clients cannot be told of a host; empty if they can.
    """

    now_s: float
    stale_for_s: float | None
    shares: Shares
    flaw: str
    holding: Callable[[Entry], Holding]
    unreachable: Callable[[str], str]


Reasons = Iterator[why_pb2.Reason]


def _never(_: str) -> None:
    return None


def of_instance(
    it: pb.Instance, entry: Entry, by: Circumstances, turned: Callable[[str], Turned | None] = _never
) -> list[why_pb2.Reason]:
    """All of them. `it` is the entry, parsed; `turned` says when a field of it became what it is, and by whom."""
    holding = by.holding(entry)
    return [
        *of_store(by.stale_for_s),
        _registered(it, by.now_s),
        _lease(it, entry, holding, by),
        _status(it, by.now_s, turned("status")),
        *_health(it, by.now_s),
        _weight(it, by.now_s, turned("weight")),
        _guard(holding),
        *_filter(entry, by.shares.query),
        *_policy(entry, by),
        *_xds(by.unreachable(entry.address[0])),
    ]


def verdict(found: Sequence[why_pb2.Reason]) -> str:
    """What decides about an instance, without its name: the first of its reasons that keeps traffic away."""
    stop = next((reason.text for reason in found if reason.effect == STOPS), "")
    return f"gets none because {stop}" if stop else "gets traffic"


def of_service(by: Circumstances) -> list[why_pb2.Reason]:
    """What is to be said of a service that has instances."""
    lacks, total = by.shares.lacks(), by.shares.total
    taking = lacks.pop("", 0)
    told = ", ".join(f"{number} {lack}" for lack, number in lacks.items())
    verb = "takes" if total == 1 else "take"
    text = f"{taking} of {count(total, 'instance')} {verb} calls" + (f"; {told}" if told else "")
    effect = STOPS if not taking else WARNS if lacks else PASSES
    return [*of_store(by.stale_for_s), _reason("registered", effect, text), *_balancing(by)]


def service_verdict(by: Circumstances) -> str:
    """What decides about a service that has instances, without its name."""
    lacks, total = by.shares.lacks(), by.shares.total
    taking = lacks.pop("", 0)
    told = ", ".join(f"{number} {lack}" for lack, number in lacks.items())
    if not taking and total == 1:
        return f"gets none because its one instance takes no calls: it is {next(iter(lacks))}"
    if not taking:
        return f"gets none because none of its {count(total, 'instance')} takes calls: {told}"
    if taking == total:
        return f"gets traffic: {'its one instance takes' if total == 1 else f'all {total} instances take'} calls"
    return f"gets traffic: {taking} of {total} instances take calls; {told}"


def of_clients(clients: int, behind: int, trouble: int) -> why_pb2.Reason:
    """How many clients are told."""
    if not clients:
        return _reason("clients", WARNS, "no client of this server asks for the service just now")
    text = f"{count(clients, 'client')} of this server {'is' if clients == 1 else 'are'} told of the service"
    parts = [
        f"{number} {what}" for number, what in ((behind, "not of its present state"), (trouble, "in trouble")) if number
    ]
    return _reason("clients", WARNS if parts else PASSES, f"{text}; {', '.join(parts)}" if parts else text)


def how_it_left(it: LastLeft) -> str:
    """After "it": `was deregistered by ops at 2026-11-26T04:50:07Z`."""
    when = "" if it.at_s is None else f" at {clock(it.at_s)}" + (" or before" if it.late else "")
    more = it.detail.removeprefix(_EXPIRED)
    return line(f"{_HOW[it.cause]}{_author(it.by)}{when}" + (f" ({more})" if more else ""))


def _author(by: Author) -> str:
    """After a verb: who it was, as far as that is known."""
    return (f" by {by.identity}" if by.identity else "") + (f" from {by.peer}" if by.peer else "")


# ---- one after the other


def _reason(about: str, effect: "why_pb2.Reason.Effect.ValueType", text: str) -> why_pb2.Reason:
    return why_pb2.Reason(about=about, effect=effect, text=line(text))


def of_store(stale_for_s: float | None) -> Reasons:
    """Whether what is told has been confirmed."""
    if stale_for_s is not None:
        text = f"the store has confirmed nothing for {span(stale_for_s)}: what is told is what was known then"
        yield _reason("store", WARNS, text)


def _registered(it: pb.Instance, now_s: float) -> why_pb2.Reason:
    by = f" by {it.registered_by}" if it.registered_by else ""
    when = f" since {since(it.registered_at, now_s)}" if it.HasField("registered_at") else ""
    whence = f", taken from {it.origin}" if it.origin else ""
    at = f"at {_address(it)}, generation {it.generation}, revision {it.revision}"
    return _reason("registered", PASSES, f"it is registered{by}{when}{whence}, {at}")


def _address(it: pb.Instance) -> str:
    return f"[{it.host}]:{it.port}" if ":" in it.host else f"{it.host}:{it.port}"


def _lease(it: pb.Instance, entry: Entry, holding: Holding, by: Circumstances) -> why_pb2.Reason:
    ttl_s = entry.traits.ttl_s
    if it.HasField("leaves_at"):
        return _reason("lease", PASSES, "it is deregistered and leaves by itself: nothing is renewed")
    if not entry.lease_id:
        return _reason("lease", WARNS, "it has no lease: somebody wrote it into the store by hand")
    if holding.shown_for_s is not None:
        return _reason("lease", WARNS, "its lease ran out while the store was ill")
    if holding.left_s is None:
        young_s = by.now_s - it.registered_at.seconds - it.registered_at.nanos / 1e9
        if 0 <= young_s < ttl_s:
            return _reason("lease", PASSES, f"it lives for {ttl_s:g} s; no renewal came to this server yet")
        return _reason("lease", PASSES, f"it lives for {ttl_s:g} s; its renewals do not come to this server")
    renewed = f"it lives for {ttl_s:g} s, renewed {span(ttl_s - holding.left_s)} ago"
    if holding.left_s <= 0:
        return _reason("lease", WARNS, f"{renewed} by this server: since then on another one, or it is about to end")
    is_late = holding.left_s < ttl_s * LATE_PART
    return _reason("lease", WARNS if is_late else PASSES, f"{renewed}, {span(holding.left_s)} left")


def _turned(turn: Turned | None, now_s: float) -> str:
    return "" if turn is None else f", set{_author(turn.by)} at {clock(turn.at_s)} ({span(now_s - turn.at_s)} ago)"


def _status(it: pb.Instance, now_s: float, turn: Turned | None) -> why_pb2.Reason:
    text = f"its status is {pb.Status.Name(it.status)}{_turned(turn, now_s)}"
    if it.HasField("leaves_at"):
        left_s = it.leaves_at.seconds + it.leaves_at.nanos / 1e9 - now_s
        text += f": it is deregistered, and leaves in {span(left_s)}"
    return _reason("status", PASSES if it.status == pb.ACTIVE else STOPS, text)


def _health(it: pb.Instance, now_s: float) -> Reasons:
    effect = PASSES if it.health in WELL else STOPS
    failing = [_found(result, now_s) for result in it.check_results if result.health not in WELL]
    text = f"its health is {pb.Health.Name(it.health)}"
    if failing:
        text += f": {'; '.join(failing)}"
    elif effect is STOPS:
        text += ", as its owner or an operator says" if not it.checks else ", as it was before its checks looked"
    elif it.health == pb.UNKNOWN:
        text += f", which counts as well: {'no check has looked yet' if it.checks else 'it has no checks'}"
    yield _reason("health", effect, text)


def _found(result: pb.CheckResult, now_s: float) -> str:
    """What a check that fails has found."""
    often = f", {result.failures} times in a row" if result.failures > 1 else ""
    when = f" since {since(result.checked_at, now_s)}" if result.HasField("checked_at") else ""
    said = f": {result.output}" if result.output else ""
    return f"its check {result.name} fails{when}{often}{said}"


def _weight(it: pb.Instance, now_s: float, turn: Turned | None) -> why_pb2.Reason:
    return _reason("weight", PASSES if it.weight else STOPS, f"its weight is {it.weight}{_turned(turn, now_s)}")


def _guard(holding: Holding) -> why_pb2.Reason:
    if holding.shown_for_s is None:
        return _reason("guard", PASSES, "the store has it")
    until = "until that is back" if holding.shown_for_s == inf else f"for {span(holding.shown_for_s)} more"
    text = f"the store has it no more; it is shown {until}, as its owner may be there"
    return _reason("guard", WARNS, text)


def _filter(entry: Entry, query: Query) -> Reasons:
    if query.takes_all:
        return
    lacks = list(_mismatches(entry, query))
    if lacks:
        yield _reason("filter", STOPS, f"the filter leaves it out: {'; '.join(lacks)}")
    else:
        yield _reason("filter", PASSES, "the filter means it")


def _mismatches(entry: Entry, query: Query) -> Iterator[str]:
    it = entry.traits
    if lack := query.tags - it.tags:
        yield f"it lacks {', '.join(f'the tag {tag}' for tag in sorted(lack))}"
    if odd := query.metadata - entry.metadata:
        yield f"its metadata has not {', '.join(f'{key}={value}' for key, value in sorted(odd))}"
    if query.version and it.version != query.version:
        yield f"its version is {it.version}, and not {query.version}"
    if query.statuses and it.status not in query.statuses:
        yield f"its status is {pb.Status.Name(it.status)}"  # type: ignore[arg-type]
    if query.healths and it.health not in query.healths:
        yield f"its health is {pb.Health.Name(it.health)}"  # type: ignore[arg-type]
    if any(asked and asked != is_ for asked, is_ in zip(query.locality, it.locality, strict=True)):
        yield f"it is in {'/'.join(it.locality).strip('/') or 'no place that is known'}"
    if query.routable_only and not entry.routable:
        yield "it is not routable"


def _policy(entry: Entry, by: Circumstances) -> Reasons:
    yield from _balancing(by)
    policy = by.shares.policy
    if policy is None or not policy.split:
        return
    lack, part = by.shares.lack_of(entry), by.shares.part_of(entry)
    others = [it.client for it in explain.of(policy) if any(_is_unsplit(verdict) for verdict in it.verdicts)]
    more = f"; not for {', '.join(others)} clients, which know no split" if others else ""
    if part is not None:
        name, share, total = part
        effect = STOPS if lack == SHARELESS or not share else PASSES
        yield _reason("policy", effect, f"its part of the split, {name}, has {share} of {total} shares{more}")
    elif lack == UNFITTING:
        yield _reason("policy", STOPS, f"no part of the split fits it: its version is {entry.traits.version}{more}")
    else:
        yield _reason("policy", PASSES, "no part of the split has both a share and somebody to take it: all are one")


def _is_unsplit(it: policies_pb2.Verdict) -> bool:
    return it.field == "split" and it.follows == _FOLLOWS.NOT


def _balancing(by: Circumstances) -> Reasons:
    """What the policy says of all instances alike."""
    policy = by.shares.policy
    if by.flaw:
        yield _reason("policy", WARNS, f"its traffic policy is not followed: {by.flaw}")
    elif policy is None:
        yield _reason("policy", PASSES, "it has no traffic policy: calls go in turn, by weight")
    elif policy.balancing == _Balancing.PICK_FIRST:
        yield _reason("policy", WARNS, "its traffic policy is PICK_FIRST: each client calls one instance alone")
    else:
        name = _Balancing.Balancing.Name(policy.balancing or _Balancing.ROUND_ROBIN)
        ejects = "; clients leave out for a while what fails them" if policy.HasField("outlier_detection") else ""
        yield _reason("policy", PASSES, f"its traffic policy is {name}{ejects}")


def _xds(unreachable: str) -> Reasons:
    if unreachable:
        yield _reason("xds", WARNS, f"xDS clients are not told of it: {unreachable}")
