"""What a transport may know: the table of methods and the errors; and who may know transports: who makes a server."""

from collections.abc import Iterator

import pytest

from tests.support.source import Source, sources

ROOM = "registry_server/transport/"
MAY_KNOW = ("registry_server.rpc.table.", "registry_server.errors", "registry_server.transport.")
MAY_BE_KNOWN_BY = "registry_server/server.py"


def wrong_knowledge(source: Source) -> Iterator[str]:
    """What a transport knows and should not, or who knows a transport and should not."""
    is_transport = source.path.startswith(ROOM)
    for line, name in source.imports():
        if not name.startswith("registry_server."):
            continue
        is_of_transport = name.startswith("registry_server.transport")
        if is_transport and not f"{name}.".startswith(MAY_KNOW):
            yield f"{source.path}:{line} is a transport and imports {name}"
        if is_of_transport and not is_transport and source.path != MAY_BE_KNOWN_BY:
            yield f"{source.path}:{line} imports {name}"


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
