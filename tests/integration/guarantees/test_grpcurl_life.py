"""The real grpcurl leads an instance through its whole life, and looks at health and channelz, on every store."""

import asyncio
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry_api.registry.v1 import registry_pb2 as pb
from tests.conftest import ServerFactory
from tests.support.grpcurl import Answer, _documents, grpcurl, grpcurl_path
from tests.support.servers import RegistryServer
from tests.support.waiting import eventually

REGISTRY, HEALTH, CHANNELZ = "registry.v1.Registry", "grpc.health.v1.Health", "grpc.channelz.v1.Channelz"
KEY = {"service": "player", "id": "anna"}
ANNA = {**KEY, "host": "10.0.0.5", "port": 8001, "tags": ["eu"], "metadata": {"map": "forest"}}
UNAVAILABLE = 64 + 14


class Stream:
    """A grpcurl that goes on reading."""

    def __init__(self, log: Path, process: subprocess.Popen[bytes]) -> None:
        self._log = log
        self._process = process

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The whole messages so far, without bookmarks."""
        text = self._log.read_text()
        whole = text[: text.rfind("\n}") + 2] if "\n}" in text else ""
        return [message for message in _documents(whole) if not message.get("bookmark")]

    def wait(self, count: int) -> dict[str, Any]:
        """The last of so many messages."""
        return eventually(lambda: self.messages[count - 1 : count], what=f"message {count}")[0]

    def wait_ended(self) -> int:
        """Its exit code."""
        return self._process.wait(10)


@contextmanager
def streaming(address: str, method: str, data: dict[str, object], log: Path) -> Iterator[Stream]:
    """Runs it until the block ends."""
    command = [str(grpcurl_path()), "-plaintext", "-d", json.dumps(data), address, method]
    with log.open("wb") as out, log.with_suffix(".err.log").open("wb") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err)
    try:
        yield Stream(log, process)
    finally:
        process.kill()
        process.wait()


def call(server: RegistryServer, method: str, data: dict[str, Any]) -> dict[str, Any]:
    """One unary call of the registry, which must succeed."""
    answer = grpcurl(server.address, f"{REGISTRY}/{method}", data)
    assert answer.code == 0, answer.err
    return answer.message


def test_grpcurl_leads_a_whole_life(server: RegistryServer, tmp_path: Path) -> None:
    with streaming(server.address, f"{REGISTRY}/Watch", {"services": ["player"]}, tmp_path / "watch.log") as watch:
        assert watch.wait(1)["reset"] is True
        registered = call(server, "Register", {"instance": ANNA, "ttl": "30s"})
        lease = registered["leaseId"]
        assert watch.wait(2)["upserts"] == [registered["instance"]]
        assert registered["instance"].items() >= ANNA.items()

        renewal = {"leaseId": lease, "ttl": registered["ttl"], "state": "RENEWED", "instances": 1}
        assert call(server, "KeepAlive", {"lease_ids": [lease]})["renewals"] == [renewal]
        assert call(server, "Get", {"key": KEY})["instance"] == registered["instance"]

        change = {
            "instance": {**KEY, "weight": 7, "metadata": {"map": "desert"}},
            "update_mask": {"paths": ["weight", "metadata"]},
        }
        updated = call(server, "Update", change)["instance"]
        assert (updated["weight"], updated["metadata"], updated["tags"]) == (7, {"map": "desert"}, ["eu"])
        assert watch.wait(3)["upserts"] == [updated]

        assert call(server, "Deregister", {"key": KEY, "drain": "1s"})["removed"] == 1
        assert watch.wait(4)["upserts"][0]["status"] == "DRAINING"
        (summary,) = call(server, "ListServices", {})["services"]
        assert (summary["instances"], summary.get("routable", 0)) == (1, 0)
        assert watch.wait(5)["removed"] == [{"namespace": "default", **KEY, "cause": "DRAINED"}]
        assert call(server, "List", {"service": "player"}).get("instances", []) == []

        again = call(server, "Register", {"instance": ANNA})["instance"]
        before = int(registered["instance"]["generation"])
        assert int(again["generation"]) > before, "who held the id before has lost it for good"
        assert call(server, "Deregister", {"key": KEY})["removed"] == 1
        assert watch.wait(7)["removed"] == [{"namespace": "default", **KEY, "cause": "DEREGISTERED"}]


def test_grpcurl_lists_and_describes(server: RegistryServer) -> None:
    """By reflection alone: all services, every method, and messages with their fields."""
    assert set(grpcurl(server.address, "list").out.split()) >= {REGISTRY, HEALTH}
    methods = {method.name for method in pb.DESCRIPTOR.services_by_name["Registry"].methods}
    assert set(grpcurl(server.address, f"list {REGISTRY}").out.split()) == {f"{REGISTRY}.{name}" for name in methods}
    for name, message in pb.DESCRIPTOR.message_types_by_name.items():
        described = grpcurl(server.address, f"describe registry.v1.{name}").out
        assert all(f" {field.name} = {field.number}" in described for field in message.fields), name


def test_grpcurl_asks_for_health(server: RegistryServer, tmp_path: Path) -> None:
    """Of the server and of services: SERVING while one of the instances is routable."""

    def check(service: str) -> Answer:
        return grpcurl(server.address, f"{HEALTH}/Check", {"service": service})

    with streaming(server.address, f"{HEALTH}/Watch", {"service": "player"}, tmp_path / "health.log") as watch:
        assert check("").message == check(REGISTRY).message == {"status": "SERVING"}
        assert check("player").code == 64 + 5, "NOT_FOUND, as the protocol asks"
        assert watch.wait(1) == {"status": "SERVICE_UNKNOWN"}
        call(server, "Register", {"instance": ANNA})
        assert watch.wait(2) == check("player").message == {"status": "SERVING"}
        listed = grpcurl(server.address, f"{HEALTH}/List", {}).message["statuses"]
        assert listed == {name: {"status": "SERVING"} for name in ("", REGISTRY, "player")}
        call(server, "Update", {"instance": {**KEY, "status": "DOWN"}, "update_mask": {"paths": ["status"]}})
        assert watch.wait(3) == check("player").message == {"status": "NOT_SERVING"}
        call(server, "Deregister", {"key": KEY})
        assert watch.wait(4) == {"status": "SERVICE_UNKNOWN"}


def test_grpcurl_looks_at_channelz(server_factory: ServerFactory) -> None:
    """The server's sockets and how many calls it has had, where it is grpcio's core that serves."""
    server = server_factory(args=["--transport", "grpc"]).start()
    assert CHANNELZ in grpcurl(server.address, "list").out.split()
    for _ in range(3):
        call(server, "List", {"service": "player"})
    (ours,) = grpcurl(server.address, f"{CHANNELZ}/GetServers", {}).message["server"]
    assert int(ours["data"]["callsSucceeded"]) >= 3
    found = grpcurl(server.address, f"{CHANNELZ}/GetServer", {"server_id": ours["ref"]["serverId"]}).message["server"]
    assert found["ref"] == ours["ref"]
    assert int(found["data"]["callsSucceeded"]) > int(ours["data"]["callsSucceeded"])
    sockets = grpcurl(server.address, f"{CHANNELZ}/GetServerSockets", {"server_id": ours["ref"]["serverId"]}).message
    assert sockets["socketRef"], "the connection that asks"


async def test_grpcurl_is_told_that_the_server_goes(server: RegistryServer, tmp_path: Path) -> None:
    log = tmp_path / "watch.log"
    with streaming(server.address, f"{REGISTRY}/Watch", {"services": ["player"]}, log) as watch:
        await asyncio.to_thread(watch.wait, 1)
        assert await server.terminate_async() == 0
        assert await asyncio.to_thread(watch.wait_ended) == UNAVAILABLE
    said = log.with_suffix(".err.log").read_text()
    assert "Unavailable" in said
    assert "RetryInfo" in said
