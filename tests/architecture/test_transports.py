"""What a transport may know: the table of methods and the errors; and who may know transports: who makes a server."""

from collections.abc import Iterator

import pytest

from tests.support.source import Source, sources

ROOM = "registry_server/transport/"
MAY_KNOW = (
    "registry_server.rpc.table.",
    "registry_server.errors",
    "registry_server.aside.",
    "registry_server.http2.",
    "registry_server.limits.",
    "registry_server.transport.",
    "registry_server.sockets.",
    "registry_server.rarely.",
)
MAY_USE_GRPCIO = (f"{ROOM}grpc_aio.py", f"{ROOM}channelz.py", "registry_server/stores/etcd/")
MAY_BE_KNOWN_BY = "registry_server/server.py"
# What a client may cost is a setting like others.
LIMITS, SETTINGS = "registry_server.transport.limits", "registry_server/config/"


def wrong_knowledge(source: Source) -> Iterator[str]:
    """What a transport knows and should not, or who knows a transport and should not."""
    is_transport = source.path.startswith(ROOM)
    for line, name in source.imports():
        if not name.startswith("registry_server."):
            continue
        is_of_transport = name.startswith("registry_server.transport")
        if is_transport and not f"{name}.".startswith(MAY_KNOW):
            yield f"{source.path}:{line} is a transport and imports {name}"
        is_known = source.path == MAY_BE_KNOWN_BY or (name.startswith(LIMITS) and source.path.startswith(SETTINGS))
        if is_of_transport and not is_transport and not is_known:
            yield f"{source.path}:{line} imports {name}"


def grpcio(source: Source) -> Iterator[str]:
    """Who imports grpcio, and is neither its transport nor etcd's client. Messages alone (`_pb2`) are no grpcio."""
    if source.path.startswith(MAY_USE_GRPCIO):
        return
    for line, name in source.imports():
        if name.split(".")[0] == "grpc" or "_pb2_grpc" in name:
            yield f"{source.path}:{line} imports {name}"


def test_only_its_transport_and_etcd_use_grpcio() -> None:
    assert [wrong for source in sources("registry_server") for wrong in grpcio(source)] == []


@pytest.mark.parametrize("text", ["import grpc", "from grpc import aio", "from grpc_health.v1 import health_pb2_grpc"])
def test_grpcio_is_seen(text: str) -> None:
    assert list(grpcio(Source("registry_server/rpc/health.py", text)))
    assert list(grpcio(Source(f"{ROOM}status.py", text)))
    assert not list(grpcio(Source("registry_server/rpc/health.py", "from grpc_health.v1 import health_pb2")))


def test_transports_know_the_table_and_nothing_else() -> None:
    assert [wrong for source in sources("registry_server") for wrong in wrong_knowledge(source)] == []


def test_there_are_transports() -> None:
    assert f"{ROOM}grpc_aio.py" in {source.path for source in sources("registry_server")}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (f"{ROOM}grpc_aio.py", "from registry_server.hub import Hub"),
        (f"{ROOM}grpc_aio.py", "from registry_server.rpc.registry import RegistryService"),
        (f"{ROOM}streams.py", "from registry_server import hub"),
        ("registry_server/rpc/health.py", "from registry_server.transport.status import Code"),
        ("registry_server/feed.py", "from registry_server import transport"),
    ],
)
def test_wrong_knowledge_is_seen(path: str, text: str) -> None:
    assert list(wrong_knowledge(Source(path, text)))
