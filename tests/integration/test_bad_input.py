"""Bad input to a real server: the status, the field named in details and message, and nothing changed."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc

from registry_api.registry.v1 import registry_pb2 as pb
from registry_api.registry.v1.registry_pb2_grpc import RegistryStub
from registry_server.__main__ import EXIT_USAGE
from tests.support.servers import NO_PAGE, ROOT, RegistryServer

TIMEOUT_S = 20.0
INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND

BAD_NAMES = {
    "over-long": "a" * 129,
    "huge": "a" * 100_000,
    "control": "a\x07b",
    "newline": "a\n",
    "nul": "a\0b",
    "slash": "a/b",
    "space": "a b",
    "dash first": "-a",
    "not ascii": "größe",
}


@dataclass
class Served:
    """A running server that holds one instance, and what it answered before the bad input."""

    stub: Any
    health: Any
    channel: grpc.aio.Channel
    lease_id: str
    before: pb.ListResponse

    async def listed(self) -> pb.ListResponse:
        return await self.stub.List(pb.ListRequest(), timeout=TIMEOUT_S)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path_factory.mktemp("bad-input")) as server:
        yield server


@pytest.fixture
async def served(server: RegistryServer) -> AsyncIterator[Served]:
    """Whatever a test sends, afterwards nothing has changed and the server answers as before."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = RegistryStub(channel)
        answer = await stub.Register(good(id="witness", port=7), timeout=TIMEOUT_S)
        made = Served(stub, health_pb2_grpc.HealthStub(channel), channel, answer.lease_id, pb.ListResponse())
        made.before = await made.listed()
        yield made
        after = await made.listed()
        assert after == made.before
        assert server.is_running
        assert "Traceback" not in server.log_text


def good(**fields: Any) -> pb.RegisterRequest:
    filled: dict[str, Any] = {"service": "player", "host": "10.0.0.1", "port": 8001, **fields}
    return pb.RegisterRequest(instance=pb.Instance(**filled), ttl={"seconds": 3600})  # type: ignore[arg-type]


def register(**fields: Any) -> pb.RegisterRequest:
    return pb.RegisterRequest(instance=good(**fields).instance, ttl={"seconds": 3600})  # type: ignore[arg-type]


def update(paths: list[str], **fields: Any) -> pb.UpdateRequest:
    filled: dict[str, Any] = {"service": "player", "id": "witness", **fields}
    return pb.UpdateRequest(instance=pb.Instance(**filled), update_mask=FieldMask(paths=paths))


def witness(**fields: str) -> pb.InstanceKey:
    return pb.InstanceKey(**{"service": "player", "id": "witness", **fields})


async def failed(served: Served, method: str, request: Any) -> grpc.aio.AioRpcError:
    """How the call fails; a stream is read to its end."""
    stub = served.health if isinstance(request, health_pb2.HealthCheckRequest) else served.stub
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await answered(stub, method, request)
    return error.value


async def answered(stub: Any, method: str, request: Any) -> None:
    if method == "KeepAlive":
        async for _ in stub.KeepAlive(iter([request]), timeout=TIMEOUT_S):
            pass
    elif method == "Watch":
        async for _ in stub.Watch(request, timeout=TIMEOUT_S):
            pass
    else:
        await getattr(stub, method)(request, timeout=TIMEOUT_S)


def detail_of(error: grpc.aio.AioRpcError, kind: Any) -> Any:
    """The one detail of an error, which must agree with its code and message."""
    metadata = error.trailing_metadata()
    assert metadata is not None
    (encoded,) = [value for name, value in metadata if name == "grpc-status-details-bin"]
    assert isinstance(encoded, bytes)
    status = Status.FromString(encoded)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    (packed,) = status.details
    detail = kind()
    assert packed.Unpack(detail), packed.type_url
    return detail


def check_field(error: grpc.aio.AioRpcError, field: str) -> None:
    assert error.code() is INVALID, error
    (violation,) = detail_of(error, error_details_pb2.BadRequest).field_violations
    assert violation.field == field
    assert violation.description
    assert error.details() == f"{field}: {violation.description}"


