"""CORE: the rules by service: which checks instances get that bring none, as an operator says or the configuration."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from google.protobuf.message import DecodeError

from registry_api.limits import NAME
from registry_api.registry.v1 import registry_pb2 as pb
from registry_checks.rules import MAX_BYTES, BadCheck, settle_all
from registry_server.errors import InvalidField
from registry_server.records import Key, Kind, Record
from registry_server.settings import SettingChange

EVERY = "*"
# The last part of the name of every rule: there is one for each scope.
ID = "rule"
# What a record holds: the checks, and no more than that.
_MOST_BYTES = 2 * MAX_BYTES


class Rule(NamedTuple):
    """The checks of a rule, settled; or why the record of it is none."""

    checks: tuple[pb.HealthCheck, ...] = ()
    flaw: str = ""


def key_of(namespace: str, service: str) -> Key:
    """Where the rule of a scope is; an empty name is every one."""
    return Key(namespace, service, ID, Kind.CHECKS)


def settled(checks: Iterable[pb.HealthCheck], custom: Collection[str] | None, field: str) -> tuple[pb.HealthCheck, ...]:
    """The checks of a rule, with their defaults filled in. `custom` as in `settle_all`. Raises InvalidField."""
    found = pb.Instance(checks=checks)
    found.DiscardUnknownFields()
    try:
        settle_all(found.checks, custom)
    except BadCheck as wrong:
        raise InvalidField(field + wrong.field, wrong.reason) from None
    return tuple(found.checks)


def value_of(checks: Iterable[pb.HealthCheck]) -> bytes:
    """A rule as it is kept."""
    return pb.CheckRule(checks=checks).SerializeToString()


def read(record: Record) -> Rule:
    """The rule in a record, whatever anybody wrote there."""
    try:
        if not is_name(record.key):
            return Rule(flaw="its key is not that of a rule")
        if len(record.value) > _MOST_BYTES:
            return Rule(flaw=f"its value has {len(record.value)} bytes, a rule has at most {_MOST_BYTES}")
        return Rule(settled(pb.CheckRule.FromString(record.value).checks, None, "checks"))
    except DecodeError:
        return Rule(flaw="its value is not an encoded registry.v1.CheckRule")
    except InvalidField as wrong:
        return Rule(flaw=str(wrong))


def is_name(key: Key) -> bool:
    """Whether that is where the rule of some scope is."""
    return key == key_of(key.namespace, key.service) and all(NAME.fullmatch(name) for name in key[:2] if name)


class Book:
    """All rules. `configured` are those of the configuration, settled, of `namespace/service`, of `service` in every
    namespace, or of `*`: they hold where no operator said anything."""

    def __init__(self, configured: Mapping[str, Sequence[pb.HealthCheck]] | None = None) -> None:
        self._configured = configured or {}
        self._rules: dict[Key, Rule] = {}

    def __bool__(self) -> bool:
        """Whether there is any rule."""
        return bool(self._rules or self._configured)

    def take(self, change: SettingChange) -> str:
        """Take in what changed. Why the record is skipped; empty if it is good, or gone."""
        if change.after is None:
            self._rules.pop(change.key, None)
            return ""
        rule = read(change.after)
        if rule.flaw:
            self._rules.pop(change.key, None)
        else:
            self._rules[change.key] = rule
        return rule.flaw

    def of(self, namespace: str, service: str) -> Sequence[pb.HealthCheck]:
        """The checks of an instance that brings none; empty for none."""
        if self._rules:
            for key in _nearest(namespace, service):
                if (rule := self._rules.get(key)) is not None:
                    return rule.checks
        if self._configured:
            for name in (f"{namespace}/{service}", service, EVERY):
                if name in self._configured:
                    return self._configured[name]
        return ()


def _nearest(namespace: str, service: str) -> Iterator[Key]:
    return (key_of(*names) for names in ((namespace, service), (namespace, ""), ("", service), ("", "")))
