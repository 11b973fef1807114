"""CORE: what may stand in a request. Each check names the field it finds wrong, and returns what is asked for as a
value of its own: a request is never changed."""

from collections.abc import Callable, Iterable
from typing import Protocol

from registry_api.limits import (
    DEFAULT_PAGE,
    DEFAULT_TTL_S,
    MAX_DRAIN_S,
    MAX_NAME,
    MAX_PAGE,
    MAX_SERVICES,
    MAX_TTL_S,
    MIN_TTL_S,
)
from registry_api.registry.v1 import registry_pb2 as pb
from registry_api.registry.v1.policies_pb2 import PoliciesWatchRequest
from registry_server import fields
from registry_server.errors import InvalidField
from registry_server.records import Key
from registry_server.rules import UPDATABLE


class Spaced(Protocol):
    """A question about a namespace, or about all."""

    namespace: str
    all_namespaces: bool


_STATUSES = frozenset(pb.Status.values())
_HEALTHS = frozenset(pb.Health.values())


def key(field: str, value: pb.InstanceKey) -> Key:
    """The name of one instance, in full."""
    return Key(
        fields.namespace(f"{field}.namespace", value.namespace),
        fields.name(f"{field}.service", value.service),
        fields.name(f"{field}.id", value.id),
    )


def new_instance(asked: pb.Instance, make_id: Callable[[], str]) -> pb.Instance:
    """An instance to be registered, with its defaults filled in; `make_id` makes its id if it has none."""
    it = _own(asked)
    it.namespace = fields.namespace("instance.namespace", it.namespace)
    fields.name("instance.service", it.service)
    it.id = fields.name("instance.id", it.id or make_id())
    it.host = fields.callable_host("instance.host", it.host)
    fields.port("instance.port", it.port)
    fields.generation("instance.generation", it.generation)
    if it.generation and it.HasField("registered_at"):
        fields.timestamp("instance.registered_at", it.registered_at)
    for name in ("revision", "create_revision", "leaves_at", "check_results", "origin", "registered_by"):
        it.ClearField(name)
    it.changed_by = it.changed_from = ""
    fields.settle(it)
    return it


def changed_instance(asked: pb.Instance, paths: Iterable[str]) -> tuple[pb.Instance, tuple[str, ...]]:
    """An instance to be updated, with its defaults filled in, and the names of the fields, each once."""
    named = tuple(dict.fromkeys(paths))
    if not named:
        raise InvalidField("update_mask", f"must name one or more of {', '.join(UPDATABLE)}")
    for path in named:
        if path not in UPDATABLE:
            raise InvalidField("update_mask", f"{path[:MAX_NAME]!r} cannot be updated; only {', '.join(UPDATABLE)} can")
    it = _own(asked)
    it.namespace = fields.namespace("instance.namespace", it.namespace)
    fields.name("instance.service", it.service)
    fields.name("instance.id", it.id)
    fields.settle(it)
    return it, named


def namespace(it: Spaced) -> str:
    """The namespace that is asked about, empty for all of them."""
    if not it.all_namespaces:
        return fields.namespace("namespace", it.namespace)
    if it.namespace:
        raise InvalidField("namespace", "must be empty when all_namespaces is set")
    return ""


def services(it: pb.WatchRequest | PoliciesWatchRequest) -> None:
    """How many services are asked about."""
    if len(it.services) > MAX_SERVICES:
        raise InvalidField("services", f"must be at most {MAX_SERVICES}, are {len(it.services)}")


def filter_(it: pb.Filter) -> None:
    """The conditions of a question."""
    for status in it.statuses:
        if status not in _STATUSES:
            raise InvalidField("filter.statuses", f"has no value {status}")
    for health in it.healths:
        if health not in _HEALTHS:
            raise InvalidField("filter.healths", f"has no value {health}")


def ttl_s(it: pb.RegisterRequest, default: float = DEFAULT_TTL_S) -> float:
    """The time to live asked for, in seconds, or the default."""
    return fields.duration_s("ttl", it.ttl, MIN_TTL_S, MAX_TTL_S) if it.HasField("ttl") else default


def drain_s(it: pb.DeregisterRequest) -> float:
    """How long to drain, in seconds."""
    return fields.duration_s("drain", it.drain, 0, MAX_DRAIN_S)


def lease_id(field: str, value: str) -> str:
    """The name of a lease, as a server made it."""
    return fields.name(field, value)


def page_size(value: int) -> int:
    """How much a page holds."""
    if not 0 <= value <= MAX_PAGE:
        raise InvalidField("page_size", f"must be 0 to {MAX_PAGE}, is {value}")
    return value or DEFAULT_PAGE


def _own(asked: pb.Instance) -> pb.Instance:
    """A copy without fields that are not known here: they could be of any size, and nobody has looked at them."""
    it = pb.Instance()
    it.CopyFrom(asked)
    it.DiscardUnknownFields()
    return it