# ---- a field is wrong

NAMED: list[tuple[str, Any, str]] = [
    ("Register", pb.RegisterRequest(), "instance"),
    ("Register", register(service=""), "instance.service"),
    ("Register", register(host=""), "instance.host"),
    ("Register", register(host="10.0.0.1:80"), "instance.host"),
    ("Register", register(host="a\nb"), "instance.host"),
    ("Register", register(host="::1%\n"), "instance.host"),
    ("Register", register(host="a" * 100_000), "instance.host"),
    ("Register", register(host="999.0.0.1"), "instance.host"),
    *[
        ("Register", register(host=host), "instance.host")
        for host in ("0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "::ffff:0.0.0.0")
    ],
    ("Register", register(port=0), "instance.port"),
    ("Register", register(port=65536), "instance.port"),
    ("Register", register(port=2**32 - 1), "instance.port"),
    ("Register", register(weight=1_000_001), "instance.weight"),
    ("Register", register(version="v" * 129), "instance.version"),
    ("Register", register(version="a\nb"), "instance.version"),
    ("Register", register(status=17), "instance.status"),
    ("Register", register(status=-1), "instance.status"),
    ("Register", register(health=17), "instance.health"),
    ("Register", register(tags=[""]), "instance.tags"),
    ("Register", register(tags=["a", "a"]), "instance.tags"),
    ("Register", register(tags=["t" * 16_385]), "instance.tags"),
    ("Register", register(tags=[f"{n:08}" for n in range(2049)]), "instance.tags"),
    ("Register", register(metadata={"": "v"}), "instance.metadata"),
    ("Register", register(metadata={"k": "v" * 16_384}), "instance.metadata"),
    ("Register", register(metadata={f"{n}": "v" * 1000 for n in range(17)}), "instance.metadata"),
    ("Register", register(metadata={"k": "v" * 1_000_000}), "instance.metadata"),
    ("Register", register(locality={"zone": "z" * 129}), "instance.locality.zone"),
    ("Register", register(generation=-1), "instance.generation"),
    ("Register", register(generation=2**63 - 1), "instance.generation"),
    ("Register", register(generation=3, registered_at={"nanos": -1}), "instance.registered_at"),
    ("Register", register(generation=3, registered_at={"seconds": 2**62}), "instance.registered_at"),
    *[
        ("Register", pb.RegisterRequest(instance=good().instance, ttl=ttl), "ttl")  # type: ignore[arg-type]
        for ttl in (
            {"seconds": 0},
            {"seconds": 1, "nanos": 999_999_999},
            {"seconds": 3601},
            {"seconds": -15},
            {"seconds": 2**63 - 1},
            {"seconds": 15, "nanos": -(2**31)},
        )
    ],
    ("Register", pb.RegisterRequest(instance=good().instance, lease_id="a/b"), "lease_id"),
    ("Deregister", pb.DeregisterRequest(), "lease_id"),
    ("Deregister", pb.DeregisterRequest(key=witness(), lease_id="x"), "key"),
    ("Deregister", pb.DeregisterRequest(key=pb.InstanceKey()), "key.service"),
    ("Deregister", pb.DeregisterRequest(key=witness(id="")), "key.id"),
    ("Deregister", pb.DeregisterRequest(lease_id="a b"), "lease_id"),
    ("Deregister", pb.DeregisterRequest(key=witness(), generation=-1), "generation"),
    ("Deregister", pb.DeregisterRequest(lease_id="x", generation=1), "generation"),
    ("Deregister", pb.DeregisterRequest(key=witness(), drain={"seconds": -1}), "drain"),  # type: ignore[arg-type]
    ("Deregister", pb.DeregisterRequest(key=witness(), drain={"seconds": 3601}), "drain"),  # type: ignore[arg-type]
    ("KeepAlive", pb.KeepAliveRequest(lease_ids=["x"] * 10_001), "lease_ids"),
    ("Update", pb.UpdateRequest(), "instance"),
    ("Update", update([]), "update_mask"),
    ("Update", update(["host"]), "update_mask"),
    ("Update", update(["tags", "instance.tags"]), "update_mask"),
    ("Update", update(["x" * 1_000_000]), "update_mask"),
    ("Update", update(["tags"], service=""), "instance.service"),
    ("Update", update(["tags"], id=""), "instance.id"),
    ("Update", update(["weight"], weight=1_000_001), "instance.weight"),
    ("Update", update(["status"], status=9), "instance.status"),
    ("Update", update(["health"], health=-9), "instance.health"),
    ("Update", update(["tags"], tags=["a", "a"]), "instance.tags"),
    ("Update", update(["metadata"], metadata={"k": "v" * 16_384}), "instance.metadata"),
    ("Update", update(["version"], version="\0"), "instance.version"),
    ("Get", pb.GetRequest(), "key"),
    ("Get", pb.GetRequest(key=pb.InstanceKey()), "key.service"),
    ("Register", register(checks=[{"name": "web"}]), "instance.checks[0].kind"),
    ("Register", register(checks=[{"tcp": {}}, {"tcp": {"port": 1}}]), "instance.checks[1].name"),
    ("Register", register(checks=[{"http": {"headers": {"a": "b\r\nc: d"}}}]), "instance.checks[0].http.headers"),
    ("Register", register(host="169.254.169.254", checks=[{"tcp": {}}]), "instance.checks"),
    ("List", pb.ListRequest(all_namespaces=True, namespace="prod"), "namespace"),
    ("ListServices", pb.ListServicesRequest(all_namespaces=True, namespace="prod"), "namespace"),
    ("Watch", pb.WatchRequest(all_namespaces=True, namespace="prod"), "namespace"),
    ("ListNamespaces", pb.ListNamespacesRequest(page_size=10_001), "page_size"),
    ("ListNamespaces", pb.ListNamespacesRequest(page_token="a/b"), "page_token"),
    ("List", pb.ListRequest(page_size=-1), "page_size"),
    ("List", pb.ListRequest(page_size=10_001), "page_size"),
    ("List", pb.ListRequest(min_revision=-1), "min_revision"),
    ("List", pb.ListRequest(page_token="nonsense"), "page_token"),
    ("List", pb.ListRequest(page_token="a/b/c"), "page_token"),
    ("List", pb.ListRequest(page_token="/"), "page_token"),
    ("List", pb.ListRequest(filter=pb.Filter(statuses=[9])), "filter.statuses"),  # type: ignore[list-item]
    ("List", pb.ListRequest(filter=pb.Filter(healths=[-1])), "filter.healths"),  # type: ignore[list-item]
    ("Watch", pb.WatchRequest(filter=pb.Filter(statuses=[9])), "filter.statuses"),  # type: ignore[list-item]
    ("Watch", pb.WatchRequest(filter=pb.Filter(healths=[9])), "filter.healths"),  # type: ignore[list-item]
    ("Watch", pb.WatchRequest(services=[f"s{n}" for n in range(1001)]), "services"),
    ("Watch", pb.WatchRequest(services=["player", ""]), "services"),
    ("Watch", pb.WatchRequest(resume_token="nonsense"), "resume_token"),
    ("Watch", pb.WatchRequest(resume_token="x" * 1_000_000), "resume_token"),
    ("Check", health_pb2.HealthCheckRequest(service="x" * 100_000), "service"),
    ("Watch", health_pb2.HealthCheckRequest(service="x" * 100_000), "service"),
]


@pytest.mark.parametrize(
    ("method", "request_", "field"), NAMED, ids=[f"{n}-{method}-{field}" for n, (method, _, field) in enumerate(NAMED)]
)
async def test_a_wrong_field_is_named(served: Served, method: str, request_: Any, field: str) -> None:
    check_field(await failed(served, method, request_), field)


@pytest.mark.parametrize("bad", BAD_NAMES.values(), ids=BAD_NAMES)
async def test_a_wrong_name_is_named_wherever_it_stands(served: Served, bad: str) -> None:
    cases: list[tuple[str, Any, str]] = [
        ("Register", register(namespace=bad), "instance.namespace"),
        ("Register", register(service=bad), "instance.service"),
        ("Register", register(id=bad), "instance.id"),
        ("Register", pb.RegisterRequest(instance=good().instance, lease_id=bad), "lease_id"),
        ("Deregister", pb.DeregisterRequest(key=witness(namespace=bad)), "key.namespace"),
        ("Deregister", pb.DeregisterRequest(key=witness(service=bad)), "key.service"),
        ("Deregister", pb.DeregisterRequest(key=witness(id=bad)), "key.id"),
        ("Deregister", pb.DeregisterRequest(lease_id=bad), "lease_id"),
        ("Update", update(["tags"], namespace=bad), "instance.namespace"),
        ("Update", update(["tags"], service=bad), "instance.service"),
        ("Update", update(["tags"], id=bad), "instance.id"),
        ("Get", pb.GetRequest(key=witness(namespace=bad)), "key.namespace"),
        ("Get", pb.GetRequest(key=witness(service=bad)), "key.service"),
        ("Get", pb.GetRequest(key=witness(id=bad)), "key.id"),
        ("List", pb.ListRequest(namespace=bad), "namespace"),
        ("List", pb.ListRequest(service=bad), "service"),
        ("ListServices", pb.ListServicesRequest(namespace=bad), "namespace"),
        ("Watch", pb.WatchRequest(namespace=bad), "namespace"),
        ("Watch", pb.WatchRequest(services=[bad]), "services"),
    ]
    for method, request, field in cases:
        check_field(await failed(served, method, request), field)


# ---- what does not exist


@pytest.mark.parametrize(
    ("method", "request_", "kind", "name"),
    [
        ("Register", pb.RegisterRequest(instance=good().instance, lease_id="unknown"), "lease", "unknown"),
        ("Deregister", pb.DeregisterRequest(lease_id="unknown"), "lease", "unknown"),
        ("Deregister", pb.DeregisterRequest(key=witness(id="x")), "instance", "default/player/x"),
        ("Get", pb.GetRequest(key=witness(service="x")), "instance", "default/x/witness"),
        ("Get", pb.GetRequest(key=witness(namespace="x")), "instance", "x/player/witness"),
        ("Update", update(["tags"], id="x"), "instance", "default/player/x"),
        ("Check", health_pb2.HealthCheckRequest(service="nobody"), "service", "nobody"),
    ],
)
async def test_what_does_not_exist_is_named(served: Served, method: str, request_: Any, kind: str, name: str) -> None:
    error = await failed(served, method, request_)
    assert error.code() is NOT_FOUND
    resource = detail_of(error, error_details_pb2.ResourceInfo)
    assert (resource.resource_type, resource.resource_name) == (kind, name)
    assert error.details() == f"no such {kind}: {name}"


async def test_unknown_lease_on_a_keep_alive_is_an_answer_and_no_error(served: Served) -> None:
    call = served.stub.KeepAlive(iter([pb.KeepAliveRequest(lease_ids=["unknown", served.lease_id])]), timeout=TIMEOUT_S)
    (answer,) = [it async for it in call]
    assert [it.state for it in answer.renewals] == [pb.Renewal.UNKNOWN, pb.Renewal.RENEWED]
    assert not answer.renewals[0].HasField("ttl")


# ---- tokens


async def first_token(served: Served, request: pb.WatchRequest) -> str:
    call = served.stub.Watch(request, timeout=TIMEOUT_S)
    async for response in call:
        call.cancel()
        return response.resume_token  # type: ignore[no-any-return]
    raise AssertionError("the stream ended")


@pytest.mark.parametrize(
    "other",
    [
        {"services": ["other"]},
        {"namespace": "other", "services": ["player"]},
        {},
        {"services": ["player"], "filter": pb.Filter(tags=["x"])},
    ],
)
async def test_token_of_another_question_is_refused(served: Served, other: dict[str, Any]) -> None:
    token = await first_token(served, pb.WatchRequest(services=["player"]))
    error = await failed(served, "Watch", pb.WatchRequest(resume_token=token, **other))
    check_field(error, "resume_token")


async def test_token_of_another_registry_brings_the_full_set(
    served: Served, tmp_path: Path, server_factory: Any
) -> None:
    other = server_factory().start()
    async with grpc.aio.insecure_channel(other.address) as channel:
        call: Any = RegistryStub(channel).Watch(pb.WatchRequest(services=["player"]), timeout=TIMEOUT_S)
        token = (await call.read()).resume_token
        call.cancel()
    call = served.stub.Watch(pb.WatchRequest(services=["player"], resume_token=token), timeout=TIMEOUT_S)
    response = await call.read()
    call.cancel()
    assert response.reset
    assert [it.id for it in response.upserts] == ["witness"]


# ---- what would harm others


async def test_two_halves_do_not_pass_the_limit_together(served: Served) -> None:
    await served.stub.Register(register(id="half", port=9, tags=["t" * 10_000]), timeout=TIMEOUT_S)
    try:
        request = update(["metadata"], id="half", metadata={"k": "v" * 10_000})
        check_field(await failed(served, "Update", request), "instance.metadata")
        got = await served.stub.Get(pb.GetRequest(key=witness(id="half")), timeout=TIMEOUT_S)
        assert dict(got.instance.metadata) == {}
    finally:
        await served.stub.Deregister(pb.DeregisterRequest(key=witness(id="half")), timeout=TIMEOUT_S)
        served.before = await served.listed()


async def test_owner_that_lost_its_id_is_refused(served: Served) -> None:
    first = await served.stub.Register(register(id="taken", port=9), timeout=TIMEOUT_S)
    await served.stub.Register(register(id="taken", port=9), timeout=TIMEOUT_S)
    served.before = await served.listed()
    error = await failed(served, "Register", register(id="taken", port=9, generation=first.instance.generation))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    (violation,) = detail_of(error, error_details_pb2.PreconditionFailure).violations
    assert violation.subject == "default/player/taken"
    assert await served.listed() == served.before
    await served.stub.Deregister(pb.DeregisterRequest(key=witness(id="taken")), timeout=TIMEOUT_S)
    served.before = await served.listed()


async def test_large_instances_are_listed_within_what_clients_take(served: Served) -> None:
    """400 instances of 16 KiB are 6.4 MiB; a client takes messages of 4 MiB unless it is told otherwise."""
    lease = (await served.stub.Register(register(service="large", port=1), timeout=TIMEOUT_S)).lease_id
    instance = good(service="large", metadata={"k": "v" * 16_000}).instance
    for port in range(2, 401):
        instance.port = port
        await served.stub.Register(pb.RegisterRequest(instance=instance, lease_id=lease), timeout=TIMEOUT_S)
    found, token = 0, ""
    while True:
        request = pb.ListRequest(service="large", page_size=10_000, page_token=token)
        page = await served.stub.List(request, timeout=TIMEOUT_S)
        found, token = found + len(page.instances), page.next_page_token
        if not token:
            break
    assert found == 400
    await served.stub.Deregister(pb.DeregisterRequest(lease_id=lease), timeout=TIMEOUT_S)
    served.before = await served.listed()


async def test_min_revision_in_the_far_future_ends_with_the_deadline(served: Served) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await served.stub.List(pb.ListRequest(min_revision=2**62), timeout=0.5)
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_bad_request_ends_a_keep_alive_stream_and_no_lease(served: Served) -> None:
    too_many = pb.KeepAliveRequest(lease_ids=["x"] * 10_001)
    requests = [pb.KeepAliveRequest(lease_ids=[served.lease_id]), too_many]
    call = served.stub.KeepAlive(iter(requests), timeout=TIMEOUT_S)
    first = await call.read()
    assert first.renewals[0].state == pb.Renewal.RENEWED
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call.read()
    check_field(error.value, "lease_ids")


NO_LEASES = {**BAD_NAMES, "empty": "", "unprintable": "\u202e", "dot": "."}


@pytest.mark.parametrize("bad", NO_LEASES.values(), ids=NO_LEASES)
async def test_what_is_no_lease_id_is_answered_for_itself_alone(served: Served, bad: str) -> None:
    longer = f"{served.lease_id}{bad or '.'}"
    request = pb.KeepAliveRequest(lease_ids=[bad, served.lease_id, longer, bad])
    answer = await served.stub.KeepAlive(iter([request]), timeout=TIMEOUT_S).read()
    unknown, renewed = pb.Renewal.UNKNOWN, pb.Renewal.RENEWED
    told = [(it.lease_id, it.state) for it in answer.renewals]
    assert told == [(bad, unknown), (served.lease_id, renewed), (longer, unknown), (bad, unknown)]


async def test_message_that_is_none(served: Served) -> None:
    call: Any = served.channel.unary_unary("/registry.v1.Registry/Register")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(b"\x0a\xff\xff\xff\xff\xff", timeout=TIMEOUT_S)
    check_field(error.value, "request")


async def test_message_over_the_size_that_is_taken(served: Served) -> None:
    call: Any = served.channel.unary_unary("/registry.v1.Registry/Register")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(b"x" * (5 << 20), timeout=TIMEOUT_S)
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_unknown_method(served: Served) -> None:
    call: Any = served.channel.unary_unary("/registry.v1.Registry/Nothing")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(b"", timeout=TIMEOUT_S)
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


# ---- the command


def run(*args: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "registry_server", *args]
    environment = {**os.environ, **NO_PAGE, **(env or {})}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


def check_refused(done: subprocess.CompletedProcess[str], *said: str) -> None:
    """One clear line, the exit code, nothing on stdout."""
    assert (done.returncode, done.stdout) == (EXIT_USAGE, ""), done
    (line,) = done.stderr.splitlines()
    assert line.startswith("registry-server: ")
    assert all(part in line for part in said), line
    assert "Traceback" not in line


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--listen", "nowhere"], ["listen", "HOST:PORT", "nowhere"]),
        (["--listen", "127.0.0.1:65536"], ["listen", "65536"]),
        (["--listen", "127.0.0.1:http"], ["listen"]),
        (["--listen", "no.such.host.invalid:0"], ["no.such.host.invalid"]),
        (["--listen", "a..b:0"], ["cannot listen on a..b:0", "no such host"]),
        (["--listen", f"{'a' * 64}:0"], ["cannot listen on aaa", "no such host"]),
        (["--listen", ".:0"], ["cannot listen on .:0", "no such host"]),
        (["--listen", "a*b:0"], ["listen", "HOST:PORT", "a*b"]),
        (["--listen", "[fe80::1%none]:0"], ["cannot listen on [fe80::1%none]:0"]),
        (["--store", "redis://localhost"], ["store", "no such kind", "memory:", "etcd:"]),
        (["--store", "memory:somewhere"], ["store", "memory:"]),
        (["--store", "etcd://"], ["store"]),
        (["--store", "etcd://localhost:port"], ["store"]),
        (["--store", "etcd://localhost?no-such-setting=1"], ["store", "1st parameter", "password_file"]),
        (["--store", "etcd://localhost?ca=/no/such/file.pem"], ["store", "ca", "no readable file"]),
        (["--log-format", "xml"], ["log_format", "xml", "json"]),
        (["--transport", "quic"], ["transport", "quic", "grpc, http2"]),
        (["--log-level", "loud"], ["log_level", "loud", "info"]),
        (["--config", "/no/such/file.toml"], ["/no/such/file.toml"]),
        (["--config", "/"], ["/", "directory"]),
    ],
)
def test_flag_with_a_mistake(args: list[str], said: list[str]) -> None:
    check_refused(run("--listen", "127.0.0.1:0", *args), *said)


