"""The audit log of a server: every write that is asked for over either transport, whatever becomes of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.conftest import ServerFactory
from tests.support.raw import RawClient, refusal
from tests.support.waiting import eventually_async


def written(path: Path) -> list[Mapping[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("transport", ["http2", "grpc"])
async def test_every_write_is_there_and_no_read_and_no_secret(
    server_factory: ServerFactory, tmp_path: Path, transport: str
) -> None:
    path = tmp_path / "audit.log"
    server = await server_factory(args=["--audit-log", str(path), "--transport", transport]).start_async()
    async with RawClient(server.address) as client:
        one = await client.register("one", 7001, metadata={"password": "SECRET"})
        await client.renew(one.lease_id)
        await client.update("one", weight=3)
        await client.list()
        await refusal(client.update("nobody", weight=3), grpc.StatusCode.NOT_FOUND)
        await client.deregister("one", drain_s=0.5)
        await refusal(client.deregister(lease_id=one.lease_id), grpc.StatusCode.NOT_FOUND)
    await server.terminate_async()
    found = written(path)
    assert [(it["what"].rpartition("/")[2], it["outcome"]) for it in found] == [
        ("Register", "OK"),
        ("Update", "OK"),
        ("Update", "NOT_FOUND"),
        ("Deregister", "OK"),
        ("Deregister", "NOT_FOUND"),
    ]
    assert found[0]["key"] == "default/player/one"
    assert found[0]["revision"] == one.header.revision
    assert found[0]["generation"] == one.instance.generation
    assert found[3]["removed"] == 1
    assert all(it["from"].startswith(("ipv4:127.0.0.1:", "ipv6:")) for it in found)
    assert "SECRET" not in path.read_text()
    assert one.lease_id not in path.read_text()


async def test_it_can_go_to_the_standard_output_and_a_full_disk_stops_nothing(
    server_factory: ServerFactory, tmp_path: Path
) -> None:
    full = await server_factory(args=["--audit-log", "/dev/full"], name="full").start_async()
    said = await server_factory(args=["--audit-log", "-"], name="said").start_async()
    for server in (full, said):
        async with RawClient(server.address) as client:
            for number in range(20):
                await client.register(f"i{number}", 7001 + number)
            assert len(await client.ids()) == 20
    assert said._process is not None
    assert said._process.stdout is not None
    output = said._process.stdout
    lines = [json.loads(output.readline()) for _ in range(20)]
    assert {it["outcome"] for it in lines} == {"OK"}
    assert await full.terminate_async() == 0
    assert full.log_text.count("audit log /dev/full: No space left on device") == 1


async def test_it_is_opened_anew_when_it_was_moved(server_factory: ServerFactory, tmp_path: Path) -> None:
    path, moved = tmp_path / "audit.log", tmp_path / "audit.log.1"
    server = await server_factory(args=["--audit-log", str(path)]).start_async()
    async with RawClient(server.address) as client:
        await client.register("one", 7001)
        await eventually_async(lambda: path.read_text().count("\n") == 1, what="the first line")
        path.rename(moved)
        await client.register("two", 7002)
        await eventually_async(lambda: path.exists() and path.read_text().count("\n") == 1, what="the second line")
    assert [it["key"] for it in written(moved) + written(path)] == ["default/player/one", "default/player/two"]


def test_a_file_that_cannot_be_written_is_a_mistake_of_the_configuration(server_factory: ServerFactory) -> None:
    server = server_factory(args=["--audit-log", "/nowhere/at/all"])
    with pytest.raises(AssertionError, match="exit code 2"):
        server.start()
    assert "audit_log: cannot be written: No such file or directory" in server.log_text
    assert "Traceback" not in server.log_text
