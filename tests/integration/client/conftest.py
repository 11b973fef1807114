"""What the tests of the client share: real servers, and a home of its own for what it keeps on disk."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

import registry_client
from registry_client import Instance, RegistryClient, View, Watch
from tests.conftest import ServerFactory
from tests.support.servers import RegistryServer

WAIT_S = 20.0
SetUp = Callable[..., Awaitable[RegistryClient]]


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache directory."""
    home = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home


@pytest.fixture
def server(server_factory: ServerFactory) -> RegistryServer:
    """A registry on the embedded store, which forgets all when it is killed."""
    return server_factory(name="registry").start()


@pytest.fixture
async def registry(server: RegistryServer) -> AsyncIterator[RegistryClient]:
    """A client of it."""
    async with registry_client.connect(server.address) as client:
        yield client


def player(name: str = "", port: int = 8001, **fields: object) -> Instance:
    """An instance of the service `player`."""
    return Instance(service="player", host="10.0.0.5", port=port, id=name, **fields)  # type: ignore[arg-type]


def ids(view: View) -> list[str]:
    """Who is in a view."""
    return [instance.id for instance in view.instances]


async def until(watch: Watch, condition: Callable[[View], bool], timeout_s: float = WAIT_S) -> View:
    """The first view of the watch that is so."""
    seen: list[list[str]] = []
    try:
        async with asyncio.timeout(timeout_s):
            async for view in watch:
                seen.append(ids(view))
                if condition(view):
                    return view
    except TimeoutError:
        pytest.fail(f"no such view within {timeout_s} s; seen: {seen}")
    raise AssertionError("a watch does not end")


class Recorder:
    """Reads a watch in the background and remembers every view."""

    def __init__(self, watch: Watch) -> None:
        self.views: list[View] = []
        self._watch = watch
        self._news = asyncio.Condition()

    async def run(self) -> None:
        async for view in self._watch:
            async with self._news:
                self.views.append(view)
                self._news.notify_all()

    async def wait(self, condition: Callable[[View], bool], timeout_s: float = WAIT_S) -> View:
        """The latest view, once it is so."""
        async with asyncio.timeout(timeout_s), self._news:
            await self._news.wait_for(lambda: bool(self.views) and condition(self.views[-1]))
            return self.views[-1]


@contextlib.asynccontextmanager
async def recording(watch: Watch) -> AsyncIterator[Recorder]:
    """Record a watch for as long as the block lasts."""
    recorder = Recorder(watch)
    task = asyncio.create_task(recorder.run())
    try:
        yield recorder
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await watch.aclose()