@pytest.mark.parametrize("args", [["--no-such-flag"], ["--listen"], ["surplus"]])
def test_flag_there_is_not(args: list[str]) -> None:
    check_refused(run(*args), args[0], "See --help.")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_names_every_flag(flag: str) -> None:
    done = run(flag)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"--{name}" in done.stdout for name in ("listen", "store", "config", "log-format", "log-level"))


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("--help >/dev/full", 1, "registry-server: cannot write: No space left on device\n"),
        ("config template etcd >/dev/full", 1, "registry-server: cannot write: No space left on device\n"),
        ("--nonsense 2>/dev/full", EXIT_USAGE, ""),
        ("config check /dev/null/none 2>/dev/full", EXIT_USAGE, ""),
        ("config check /dev/null/none 2>&-", EXIT_USAGE, ""),
        ("config template etcd | head -n 1 >/dev/null", 0, ""),
    ],
)
def test_what_cannot_be_written_is_a_line_or_nothing(command: str, code: int, said: str) -> None:
    line = f"{sys.executable} -m registry_server {command}"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr, done.stdout) == (code, said, "")


def test_environment_with_a_mistake() -> None:
    check_refused(run(env={"REGISTRY_LISTEN": "nowhere"}), "listen", "nowhere")


def test_file_named_by_the_environment_with_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "registry.toml"
    path.write_text("listen = 7400")
    check_refused(run(env={"REGISTRY_CONFIG": str(path)}), str(path), "listen", "string")


