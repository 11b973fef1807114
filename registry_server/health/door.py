"""CORE: which checks a server takes from those who register, and which it gives to those who bring none."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from registry_api.registry.v1 import registry_pb2 as pb
from registry_checks.rules import BadCheck, settle_all
from registry_server.errors import InvalidField
from registry_server.health.book import Book

FIELD = "instance.checks"
NOT_RUN = "must be empty: this server runs no checks"


@dataclass(frozen=True, slots=True)
class Door:
    """`refuses` says why a host may not be looked at. `custom` are the kinds that were added to this server, `book` has
    the checks of those who bring none."""

    runs: bool
    refuses: Callable[[str], str] = lambda host: ""
    custom: Collection[str] = ()
    book: Book = field(default_factory=Book)

    def check(self, it: pb.Instance) -> None:
        """Settle the checks of an instance that is otherwise good; give it those of its service if it brings none."""
        if it.checks and not it.checks_by_rule:
            self._settle(it)
        elif it.checks_by_rule or (self.runs and self.book):
            self._give(it)

    def ruled(self, namespace: str, service: str, host: str) -> Sequence[pb.HealthCheck]:
        """The checks of an instance that brings none."""
        found = self.book.of(namespace, service) if self.runs else ()
        return () if found and self.refuses(host) else found

    def _give(self, it: pb.Instance) -> None:
        checks = self.ruled(it.namespace, it.service, it.host)
        if it.checks and not checks:
            it.health = pb.UNKNOWN  # what it was is what checks found, and there are none any more
        del it.checks[:]
        it.checks.extend(checks)
        it.checks_by_rule = bool(checks)

    def _settle(self, it: pb.Instance) -> None:
        if not self.runs:
            raise InvalidField(FIELD, NOT_RUN)
        try:
            settle_all(it.checks, self.custom)
        except BadCheck as wrong:
            raise InvalidField(FIELD + wrong.field, wrong.reason) from None
        looks = any(check.WhichOneof("kind") not in ("ttl", "custom") for check in it.checks)
        if looks and (reason := self.refuses(it.host)):
            raise InvalidField(FIELD, reason)


NO_CHECKS = Door(runs=False)
