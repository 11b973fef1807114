"""CORE: the policies, one file each, and how a name becomes one.

`policy("least_connections?choices=full")` is the policy of that name with these options; names of a user's own
policies come from the entry point group `grpc_registry.policies`, each a callable that takes the options as keywords
and returns a `Policy`.
"""

from __future__ import annotations

from functools import partial
from inspect import Parameter, signature
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from balancer.policies.consistent_hash import ConsistentHash
from balancer.policies.function import Choice, FromFunction
from balancer.policies.ip_hash import IpHash
from balancer.policies.least_connections import LeastConnections
from balancer.policies.locality import locality_aware
from balancer.policies.pick_first import PickFirst
from balancer.policies.random_choice import RandomChoice
from balancer.policies.response_time import ResponseTime
from balancer.policies.round_robin import RoundRobin
from balancer.policies.weighted_random import WeightedRandom
from balancer.policies.weighted_round_robin import WeightedRoundRobin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from importlib.metadata import EntryPoints

    from balancer.policies.base import Policy

Factory: TypeAlias = "Callable[..., Policy]"
AnyPolicy: TypeAlias = "str | Policy | Choice"
"""What stands for a policy: a name with options, an object, or a function."""

ENTRY_POINTS = "grpc_registry.policies"


def names() -> list[str]:
    """All names that `policy` takes, the built-in ones first."""
    return [*BUILT_IN, *sorted(_of_users().names - BUILT_IN.keys())]


def policy(spec: AnyPolicy, options: Mapping[str, Any] | None = None) -> Policy:
    """The policy that `spec` names, as `name` or `name?option=value&…`, or `spec` itself if it is one. A plain function
    of the endpoints and the key of a call, which gives one of the endpoints, is one too.

    `options` are added to those in the spec. Raises ValueError for an unknown name, with all the known ones, and for an
    option that the policy does not have or whose value makes no sense; TypeError for what is neither name nor policy.
    """
    if not isinstance(spec, str):
        if isinstance(spec, type):
            raise TypeError(f"not a policy: {spec!r}")
        if callable(getattr(spec, "chooser", None)):
            return cast("Policy", spec)
        if callable(spec):
            return FromFunction(spec)
        raise TypeError(f"not a policy: {spec!r}")
    name, _, query = spec.partition("?")
    keywords = {**_parsed(query), **(options or {})}
    factory = _factory(name)
    _check_options(name, factory, keywords)
    try:
        return factory(**keywords)
    except (TypeError, ValueError) as error:
        raise ValueError(f"policy {name}: {error}") from error


def _factory(name: str) -> Factory:
    built_in = BUILT_IN.get(name)
    if built_in is not None:
        return built_in
    for entry in _of_users().select(name=name):
        return cast("Factory", entry.load())
    raise ValueError(f"unknown policy {name!r}; known are {', '.join(names())}")


def _of_users() -> EntryPoints:
    from importlib.metadata import entry_points  # takes longer than all the rest of the balancer

    return entry_points(group=ENTRY_POINTS)


def _check_options(name: str, factory: Factory, given: Iterable[str]) -> None:
    try:
        parameters = signature(factory).parameters.values()
    except ValueError:  # written in C: it says itself what it does not know
        return
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters):
        return
    bound = factory.keywords if isinstance(factory, partial) else {}
    known = [parameter.name for parameter in parameters if parameter.name not in bound]
    for option in given:
        if option not in known:
            raise ValueError(f"policy {name}: unknown option {option!r}; known are {', '.join(known) or 'none'}")


def _parsed(query: str) -> dict[str, str | bool]:
    """`a=1&b` is {a: "1", b: True}; true and false are booleans."""
    pairs = (part.partition("=") for part in query.split("&") if part)
    return {key: _value(value) if equals else True for key, equals, value in pairs}


def _value(text: str) -> str | bool:
    return text == "true" if text in ("true", "false") else text


BUILT_IN: Mapping[str, Factory] = MappingProxyType(
    {
        "pick_first": PickFirst,
        "round_robin": RoundRobin,
        "random": RandomChoice,
        "weighted_round_robin": WeightedRoundRobin,
        "weighted_random": WeightedRandom,
        "least_connections": LeastConnections,
        "consistent_hash": ConsistentHash,
        "ip_hash": IpHash,
        "response_time": ResponseTime,
        "locality_aware": partial(locality_aware, make=policy),
    }
)
