"""Anything at all, to every method of a real server: a documented status each time, and the truth stays whole."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry_api.registry.v1 import registry_pb2 as pb
from tests.support.core import Fold
from tests.support.servers import RegistryServer

TIMEOUT_S = 20.0
# A wait for a revision that is far away ends with the deadline: the one thing that takes long.
LIST_TIMEOUT_S = 0.25
DOCUMENTED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
COMMON: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": False}
NAMESPACES = ("default", "prod")


def methods() -> Iterator[tuple[str, str, type[Message], bool]]:
    """Service, method, request, and whether its requests are a stream."""
    for descriptor in (pb.DESCRIPTOR.services_by_name["Registry"], health_pb2.DESCRIPTOR.services_by_name["Health"]):
        for method in descriptor.methods:
            yield descriptor.full_name, method.name, GetMessageClass(method.input_type), method.client_streaming


METHODS = list(methods())
IDS = [f"{service}/{name}" for service, name, _, _ in METHODS]


# ---- the server, and who watches all the while


@dataclass
class Fuzzed:
    """A server, and watches of all there is that were there before the first call."""

    server: RegistryServer
    channel: Any
    folds: dict[str, Fold] = field(default_factory=dict)
    streams: dict[str, Any] = field(default_factory=dict)

    def watch(self) -> None:
        for namespace in NAMESPACES:
            self.folds[namespace] = Fold()
            call = self.channel.unary_stream("/registry.v1.Registry/Watch")
            self.streams[namespace] = call(pb.WatchRequest(namespace=namespace).SerializeToString())

    def status_of(self, service: str, name: str, message: bytes) -> grpc.StatusCode:
        """How a call ends. A watch that begins well is ended after its first response."""
        path = f"/{service}/{name}"
        timeout = LIST_TIMEOUT_S if path == "/registry.v1.Registry/List" else TIMEOUT_S
        try:
            if name == "Watch":
                stream = self.channel.unary_stream(path)(message, timeout=timeout)
                next(stream)
                stream.cancel()
            elif name == "KeepAlive":
                list(self.channel.stream_stream(path)(iter([message]), timeout=timeout))
            else:
                self.channel.unary_unary(path)(message, timeout=timeout)
        except grpc.RpcError as error:
            check_details(error)
            return error.code()
        return grpc.StatusCode.OK

    def listed(self, namespace: str) -> tuple[int, list[pb.Instance]] | None:
        """All instances at one revision, or None if something changed in between."""
        call, token = self.channel.unary_unary("/registry.v1.Registry/List"), ""
        found: list[pb.Instance] = []
        revisions: set[int] = set()
        while True:
            request = pb.ListRequest(namespace=namespace, page_size=10_000, page_token=token)
            page = pb.ListResponse.FromString(call(request.SerializeToString(), timeout=TIMEOUT_S))
            found += page.instances
            revisions.add(page.header.revision)
            token = page.next_page_token
            if not token:
                return (revisions.pop(), found) if len(revisions) == 1 else None

    def check_watch_is_list(self) -> None:
        for namespace in NAMESPACES:
            self.check_namespace(namespace, time.monotonic() + TIMEOUT_S)

    def check_namespace(self, namespace: str, deadline: float) -> None:
        fold, stream = self.folds[namespace], self.streams[namespace]
        while time.monotonic() < deadline:
            answer = self.listed(namespace)
            if answer is None or fold.revision > answer[0]:
                continue
            while fold.revision < answer[0] or not fold.is_whole:
                fold.take([next(stream)])  # a bookmark at the latest
            if fold.revision == answer[0]:
                assert list(map(str, sorted_(fold.instances.values()))) == list(map(str, answer[1]))
                return
        raise AssertionError("the watch and List never met at one revision")


def sorted_(instances: Any) -> list[pb.Instance]:
    return sorted(instances, key=lambda it: (it.service, it.id))


def check_details(error: Any) -> None:
    """What the server itself says carries a google.rpc.Status that says the same."""
    if error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND):
        (encoded,) = [value for name, value in error.trailing_metadata() if name == "grpc-status-details-bin"]
        status = Status.FromString(encoded)
        assert (status.code, status.message) == (error.code().value[0], error.details())
        assert len(status.details) == 1


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    """When all is over the server is as it was: alive, without a traceback of its own, and its watches fold to List."""
    with RegistryServer(tmp_path_factory.mktemp("fuzz")) as server, grpc.insecure_channel(server.address) as channel:
        made = Fuzzed(server, channel)
        made.watch()
        yield made
        try:
            made.check_watch_is_list()
        finally:
            for stream in made.streams.values():
                stream.cancel()
        assert server.is_running
        assert "/registry_server/" not in server.log_text, "a traceback of ours"
        assert "a call failed" not in server.log_text
        assert server.terminate() == 0


# ---- messages of any kind

SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_INT32: st.integers(-(2**31), 2**31 - 1) | st.integers(-1, 10),
    FieldDescriptor.TYPE_INT64: st.integers(-(2**63), 2**63 - 1) | st.integers(-1, 60),
    FieldDescriptor.TYPE_UINT32: st.integers(0, 2**32 - 1) | st.integers(0, 65_536),
    FieldDescriptor.TYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.TYPE_FIXED64: st.integers(0, 2**64 - 1),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_ENUM: st.integers(-1, 4) | st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_STRING: st.text(max_size=20),
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=20),
}
# What makes sense in a field of this name, so that many of the messages are good ones.
SENSE: dict[str, st.SearchStrategy[Any]] = {
    "namespace": st.sampled_from(["", *NAMESPACES]),
    "service": st.sampled_from(["player", "match"]),
    "services": st.sampled_from(["player", "match"]),
    "id": st.sampled_from(["", "a", "b", "c"]),
    "host": st.sampled_from(["10.0.0.1", "::1", "game.example"]),
    "port": st.integers(1, 4),
    "seconds": st.integers(2, 3600),
    "nanos": st.just(0),
    "paths": st.sampled_from(["status", "weight", "metadata", "tags", "version", "health"]),
    "generation": st.integers(0, 3),
    "status": st.integers(0, 2),
    "statuses": st.integers(0, 2),
    "health": st.integers(0, 3),
    "healths": st.integers(0, 3),
    "weight": st.integers(0, 100),
    "version": st.sampled_from(["", "1"]),
    "page_size": st.integers(0, 5),
    "min_revision": st.integers(0, 1),
    "page_token": st.sampled_from(["", "player/a"]),
    "resume_token": st.just(""),
    "lease_id": st.just(""),
    "tags": st.sampled_from(["x", "y", "größe"]),
    "region": st.sampled_from(["", "eu"]),
    "zone": st.sampled_from(["", "eu-1"]),
    "sub_zone": st.just(""),
}


@st.composite
def messages(draw: st.DrawFn, descriptor: Any, *, sense: bool) -> Message:
    """A message of a kind, from its descriptor: with `sense` mostly a good one."""
    message = GetMessageClass(descriptor)()
    for it in descriptor.fields:
        # Hypothesis likes the ends of a range: a number in the middle is as rare as it looks.
        is_sensible = sense and (it.name in SENSE or it.name == "instance")
        if draw(st.integers(0, 19)) != 7 if is_sensible else draw(st.booleans()):
            put(draw, message, it, sense=sense and draw(st.integers(0, 40)) != 17)
    return message


def put(draw: st.DrawFn, message: Message, it: FieldDescriptor, *, sense: bool) -> None:
    kind = it.message_type
    if kind is not None and kind.GetOptions().map_entry:
        keys = st.text(min_size=int(sense), max_size=5)
        getattr(message, it.name).update(draw(st.dictionaries(keys, st.text(max_size=5), max_size=3)))
    elif kind is not None and it.is_repeated:
        getattr(message, it.name).extend(draw(st.lists(messages(kind, sense=sense), max_size=2)))
    elif kind is not None:
        getattr(message, it.name).CopyFrom(draw(messages(kind, sense=sense)))
        getattr(message, it.name).SetInParent()
    else:
        values = SENSE[it.name] if sense and it.name in SENSE else SCALARS[it.type]
        if it.is_repeated:
            getattr(message, it.name).extend(draw(st.lists(values, max_size=4, unique=sense)))
        else:
            setattr(message, it.name, draw(values))


# ---- the tests


@pytest.mark.parametrize(("service", "name", "request_", "streams"), METHODS, ids=IDS)
def test_random_bytes(fuzzed: Fuzzed, service: str, name: str, request_: type[Message], streams: bool) -> None:
    @settings(max_examples=60, **COMMON)
    @given(st.binary(max_size=200))
    def send(message: bytes) -> None:
        check(fuzzed, service, name, request_, message)

    send()
    fuzzed.check_watch_is_list()


@pytest.mark.parametrize("sense", [False, True], ids=["any", "mostly-good"])
@pytest.mark.parametrize(("service", "name", "request_", "streams"), METHODS, ids=IDS)
def test_random_messages(
    fuzzed: Fuzzed, service: str, name: str, request_: type[Message], streams: bool, sense: bool
) -> None:
    @settings(max_examples=150 if sense and name in ("Register", "Update", "Deregister") else 50, **COMMON)
    @given(messages(request_.DESCRIPTOR, sense=sense))
    def send(message: Message) -> None:
        check(fuzzed, service, name, request_, message.SerializeToString())

    send()
    fuzzed.check_watch_is_list()


@settings(max_examples=150, **COMMON)
@given(st.data())
def test_good_messages_with_a_few_bytes_changed(fuzzed: Fuzzed, data: st.DataObject) -> None:
    service, name, request, _ = data.draw(st.sampled_from(METHODS))
    encoded = bytearray(data.draw(messages(request.DESCRIPTOR, sense=True)).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4)) if encoded else 0):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    check(fuzzed, service, name, request, bytes(encoded))


def test_many_of_the_messages_are_good_ones(fuzzed: Fuzzed) -> None:
    """Else the tests above would prove little."""
    statuses: list[grpc.StatusCode] = []

    @settings(max_examples=100, derandomize=True, **COMMON)
    @given(messages(pb.RegisterRequest.DESCRIPTOR, sense=True))
    def send(message: Message) -> None:
        statuses.append(fuzzed.status_of("registry.v1.Registry", "Register", message.SerializeToString()))

    send()
    assert statuses.count(grpc.StatusCode.OK) > len(statuses) / 4
    assert grpc.StatusCode.INVALID_ARGUMENT in statuses


@pytest.mark.parametrize(
    "path", ["/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "/grpc.channelz.v1.Channelz/GetServers"]
)
def test_random_bytes_to_what_comes_with_grpc(fuzzed: Fuzzed, path: str) -> None:
    """Their answers are gRPC's own; the server must live."""

    @settings(max_examples=20, **COMMON)
    @given(st.binary(max_size=100))
    def send(message: bytes) -> None:
        with contextlib.suppress(grpc.RpcError):
            list(fuzzed.channel.stream_stream(path)(iter([message]), timeout=TIMEOUT_S))

    send()
    assert fuzzed.status_of("grpc.health.v1.Health", "Check", b"") is grpc.StatusCode.OK


def check(fuzzed: Fuzzed, service: str, name: str, request: type[Message], message: bytes) -> None:
    status = fuzzed.status_of(service, name, message)
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        waits = request is pb.ListRequest and pb.ListRequest.FromString(message).min_revision > 0
        assert waits, f"{name} does not answer"
    else:
        assert status in DOCUMENTED, f"{name}: {status}"
