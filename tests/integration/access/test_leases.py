"""Leases, ids and addresses belong to identities: what another one got is of no use to anybody else, on any store."""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from tests.conftest import ServerFactory
from tests.support.access import Asked, asking, file_of, granted, token
from tests.support.stores import Backends, backends
from tests.support.transports import FLAGS

__all__ = ["backends"]

REGISTRY = "/registry.v1.Registry/"
DENIED, NOT_FOUND, LOST = (
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
)


class Stage(Asked):
    """Calls in few words."""

    async def register(
        self, who: str, id_: str, port: int, *, lease_id: str = "", **fields: Any
    ) -> pb.RegisterResponse:
        instance = pb.Instance(service="player", id=id_, host="10.0.0.5", port=port, **fields)
        request = pb.RegisterRequest(instance=instance, lease_id=lease_id)
        return pb.RegisterResponse.FromString(await self.ask(f"{REGISTRY}Register", request, who))

    async def leave(self, who: str, lease_id: str) -> int:
        answer = await self.ask(f"{REGISTRY}Deregister", pb.DeregisterRequest(lease_id=lease_id), who)
        return pb.DeregisterResponse.FromString(answer).removed

    async def renew(self, who: str, *lease_ids: str) -> list[int]:
        request = pb.KeepAliveRequest(lease_ids=lease_ids).SerializeToString()
        call = self.talk(f"{REGISTRY}KeepAlive", who)
        await call.write(request)
        answer = pb.KeepAliveResponse.FromString(await call.read())
        call.cancel()
        return [it.state for it in answer.renewals]

    async def owners(self) -> dict[str, str]:
        answer = await self.ask(f"{REGISTRY}List", pb.ListRequest(service="player"), "root")
        return {it.id: it.registered_by for it in pb.ListResponse.FromString(answer).instances}


async def refused(call: Any, code: grpc.StatusCode) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    assert error.value.code() is code, error.value.details()
    return str(error.value.details())


