"""SHELL: who is connected by xDS, and what such clients report of their calls, for operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry_api.registry.v1 import xds_pb2 as pb
from registry_client import answers, checks
from registry_client.operating import Operating

if TYPE_CHECKING:
    from collections.abc import Sequence


class XdsClients(Operating):
    """The xDS clients of the registry that answers: of several replicas, each knows its own.

    What is given are the messages of xds.proto, whose comments say what is in them. All methods raise RegistryError.
    """

    async def list(self, *, timeout: float | None = None) -> Sequence[pb.XdsClient]:
        """Who is connected, what each wants, what it was told and what it made of that; in the order of node ids."""
        request, pages = pb.ListClientsRequest(), answers.Pages()
        found: list[pb.XdsClient] = []
        while True:
            answer = await self._link().call(
                lambda stub: stub.xds.ListClients, request, self._seconds(timeout), "list xDS clients"
            )
            names = [(it.node_id, it.identity, it.kind) for it in answer.clients]
            request.page_token = pages.next_token(names, answer.ByteSize(), answer.next_page_token)
            found += answer.clients
            if not request.page_token:
                return found

    async def loads(
        self, service: str = "", *, namespace: str = "", all_namespaces: bool = False, timeout: float | None = None
    ) -> Sequence[pb.ServiceLoad]:
        """What clients report of their calls to a service, or to each; in the order of namespaces and names."""
        request = pb.ListLoadsRequest(
            namespace=self._asked_space(namespace, all_namespaces),
            all_namespaces=all_namespaces,
            service=checks.name("service", service, empty=True),
        )
        answer = await self._link().call(lambda stub: stub.xds.ListLoads, request, self._seconds(timeout), "list loads")
        return tuple(answer.loads)
