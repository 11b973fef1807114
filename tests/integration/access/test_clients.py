"""Our client where it is asked who it is: it says so, and never gives up when its rights go and come back."""

from pathlib import Path

import pytest

import registry_client
from registry_client import Instance, PermissionDenied, Unauthenticated
from registry_client.lease import State
from tests.conftest import ServerFactory
from tests.support.access import file_of, token
from tests.support.servers import RegistryServer
from tests.support.transports import FLAGS
from tests.support.waiting import eventually_async, until

GRANTS = {"root": ["admin */*"], "game": ["register default/player"], "other": ["register default/player"]}
# The transports have no part in it.
ONCE = pytest.mark.parametrize("transport", ["http2"], indirect=True)
GAME = Instance(service="player", host="10.0.0.5", port=8001)


class Asking:
    """A server as a process, whose file is written anew."""

    def __init__(self, server: RegistryServer, path: Path) -> None:
        self.server = server
        self.path = path

    def connect(self, who: str) -> registry_client.RegistryClient:
        return registry_client.connect(self.server.address, token=token(who) if who else None, cache_dir=None)

    def grant(self, **changes: list[str] | None) -> None:
        given = {name: it for name, it in {**GRANTS, **changes}.items() if it is not None}
        self.path.write_text(file_of(given))


@pytest.fixture
async def asking(transport: str, server_factory: ServerFactory, tmp_path: Path) -> Asking:
    (path := tmp_path / "access.toml").write_text(file_of(GRANTS))
    server = server_factory(args=("--access-file", str(path), *FLAGS[transport]))
    await server.start_async()
    return Asking(server, path)


@ONCE
async def test_an_owner_and_a_watcher_outlive_the_loss_of_their_rights(asking: Asking) -> None:
    async with (
        asking.connect("game") as registry,
        asking.connect("root") as root,
        registry.register(GAME, ttl=2) as registration,
        registry.watch() as watch,
        registry.watch_events("player") as following,
    ):

        async def gone() -> bool:
            return not await root.list("player")

        seen = aiter(watch)
        assert [it.address for it in (await anext(seen)).endpoints] == [GAME.address]
        await eventually_async(lambda: following.is_current)
        asking.grant(game=None)
        await eventually_async(lambda: registration.state is State.DOUBTED)
        await until(gone)
        asking.grant()
        await eventually_async(lambda: registration.state is State.REGISTERED)
        found = await eventually_async(lambda: root.list("player"))
        assert [it.registered_by for it in found] == ["game"]
        while not (view := await anext(seen)).endpoints or view.stale_for is not None:
            pass
        assert [it.address for it in view.endpoints] == [GAME.address]
        while (event := await anext(following)).cause != "REGISTERED":
            pass
        assert event.identity == "game"


async def test_what_the_client_is_told(asking: Asking) -> None:
    async with asking.connect("game") as game, asking.connect("other") as other, asking.connect("stranger") as stranger:
        async with game.register(GAME, ttl=10) as registration:
            with pytest.raises(PermissionDenied, match="registered by 'game'"):
                await other.update("player", registration.instance.id, weight=5)
            with pytest.raises(PermissionDenied, match="registered by 'game'"):
                await other.deregister("player", registration.instance.id)
            with pytest.raises(PermissionDenied, match="game has not the right `read` on default/chat"):
                await game.list("chat")
            with pytest.raises(Unauthenticated, match="this token is not known here"):
                await stranger.list("player")
            async with asking.connect("") as nobody:
                with pytest.raises(Unauthenticated, match="say who you are"):
                    await nobody.list("player")
            await registration.update(weight=5)
        assert await game.list("player") == []