@pytest.mark.parametrize("host", ["", "*", "0.0.0.0", "localhost"])
def test_listening_on_every_address_that_is_meant(tmp_path: Path, host: str) -> None:
    class Everywhere(RegistryServer):
        def _command(self) -> list[str]:
            command = super()._command()
            return [f"{host}:{self.port}" if word.startswith(self.host) else word for word in command]

    with Everywhere(tmp_path, args=() if host == "localhost" else ("--insecure",)) as server:
        shown = host if host not in ("", "*") else "0.0.0.0"
        assert server.host == shown
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            RegistryStub(channel).List(pb.ListRequest(), timeout=TIMEOUT_S)
        address = f"{host}:{server.port}"
        check_refused(run("--listen", address), f"cannot listen on {address}", "in use")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("listen = 7400", ["listen", "string"]),
        ("lisen = '127.0.0.1:0'", ["lisen", "no such setting"]),
        ("listen = ", ["not TOML"]),
        ("store = 'redis://x'", ["store", "no such kind"]),
        ("\0", ["not TOML"]),
    ],
)
def test_file_with_a_mistake(tmp_path: Path, text: str, said: list[str]) -> None:
    path = tmp_path / "registry.toml"
    path.write_text(text)
    check_refused(run("--config", str(path)), *said)


