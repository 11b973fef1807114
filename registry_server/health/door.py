"""CORE: which checks a server takes from those who register, and which it gives to those who bring none."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from registry_api.registry.v1 import registry_pb2 as pb
from registry_checks.rules import BadCheck, settle_all
from registry_server.errors import InvalidField

FIELD = "instance.checks"
EVERY = "*"


@dataclass(frozen=True, slots=True)
class Door:
    """`refuses` says why a host may not be looked at. `custom` are the kinds that were added to this server. `rules`
    are checks by service, settled already: of `namespace/service`, of `service` in every namespace, or of `*`."""

    runs: bool
    refuses: Callable[[str], str] = lambda host: ""
    custom: Collection[str] = ()
    rules: Mapping[str, Sequence[pb.HealthCheck]] = field(default_factory=dict)

    def check(self, it: pb.Instance) -> None:
        """Settle the checks of an instance that is otherwise good; give it those of its service if it has none."""
        if it.checks:
            self._settle(it)
        elif self.rules and not self.refuses(it.host):
            it.checks.extend(self._rule(it))

    def _settle(self, it: pb.Instance) -> None:
        if not self.runs:
            raise InvalidField(FIELD, "must be empty: this server runs no checks")
        try:
            settle_all(it.checks, self.custom)
        except BadCheck as wrong:
            raise InvalidField(FIELD + wrong.field, wrong.reason) from None
        looks = any(check.WhichOneof("kind") not in ("ttl", "custom") for check in it.checks)
        if looks and (reason := self.refuses(it.host)):
            raise InvalidField(FIELD, reason)

    def _rule(self, it: pb.Instance) -> Sequence[pb.HealthCheck]:
        names = (f"{it.namespace}/{it.service}", it.service, EVERY)
        return next((self.rules[name] for name in names if name in self.rules), ())


NO_CHECKS = Door(runs=False)
