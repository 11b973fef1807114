"""Tokens from the client's side, against a server that asks who everybody is."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

import registry_client
from registry_client import Instance, PermissionDenied, Unauthenticated, bearer
from registry_server.config.sources import load
from registry_server.server import serve
from tests.support.counting import counting
from tests.support.registryctl import ctl
from tests.support.waiting import eventually_async

OLD, NEW, GUEST = "old-token", "new-token", "guest-token"
ACCESS = """
[access.identities.game]
tokens = [{tokens}]
grants = ["operate */*"]
[access.identities.guest]
tokens = ["{guest}"]
grants = ["read default/lobby"]
"""


def hashed(token: str) -> str:
    return f"sha256:{hashlib.sha256(token.encode()).hexdigest()}"


class Door:
    """Who may do what, in a file that the server reads again."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "access.toml"
        self.let_in(OLD)

    def let_in(self, *tokens: str) -> None:
        shown = ", ".join(f'"{hashed(token)}"' for token in tokens)
        self.file.write_text(ACCESS.format(tokens=shown, guest=hashed(GUEST)))


@asynccontextmanager
async def guarded(door: Door) -> AsyncIterator[str]:
    """A registry behind it; its address."""
    config = load({"listen": "127.0.0.1:0", "access_file": str(door.file)}, {}, None).config
    async with serve(config) as address:
        yield address


async def test_each_way_to_say_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file := tmp_path / "token").write_text(OLD)
    async with guarded(Door(tmp_path)) as address:
        with pytest.raises(Unauthenticated):
            async with registry_client.connect(address) as nobody:
                await nobody.services()
        monkeypatch.setenv("MINE", OLD)
        for token in (OLD, f"file:{file}", "env:MINE", lambda: OLD):
            async with (
                registry_client.connect(address, token=token) as registry,
                registry.register(Instance("player", "127.0.0.1", 8001)),
                registry.watch("player") as watch,
            ):
                assert len((await anext(watch)).instances) == 1
                assert not await registry.check_rules.list()
        monkeypatch.setenv("REGISTRY_TOKEN", OLD)
        for made in (
            registry_client.connect(address),
            registry_client.from_config({"addresses": address}),
            registry_client.connect_many({"one": address}),
        ):
            async with made:
                assert await made.services() == []
        monkeypatch.setenv("REGISTRY_TOKEN", "wrong")
        async with registry_client.connect(address, token="") as nobody:
            with pytest.raises(Unauthenticated):
                await nobody.services()


async def test_what_may_not_be_done_is_said(tmp_path: Path) -> None:
    async with guarded(Door(tmp_path)) as address, registry_client.connect(address, token=GUEST) as guest:
        assert await guest.list("lobby") == []
        with pytest.raises(PermissionDenied):
            await guest.register(Instance("player", "127.0.0.1", 8001), timeout=2.0)


async def test_a_channel_has_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with guarded(Door(tmp_path)) as address:
        with counting() as backend:
            async with (
                registry_client.connect(address, token=OLD) as registry,
                registry.register(Instance("player", "127.0.0.1", backend.port)),
            ):
                url = f"registry://{address}/player"
                async with registry_client.aio.channel(url, registry_token=OLD, cache_dir=None) as channel:
                    await channel.unary_unary("/test.Counting/Echo")(b"x", timeout=10)
                async with registry_client.aio.channel(url, cache_dir=None) as channel:
                    with pytest.raises(grpc.aio.AioRpcError):
                        await channel.unary_unary("/test.Counting/Echo")(b"x", timeout=10)
                monkeypatch.setenv("REGISTRY_TOKEN", OLD)
                await asyncio.to_thread(call_by_threads, url)
                assert all("authorization" not in dict(it) for it in backend.metadata), "instances get no token"


def call_by_threads(url: str) -> None:
    with registry_client.channel(url, cache_dir=None) as channel:
        channel.unary_unary("/test.Counting/Echo")(b"x", timeout=10)


async def test_a_token_that_is_replaced_throws_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's file has the new one, and then the server forgets the old one: the owner stays, and is renewed."""
    monkeypatch.setattr(bearer, "FRESH_S", 3600.0)  # so that only a refusal has it read again
    (file := tmp_path / "token").write_text(OLD)
    door = Door(tmp_path)
    async with (
        guarded(door) as address,
        registry_client.connect(address, token=f"file:{file}", cache_dir=None) as registry,
        registry.register(Instance("player", "127.0.0.1", 8001), ttl=2.0) as registration,
        registry_client.connect(address, token=NEW, cache_dir=None) as other,
    ):
        door.let_in(OLD, NEW)
        await eventually_async(lambda: can_ask(other))
        file.write_text(NEW)
        door.let_in(NEW)

        async def is_forgotten() -> bool:
            async with registry_client.connect(address, token=OLD, cache_dir=None) as late:
                return not await can_ask(late)

        await eventually_async(is_forgotten)
        assert [it.id for it in await registry.list("player")] == [registration.instance.id]
        lease, watch = registration.lease_id, registry.watch("player")
        async with watch:
            assert len((await anext(watch)).instances) == 1
        await eventually_async(lambda: can_ask(registry))
        began = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() - began < 3.0:  # longer than its ttl
            assert len(await other.list("player")) == 1
            await eventually_async(lambda: registration.invisible_for is None)
        assert registration.lease_id == lease


async def can_ask(registry: registry_client.RegistryClient) -> bool:
    try:
        await registry.list("player")
    except Unauthenticated:
        return False
    return True


async def test_the_command_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file := tmp_path / "token").write_text(OLD)
    async with guarded(Door(tmp_path)) as address:
        refused = await ctl("--server", address, "services")
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert re.fullmatch(r"registryctl: list services: .+\n", refused.stderr)
        for given in (("--token", OLD), ("--token", f"file:{file}")):
            assert (await ctl("--server", address, *given, "services")).exit_code == 0
            assert (await ctl("--server", address, "services", *given)).exit_code == 0
        monkeypatch.setenv("REGISTRY_TOKEN", OLD)
        assert (await ctl("--server", address, "services")).exit_code == 0
        far = await ctl("--server", "registry.example:7400", "services")
        assert (far.exit_code, far.stderr.count("\n")) == (2, 1)
        assert "without TLS" in far.stderr
        assert OLD not in far.stderr