def test_port_that_is_taken_by_another_server(server: RegistryServer) -> None:
    check_refused(run("--listen", server.address), f"cannot listen on {server.address}", "in use")


def test_port_that_is_taken_by_something_else() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        check_refused(run("--listen", address), f"cannot listen on {address}", "in use")
        admin = run("--listen", "127.0.0.1:0", "--admin", address)
        check_refused(admin, f"admin: cannot listen on {address}", "in use")


def test_an_address_that_this_machine_may_have_later() -> None:
    """Such as one that moves from machine to machine: whoever starts the server again has not given up."""
    check_refused(run("--listen", "203.0.113.1:0"), "cannot listen on 203.0.113.1:0")


async def test_server_goes_on_after_clients_that_vanish(server: RegistryServer, served: Served) -> None:
    """Connections that are cut in the middle of whatever they were doing, and bytes that are no HTTP/2 at all."""
    for said in (b"", b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100, os.urandom(4096)):
        _, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(said)
        await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    async with grpc.aio.insecure_channel(server.address) as channel:
        call: Any = RegistryStub(channel).Watch(pb.WatchRequest(), timeout=TIMEOUT_S)
        assert (await call.read()).reset
    check = await served.health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
    assert check.status == health_pb2.HealthCheckResponse.SERVING
