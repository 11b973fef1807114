"""SHELL: the traffic policies of services, by an operator's hand."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from registry_api.registry.v1 import policies_pb2 as pb
from registry_client import answers, checks
from registry_client.operating import Operating
from registry_client.policy import TrafficPolicy, Verdict, verdicts_of

if TYPE_CHECKING:
    from collections.abc import Sequence


class TrafficPolicies(Operating):
    """How the traffic of services is to be treated: `await registry.policy.put(TrafficPolicy("player", timeout=2))`.

    Clients follow at once: `registry://` channels, and xDS clients of any language as far as they can, which `explain`
    tells. An empty namespace is the client's. All methods raise RegistryError.
    """

    async def put(self, policy: TrafficPolicy, *, timeout: float | None = None) -> TrafficPolicy:
        """Set the policy of a service, whole, in place of the one that was there; as it is kept."""
        if not isinstance(policy, TrafficPolicy):
            raise checks.wrong_type("policy", "must be a TrafficPolicy", policy)
        named = policy if policy.namespace else replace(policy, namespace=self._namespace)
        request, doing = pb.PoliciesPutRequest(policy=named.to_proto()), f"put the policy of {policy.service}"
        answer = await self._link().call(lambda stub: stub.policies.Put, request, self._seconds(timeout), doing)
        return TrafficPolicy.from_proto(answer.policy)

    async def get(self, service: str, *, namespace: str = "", timeout: float | None = None) -> TrafficPolicy:
        """The policy of a service. Raises NotFound."""
        request = pb.PoliciesGetRequest(service=checks.name("service", service), namespace=self._space(namespace))
        doing, seconds = f"get the policy of {service}", self._seconds(timeout)
        answer = await self._link().call(lambda stub: stub.policies.Get, request, seconds, doing)
        return TrafficPolicy.from_proto(answer.policy)

    async def list(
        self, *, namespace: str = "", all_namespaces: bool = False, timeout: float | None = None
    ) -> Sequence[TrafficPolicy]:
        """The policies of a namespace, or of all of them, in the order of namespace and service."""
        space = self._asked_space(namespace, all_namespaces)
        request, pages = pb.PoliciesListRequest(namespace=space, all_namespaces=all_namespaces), answers.Pages()
        found: Sequence[TrafficPolicy] = ()
        while True:
            seconds = self._seconds(timeout)
            answer = await self._link().call(lambda stub: stub.policies.List, request, seconds, "list the policies")
            names = [(it.namespace, it.service) for it in answer.policies]
            request.page_token = pages.next_token(names, answer.ByteSize(), answer.next_page_token)
            found = (*found, *map(TrafficPolicy.from_proto, answer.policies))
            if not request.page_token:
                return found

    async def delete(self, service: str, *, namespace: str = "", timeout: float | None = None) -> None:
        """Remove the policy of a service: its traffic is as it is without one. Raises NotFound."""
        request = pb.PoliciesDeleteRequest(service=checks.name("service", service), namespace=self._space(namespace))
        doing, seconds = f"delete the policy of {service}", self._seconds(timeout)
        await self._link().call(lambda stub: stub.policies.Delete, request, seconds, doing)

    async def explain(self, service: str, *, namespace: str = "", timeout: float | None = None) -> Sequence[Verdict]:
        """For each kind of client, how it follows each part of the policy of a service. Raises NotFound."""
        request = pb.PoliciesExplainRequest(service=checks.name("service", service), namespace=self._space(namespace))
        doing, seconds = f"explain the policy of {service}", self._seconds(timeout)
        return verdicts_of(await self._link().call(lambda stub: stub.policies.Explain, request, seconds, doing))
