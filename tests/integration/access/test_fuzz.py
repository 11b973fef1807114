"""Anything at all, to every method, by somebody who may do little: nothing else is changed, nor is it seen."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, settings
from hypothesis import strategies as st

from registry_api.registry.v1 import access_pb2, history_pb2, policies_pb2, why_pb2, xds_pb2
from registry_api.registry.v1 import registry_pb2 as pb
from tests.integration.test_fuzz import COMMON, TIMEOUT_S, messages
from tests.support.access import file_of, token
from tests.support.servers import RegistryServer

METHODS: list[MethodDescriptor] = [
    method
    for file, service in (
        (pb, "Registry"),
        (pb, "Checks"),
        (policies_pb2, "Policies"),
        (history_pb2, "History"),
        (access_pb2, "Access"),
        (xds_pb2, "Xds"),
        (why_pb2, "Diagnosis"),
    )
    for method in file.DESCRIPTOR.services_by_name[service].methods
]
# "fuzz" may register here, and see no more than this.
OWN = ("default", "player")
GRANTS = {"root": ["admin */*"], "fuzz": ["register default/player"], "blind": []}
OTHERS = [("default", "match"), ("prod", "player"), ("prod", "match")]


@dataclass
class Fuzzed:
    """A server, and a channel to it."""

    server: RegistryServer
    channel: grpc.Channel

    def ask(self, path: str, message: bytes, who: str) -> list[bytes]:
        """The answer, or the first of a stream; nothing if it is refused."""
        shown = (("authorization", f"Bearer {token(who)}"),)
        called: dict[str, Any] = {"timeout": TIMEOUT_S, "metadata": shown}
        if path.endswith("Watch"):
            stream: Any = self.channel.unary_stream(path)(message, **called)
            first = [next(stream)]
            stream.cancel()
            return first
        if path.endswith("KeepAlive"):
            return list(self.channel.stream_stream(path)(iter([message]), **called))
        return [self.channel.unary_unary(path)(message, **called)]

    def others(self) -> dict[str, bytes]:
        """All that is not to be changed: instances, rules, policies."""
        request = pb.ListRequest(all_namespaces=True).SerializeToString()
        listed = pb.ListResponse.FromString(self.ask("/registry.v1.Registry/List", request, "root")[0])
        kept = {
            f"{it.namespace}/{it.service}/{it.id}": it.SerializeToString()
            for it in listed.instances
            if (it.namespace, it.service) in OTHERS
        }
        rules = pb.ChecksListResponse.FromString(self.ask("/registry.v1.Checks/List", b"", "root")[0])
        every = policies_pb2.PoliciesListRequest(all_namespaces=True).SerializeToString()
        policies = policies_pb2.PoliciesListResponse.FromString(
            self.ask("/registry.v1.Policies/List", every, "root")[0]
        )
        kept["rules"] = b"".join(it.SerializeToString() for it in rules.rules)
        kept["policies"] = b"".join(it.SerializeToString() for it in policies.policies)
        return kept


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    directory: Path = tmp_path_factory.mktemp("fuzz")
    (path := directory / "access.toml").write_text(file_of(GRANTS))
    args = ("--access-file", str(path))
    with RegistryServer(directory, args=args) as server, grpc.insecure_channel(server.address) as channel:
        made = Fuzzed(server, channel)
        for number, (namespace, service) in enumerate((OWN, *OTHERS), 1):
            for id_ in "abc":
                instance = pb.Instance(
                    namespace=namespace, service=service, id=id_, host=f"10.1.{ord(id_)}.{number}", port=1
                )
                request = pb.RegisterRequest(instance=instance, ttl={"seconds": 3600})
                made.ask("/registry.v1.Registry/Register", request.SerializeToString(), "root")
        rule = pb.CheckRule(scope=pb.CheckScope(namespace="prod", service="match"))
        made.ask("/registry.v1.Checks/Put", pb.ChecksPutRequest(rule=rule).SerializeToString(), "root")
        policy = policies_pb2.Policy(namespace="prod", service="match", balancing=policies_pb2.Policy.LEAST_REQUEST)
        put = policies_pb2.PoliciesPutRequest(policy=policy)
        made.ask("/registry.v1.Policies/Put", put.SerializeToString(), "root")
        yield made
        assert "a call failed" not in server.log_text
        assert not any(token(name) in server.log_text for name in GRANTS)


def seen(message: Message) -> Iterator[tuple[str, str]]:
    """The services that an answer speaks of, wherever in it."""
    names = message.DESCRIPTOR.fields_by_name
    if "namespace" in names and "service" in names and message.service:  # type: ignore[attr-defined]
        yield message.namespace, message.service  # type: ignore[attr-defined]
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for it in value if field.is_repeated else [value]:
            yield from seen(it)


@pytest.mark.parametrize("who", ["fuzz", "blind"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: f"{method.containing_service.name}.{method.name}")
def test_who_may_little_does_and_sees_no_more(fuzzed: Fuzzed, method: MethodDescriptor, who: str) -> None:
    before = fuzzed.others()
    path = f"/{method.containing_service.full_name}/{method.name}"
    answer = GetMessageClass(method.output_type)
    may_see = {("default", "player")} if who == "fuzz" else set()

    @settings(max_examples=25, **COMMON)
    @given(messages(method.input_type, sense=True), st.binary(max_size=30))
    def send(message: Message, other: bytes) -> None:
        if "min_revision" in message.DESCRIPTOR.fields_by_name:
            message.ClearField("min_revision")
        for encoded in (message.SerializeToString(), other):
            code, answers = outcome(fuzzed, path, encoded, who)
            assert code not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
            for it in answers:
                assert set(seen(answer.FromString(it))) <= may_see

    send()
    assert fuzzed.others() == before


def outcome(fuzzed: Fuzzed, path: str, message: bytes, who: str) -> tuple[grpc.StatusCode, list[bytes]]:
    try:
        return grpc.StatusCode.OK, fuzzed.ask(path, message, who)
    except grpc.RpcError as error:
        return error.code(), []


TOKENS = ["match/a", "match", "player", "player/b", "prod/match", "default/a/b", "ma"]


@pytest.mark.parametrize("page_token", TOKENS)
@pytest.mark.parametrize("all_namespaces", [False, True])
def test_forged_page_tokens_show_nothing_more(fuzzed: Fuzzed, page_token: str, all_namespaces: bool) -> None:
    for name, kind, answer in (
        ("List", pb.ListRequest, pb.ListResponse),
        ("ListServices", pb.ListServicesRequest, pb.ListServicesResponse),
    ):
        request = kind(all_namespaces=all_namespaces, page_token=page_token).SerializeToString()
        _, answers = outcome(fuzzed, f"/registry.v1.Registry/{name}", request, "fuzz")
        assert {name for it in answers for name in seen(answer.FromString(it))} <= {OWN}
