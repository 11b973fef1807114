"""SHELL: the rules by service: which checks instances get that bring none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from registry_api.registry.v1 import registry_pb2 as pb
from registry_client import answers, checks
from registry_client.health import HealthCheck, check_all
from registry_client.operating import Operating

if TYPE_CHECKING:
    from collections.abc import Sequence

EVERY = "*"


@dataclass(frozen=True, slots=True)
class CheckRule:
    """The checks of the instances of a service that bring none; `"*"` is every service, or every namespace.

    No checks: these get none. `flaw`: why the registry does not follow it, where somebody wrote into its store what is
    no rule.
    """

    service: str
    namespace: str
    checks: Sequence[HealthCheck] = ()
    revision: int = 0
    flaw: str = ""

    @classmethod
    def from_proto(cls, message: pb.CheckRule) -> Self:
        """The rule as the registry shows it."""
        where = message.scope
        found = tuple(map(HealthCheck.from_proto, message.checks))
        return cls(where.service or EVERY, where.namespace or EVERY, found, message.revision, message.flaw)

    def to_proto(self) -> pb.CheckRule:
        """The rule as it came over the wire."""
        scope = pb.CheckScope(
            namespace="" if self.namespace == EVERY else self.namespace,
            all_namespaces=self.namespace == EVERY,
            service="" if self.service == EVERY else self.service,
        )
        every = [check.to_proto() for check in self.checks]
        return pb.CheckRule(scope=scope, checks=every, revision=self.revision, flaw=self.flaw)


class CheckRules(Operating):
    """What an operator says of checks while everything runs: `await registry.check_rules.put("player", [check])`.

    The nearest rule holds: of namespace and service, of the namespace, of the service in every namespace, of
    everything. Instances that are there follow within a second; those that brought checks of their own keep them.
    `service` and `namespace` may be `"*"` for every one; an empty namespace is the client's. All methods raise
    RegistryError.
    """

    async def put(
        self, service: str, given: Sequence[HealthCheck], *, namespace: str = "", timeout: float | None = None
    ) -> CheckRule:
        """Set a rule, in place of the one that was there; without any check: these instances get none."""
        rule = self._rule(service, namespace, check_all("checks", given))
        request, doing = pb.ChecksPutRequest(rule=rule.to_proto()), f"put the checks of {service}"
        answer = await self._link().call(lambda stub: stub.checks.Put, request, self._seconds(timeout), doing)
        return CheckRule.from_proto(answer.rule)

    async def get(self, service: str, *, namespace: str = "", timeout: float | None = None) -> CheckRule:
        """The rule that was set with these very names. Raises NotFound."""
        request = pb.ChecksGetRequest(scope=self._rule(service, namespace).to_proto().scope)
        doing, seconds = f"get the checks of {service}", self._seconds(timeout)
        return CheckRule.from_proto(
            (await self._link().call(lambda stub: stub.checks.Get, request, seconds, doing)).rule
        )

    async def list(self, *, timeout: float | None = None) -> Sequence[CheckRule]:
        """All rules: those of every namespace first, then in the order of namespace and service."""
        request, pages = pb.ChecksListRequest(), answers.Pages()
        found: Sequence[CheckRule] = ()
        while True:
            answer = await self._link().call(
                lambda stub: stub.checks.List, request, self._seconds(timeout), "list the checks"
            )
            names = [(it.scope.namespace, it.scope.service) for it in answer.rules]
            request.page_token = pages.next_token(names, answer.ByteSize(), answer.next_page_token)
            found = (*found, *map(CheckRule.from_proto, answer.rules))
            if not request.page_token:
                return found

    async def delete(self, service: str, *, namespace: str = "", timeout: float | None = None) -> None:
        """Remove a rule. Raises NotFound."""
        request = pb.ChecksDeleteRequest(scope=self._rule(service, namespace).to_proto().scope)
        doing, seconds = f"delete the checks of {service}", self._seconds(timeout)
        await self._link().call(lambda stub: stub.checks.Delete, request, seconds, doing)

    # ---- within

    def _rule(self, service: str, namespace: str, given: Sequence[HealthCheck] = ()) -> CheckRule:
        named = service if service == EVERY else checks.name("service", service)
        space = namespace if namespace == EVERY else self._space(namespace)
        return CheckRule(named, space, given)
