"""CORE: what goes from one registry to another, as lines of a file or as copies that are kept up.

A copy says in its metadata where it was copied from, and is never copied on: so no number of registries that are copied
to one another, in whatever circle, keeps alive what its owner has left.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from registry_api.limits import DEFAULT_NAMESPACE
from registry_api.registry.v1 import policies_pb2
from registry_api.registry.v1 import registry_pb2 as pb
from registry_client.errors import InvalidArgument
from registry_client.health import HealthCheck, check_all
from registry_client.instance import Instance, Key, check_registrable
from registry_client.policy import TrafficPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Set

MARK = "copied-from"
VERSION = 1
MAX_LINE = 1024 * 1024

Line: TypeAlias = Instance | pb.CheckRule | TrafficPolicy


def travels(instance: Instance) -> bool:
    """Whether it is registered where it is, and by its owner: it is no copy, and from no neighbour."""
    return not instance.origin and MARK not in instance.metadata


def bare(instance: Instance, **changed: object) -> Instance:
    """What its owner said of it, and nothing that the registry did. Raises InvalidArgument for what cannot be."""
    checks = () if instance.checks_by_rule else check_all("instance.checks", instance.checks)
    said = {
        "service": instance.service,
        "host": instance.host,
        "port": instance.port,
        "id": instance.id,
        "namespace": instance.namespace,
        "version": instance.version,
        "weight": instance.weight,
        "tags": instance.tags,
        "metadata": dict(instance.metadata),
        "locality": instance.locality,
        "status": instance.status,
        "health": "UNKNOWN" if checks else instance.health,
        "checks": checks,
    }
    return check_registrable(Instance(**{**said, **changed}))  # type: ignore[arg-type]  # by their names


def copy_of(instance: Instance, name: str) -> Instance:
    """What of an instance is registered elsewhere; `name` is where it comes from. Its health is what is found there."""
    return bare(instance, checks=(), health=instance.health, metadata={**instance.metadata, MARK: name})


def copies_of(there: Mapping[Key, Instance], name: str) -> tuple[dict[Key, Instance], dict[Key, str]]:
    """The copies of all that travels, and why of some there can be none: with the mark it has too much to say."""
    copies: dict[Key, Instance] = {}
    without: dict[Key, str] = {}
    for key, it in there.items():
        if travels(it):
            try:
                copies[key] = copy_of(it, name)
            except InvalidArgument as error:
                without[key] = f"of a copy, {error}"
    return copies, without


# ---- what is to be done


@dataclass(frozen=True, slots=True)
class Plan:
    """What brings a registry to what is wanted there: copies to begin and to change, names to leave, and why others
    are kept out."""

    begin: tuple[Instance, ...]
    change: tuple[Instance, ...]
    leave: tuple[Key, ...]
    kept_out: Mapping[Key, str]


def plan(
    wanted: Mapping[Key, Instance],
    held: Mapping[Key, Instance],
    there: Mapping[Key, Instance],
    yielded: Set[Key],
) -> Plan:
    """`held` are the copies that are kept up from here, as they were last told; `there` is all that the registry has.

    Nobody's place is taken but that of a copy from the same registry, whose keeper may be gone; and not of one that was
    `yielded` to another keeper.
    """
    begin: list[Instance] = []
    change: list[Instance] = []
    kept_out: dict[Key, str] = {}
    places = {_place(it): key for key, it in there.items()}
    leave = [key for key, it in held.items() if key not in wanted or _has_moved(it, wanted[key])]
    for key, copy in wanted.items():
        if key in leave:
            continue  # and begin it with the next plan
        if key in held:
            change += [copy] if copy != held[key] else []
        elif why := _in_the_way(copy, there, places, yielded):
            kept_out[key] = why
        else:
            begin.append(copy)
    return Plan(tuple(begin), tuple(change), tuple(leave), kept_out)


def _in_the_way(
    copy: Instance, there: Mapping[Key, Instance], places: Mapping[tuple[str, ...], Key], yielded: Set[Key]
) -> str:
    present = there.get(copy.key)
    if present is not None and present.metadata.get(MARK) != copy.metadata[MARK]:
        return "one of that name is registered there"
    if present is not None and copy.key in yielded:
        return "another one keeps it there"
    other = places.get(_place(copy), copy.key)
    return "" if other == copy.key else f"{other} has its address there"


def _place(it: Instance) -> tuple[str, ...]:
    return it.namespace, it.service, it.address


def _has_moved(before: Instance, now: Instance) -> bool:
    """Whether it is another one by what no update changes."""
    return (before.address, before.locality) != (now.address, now.locality)


# ---- as lines


class BadLine(ValueError):
    """A line that says nothing of a registry; the text says why."""


def header_line(epoch: str, revision: int) -> str:
    """The first line: which state it is."""
    return _line({"export": {"version": VERSION, "epoch": epoch, "revision": str(revision)}})


def line_of(it: Line) -> str:
    """One instance, one rule by service, or one policy, as JSON without a line break. Raises InvalidArgument."""
    if isinstance(it, TrafficPolicy):
        return _line({"policy": MessageToDict(it.to_proto())})
    if isinstance(it, pb.CheckRule):
        return _line({"checks": MessageToDict(pb.CheckRule(scope=it.scope, checks=it.checks))})
    message = bare(it).to_proto()
    if it.ttl_s is not None:
        message.ttl.FromNanoseconds(round(it.ttl_s * 1e9))
    return _line({"instance": MessageToDict(message)})


def _line(content: Mapping[str, object]) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def parse_line(raw: bytes) -> Line | None:
    """What a line stands for; None for the first one, and for an empty one. Raises BadLine."""
    if len(raw) > MAX_LINE:
        raise BadLine(f"longer than {MAX_LINE} bytes")
    try:
        content = json.loads(raw.decode("utf-8-sig") or "null")
    except (ValueError, RecursionError) as error:
        raise BadLine(f"no JSON: {error}") from None
    if content is None:
        return None
    if not isinstance(content, dict) or len(content) != 1:
        raise BadLine('must be {"instance": …}, {"checks": …} or {"policy": …}')
    [(kind, said)] = content.items()
    if kind == "export":
        _check_version(said)
        return None
    if kind not in _KINDS:
        raise BadLine(f"{kind[:100]!a} is unknown: must be {', '.join(_KINDS)}")
    try:
        return _KINDS[kind](said)
    except (ParseError, InvalidArgument, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BadLine(" ".join(str(error).split())[:500]) from None


def _check_version(said: object) -> None:
    version = said.get("version") if isinstance(said, dict) else None
    if version != VERSION:
        raise BadLine(f"written for version {version!a:.20} of this file; this one reads {VERSION}")


def _instance(said: object) -> Instance:
    message = ParseDict(said, pb.Instance(), ignore_unknown_fields=True)  # type: ignore[arg-type]  # it looks
    read = Instance.from_proto(message)
    if not read.id:
        raise BadLine("instance.id: must not be empty, or it would be another one each time")
    return bare(read, ttl_s=read.ttl_s)


def _rule(said: object) -> pb.CheckRule:
    rule = ParseDict(said, pb.CheckRule(), ignore_unknown_fields=True)  # type: ignore[arg-type]  # it looks
    check_all("checks", tuple(map(HealthCheck.from_proto, rule.checks)))
    return rule


def _policy(said: object) -> TrafficPolicy:
    message = ParseDict(said, policies_pb2.Policy(), ignore_unknown_fields=True)  # type: ignore[arg-type]  # it looks
    read = TrafficPolicy.from_proto(message)
    policy = replace(read, namespace=read.namespace or DEFAULT_NAMESPACE)
    policy.to_proto()  # raises what is wrong
    return policy


_KINDS: Mapping[str, Callable[[object], Line]] = {"instance": _instance, "checks": _rule, "policy": _policy}