@pytest.fixture(params=["memory", "sqlite", "etcd"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    urls: dict[str, Callable[[], str]] = {
        "memory": lambda: "memory:",
        "sqlite": lambda: f"sqlite:{tmp_path / 'registry.db'}",
        "etcd": lambda: _backends(request).etcd_url(),
    }
    return urls[request.param]()


def _backends(request: pytest.FixtureRequest) -> Backends:
    found: Backends = request.getfixturevalue("backends")
    return found


@pytest.fixture
async def stage(transport: str, store: str) -> AsyncIterator[Stage]:
    async with asking(transport, granted(), store=store) as asked:
        yield Stage(asked.address, asked.channel)


async def test_a_lease_is_of_use_to_who_got_it_alone(stage: Stage) -> None:
    lease = (await stage.register("owner", "a", 7001)).lease_id
    theirs = (await stage.register("neighbour", "b", 7002)).lease_id
    assert await stage.renew("owner", lease, theirs) == [pb.Renewal.RENEWED, pb.Renewal.UNKNOWN]
    assert await stage.renew("neighbour", lease, theirs) == [pb.Renewal.UNKNOWN, pb.Renewal.RENEWED]
    said = await refused(stage.register("neighbour", "c", 7003, lease_id=lease), DENIED)
    assert lease not in said
    for who in ("neighbour", "reader", "elsewhere"):
        await refused(stage.leave(who, lease), DENIED)
    await refused(stage.leave("neighbour", lease[:-1] + "."), NOT_FOUND)
    assert await stage.owners() == {"a": "owner", "b": "neighbour"}
    assert await stage.leave("operator", lease) == 1
    assert await stage.leave("neighbour", theirs) == 1


async def test_an_operator_ends_a_lease_only_where_it_may_operate_all_of_it(stage: Stage) -> None:
    lease = (await stage.register("root", "a", 7001)).lease_id
    other = pb.Instance(service="chat", id="c", host="10.0.0.5", port=7001)
    await stage.ask(f"{REGISTRY}Register", pb.RegisterRequest(instance=other, lease_id=lease), "root")
    assert "default/chat" in await refused(stage.leave("operator", lease), DENIED)
    assert await stage.leave("root", lease) == 2


@pytest.mark.parametrize("what", ["id", "address"])
async def test_what_lives_is_taken_over_by_its_owner_or_an_operator_alone(stage: Stage, what: str) -> None:
    first = await stage.register("owner", "a", 7001, registered_by="root")
    assert first.instance.registered_by == "owner"

    async def take(who: str, **more: Any) -> pb.RegisterResponse:
        return await stage.register(who, *(("a", 7009) if what == "id" else (f"by-{who}", 7001)), **more)

    assert "'owner'" in await refused(take("neighbour"), DENIED)
    claim = {"generation": first.instance.generation, "registered_at": first.instance.registered_at}
    await refused(take("neighbour", **claim), LOST)
    assert await stage.owners() == {"a": "owner"}
    assert await stage.renew("owner", first.lease_id) == [pb.Renewal.RENEWED]
    again = await take("owner")  # a process that crashed and came back has no lease to show
    assert again.instance.registered_by == "owner"
    assert await stage.renew("owner", first.lease_id) == [pb.Renewal.UNKNOWN]
    taken = await take("operator")
    assert await stage.owners() == {taken.instance.id: "operator"}
    assert "'operator'" in await refused(take("owner"), DENIED)


async def test_what_nobody_registered_is_for_the_first_who_may_register(transport: str, tmp_path: Path) -> None:
    """As of a registry that knows identities from now on: its owners keep what they have, and the leases they hold."""
    url = f"sqlite:{tmp_path / 'registry.db'}"
    async with asking(transport, granted(anonymous=["register default/player"]), store=url) as asked:
        lease = (await Stage(asked.address, asked.channel).register("", "a", 7001)).lease_id
    async with asking(transport, granted(), store=url) as asked:
        stage = Stage(asked.address, asked.channel)
        assert await stage.renew("owner", lease) == [pb.Renewal.RENEWED]
        assert await stage.owners() == {"a": ""}
        assert (await stage.register("owner", "a", 7001, lease_id=lease)).lease_id == lease
        assert await stage.owners() == {"a": "owner"}
        await refused(stage.register("neighbour", "a", 7001), DENIED)


async def test_no_secret_is_shown_by_a_whole_run_and_the_audit_log_says_who(
    server_factory: ServerFactory, tmp_path: Path, transport: str
) -> None:
    """Tokens good and bad, lease ids, what is in metadata and in the file: not in the log at debug, nor in the process
    list, nor in the audit log, which has all that was asked for."""
    (access := tmp_path / "access.toml").write_text(file_of())
    audit = tmp_path / "audit.log"
    args = ("--access-file", str(access), "--audit-log", str(audit), "--log-level", "debug", *FLAGS[transport])
    server = await server_factory(args=args).start_async()
    bad = "rg_nobody-" + "B" * 40
    async with grpc.aio.insecure_channel(server.address) as channel:
        stage = Stage(server.address, channel)
        answer = await stage.register("owner", "a", 7001, metadata={"password": "SECRET-OF-METADATA"})
        await stage.renew("owner", answer.lease_id)
        await refused(stage.register("neighbour", "a", 7002), DENIED)
        await refused(stage.leave("neighbour", answer.lease_id), DENIED)
        await refused(stage.register("reader", "b", 7002), DENIED)
        call: Any = channel.unary_unary(f"{REGISTRY}Get")
        await refused(call(b"", metadata=(("authorization", f"Bearer {bad}"),)), grpc.StatusCode.UNAUTHENTICATED)
        await stage.leave("operator", answer.lease_id)
        command = Path(f"/proc/{server.pid}/cmdline").read_text()
    await server.terminate_async()
    lines = audit.read_text().splitlines()
    found = [(it["who"], it["what"].rpartition("/")[2], it["outcome"]) for it in map(json.loads, lines)]
    assert found == [
        ("owner", "Register", "OK"),
        ("neighbour", "Register", "PERMISSION_DENIED"),
        ("neighbour", "Deregister", "PERMISSION_DENIED"),
        ("reader", "Register", "PERMISSION_DENIED"),
        ("operator", "Deregister", "OK"),
    ]
    shown = server.log_text + audit.read_text() + command
    assert "default/player/a came at" in shown
    secrets = [token("owner"), token("operator"), bad, "SECRET-OF-METADATA", answer.lease_id]
    for secret in (*secrets, answer.lease_id.rpartition(".")[2], *(it.rpartition("-")[2] for it in secrets[:3])):
        assert secret not in shown
