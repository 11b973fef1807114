"""The cache on disk harms no watch, whatever stands in its place, and says how old it is."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import registry_client
from registry_api.registry.v1 import policies_pb2 as pb
from registry_client import RegistryClient, TrafficPolicy
from registry_client.cache import Disk, PolicyFile, ViewFile
from tests.integration.client.conftest import WAIT_S, ids, player, until
from tests.support.servers import ROOT, RegistryServer
from tests.support.waiting import eventually_async, passed

DAY_S = 24 * 3600.0


@pytest.fixture
async def saved(server: RegistryServer, cache_home: Path) -> Path:
    """The file with the view of one instance, of a registry that is away."""
    async with registry_client.connect(server.address) as registry, registry.register(player("p1")):
        await until(registry.watch("player"), lambda view: ids(view) == ["p1"])
    server.kill()
    [path] = (cache_home / "grpc-registry").glob("*.view")
    return path


async def cold_start(server: RegistryServer, timeout_s: float = 4.0, **options: float) -> list[str] | None:
    """What a process is given that starts without a registry; None if that is nothing."""
    async with (
        registry_client.connect(server.address, **options) as registry,  # type: ignore[arg-type]
        registry.watch("player") as watch,
    ):
        try:
            view = await asyncio.wait_for(anext(watch), timeout_s)
        except TimeoutError:
            return None
        assert view.stale_for is not None
        return ids(view)


# ---- what stands in its place


def a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def ten_gigabytes(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(10 * 1024**3)


def a_fifo_for_a_directory(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()
    os.mkfifo(path.parent)


@pytest.mark.parametrize("make", [a_fifo, a_device, a_directory, ten_gigabytes, a_fifo_for_a_directory])
async def test_what_stands_in_its_place_hangs_no_watch(
    make: Callable[[Path], None], saved: Path, server: RegistryServer
) -> None:
    make(saved)
    assert await cold_start(server) is None
    await server.start_async()
    async with registry_client.connect(server.address) as registry:
        assert ids(await asyncio.wait_for(anext(registry.watch("player")), WAIT_S)) == []
        await registry.register(player("p1"))
        await until(registry.watch("player"), lambda view: ids(view) == ["p1"])


async def test_a_disk_that_does_not_answer_hangs_no_watch(
    server: RegistryServer, registry: RegistryClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = threading.Event()
    monkeypatch.setattr(ViewFile, "read", lambda *_: ends.wait())
    began = time.monotonic()
    watches = [registry.watch("player") for _ in range(8)]
    for watch in watches:
        assert ids(await anext(watch)) == []
    async with registry.register(player("p1")):
        await asyncio.gather(*(until(watch, lambda view: ids(view) == ["p1"]) for watch in watches))
    await registry.aclose()
    assert time.monotonic() - began < 5
    monkeypatch.undo()
    ends.set()


async def test_a_view_that_is_read_late_is_still_of_use(
    saved: Path, server: RegistryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, ends = ViewFile.read, threading.Event()

    def slow(self: ViewFile, now_wall_s: float) -> object:
        ends.wait()
        return read(self, now_wall_s)

    monkeypatch.setattr(ViewFile, "read", slow)
    async with registry_client.connect(server.address) as registry, registry.watch("player") as watch:
        first = asyncio.ensure_future(anext(watch))
        await passed(2.5)
        ends.set()
        assert ids(await asyncio.wait_for(first, WAIT_S)) == ["p1"]


# ---- how old it may be


async def test_a_view_too_old_is_not_offered(saved: Path, server: RegistryServer) -> None:
    assert await cold_start(server) == ["p1"]
    long_ago = time.time() - 365 * DAY_S
    os.utime(saved, (long_ago, long_ago))
    assert await cold_start(server) is None
    assert await cold_start(server, cache_max_age=400 * DAY_S) == ["p1"]


async def test_a_clock_set_forward_makes_views_old(
    saved: Path, server: RegistryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry_client.session.Disk", lambda _: Disk(lambda: time.time() + 2 * DAY_S))
    assert await cold_start(server) is None


@pytest.mark.parametrize("by_s", [-7200.0, 7200.0])
async def test_a_clock_that_is_set_stops_no_writing(
    by_s: float, server: RegistryServer, cache_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry_client.watcher.SAVE_EVERY_S", 0.05)
    shift = [0.0]
    monkeypatch.setattr("registry_client.session.Disk", lambda _: Disk(lambda: time.time() + shift[0]))
    written: list[int] = []
    write = ViewFile.write

    def counted(self: ViewFile, *args: object) -> None:
        write(self, *args)  # type: ignore[arg-type]
        written.append(1)

    monkeypatch.setattr(ViewFile, "write", counted)
    async with registry_client.connect(server.address) as registry, registry.watch("player") as watch:
        async with registry.register(player("p1")):
            await until(watch, lambda view: ids(view) == ["p1"])
        await eventually_async(lambda: written)
        shift[0] = by_s
        await registry.register(player("p2"))
        await until(watch, lambda view: ids(view) == ["p2"])
    server.kill()
    assert await cold_start(server) == ["p2"]


async def test_a_view_that_does_not_change_does_not_grow_old_on_disk(
    server: RegistryServer, cache_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is confirmed all the time: a process that is killed leaves what was known a moment ago."""
    monkeypatch.setattr("registry_client.watcher.SAVE_EVERY_S", 0.05)
    monkeypatch.setattr("registry_client.watcher.REFRESH_EVERY_S", 0.5)
    async with registry_client.connect(server.address) as registry, registry.watch("player") as watch:
        await anext(watch)
        await eventually_async(lambda: list(cache_home.glob("*/*.view")))
        [path] = cache_home.glob("*/*.view")
        first = path.stat().st_mtime_ns
        await eventually_async(lambda: path.stat().st_mtime_ns > first, timeout_s=WAIT_S)  # with the next bookmark


async def test_what_is_written_at_the_end_is_as_old_as_it_is(
    server: RegistryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry had been away for a while when the process ended."""
    ages: list[float] = []
    write = Disk.write

    def noted(self: Disk, file: ViewFile, view: object, token: str, age_s: float) -> None:
        ages.append(age_s)
        write(self, file, view, token, age_s)  # type: ignore[arg-type]

    monkeypatch.setattr(Disk, "write", noted)
    async with registry_client.connect(server.address) as registry, registry.watch("player") as watch:
        await anext(watch)
        server.kill()
        await until(watch, lambda view: view.stale_for is not None)
        await passed(1.5)
    assert ages[-1] > 1.5


# ---- where it is


@pytest.mark.parametrize("home", [None, "/nonexistent/home", "", "relative"])
def test_no_home_directory_stops_no_client(home: str | None, server: RegistryServer, tmp_path: Path) -> None:
    """As in a container that runs as any user."""
    program = f"""
import asyncio, os
os.geteuid = lambda: 3456789  # nobody that the system knows
import registry_client
async def main():
    async with registry_client.connect({server.address!r}) as registry, registry.watch("player") as watch:
        print([it.id for it in (await anext(watch)).instances])
asyncio.run(main())
"""
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    if home is not None:
        environment["HOME"] = home
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{program}"],
        capture_output=True, text=True, timeout=30, check=False, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert done.stdout == "[]\n", done.stderr
    assert len(done.stderr.splitlines()) <= 1


async def test_views_are_for_this_user_alone(server: RegistryServer, cache_home: Path) -> None:
    before = os.umask(0)
    try:
        async with registry_client.connect(server.address) as registry:
            await anext(registry.watch("player"))
    finally:
        os.umask(before)
    [path] = cache_home.glob("*/*.view")
    assert [it.stat().st_mode & 0o777 for it in (cache_home, path.parent, path)] == [0o700, 0o700, 0o600]


async def test_many_watches_whose_views_cannot_be_written_are_one_line(
    server: RegistryServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    async with registry_client.connect(server.address, cache_dir=tmp_path / "file") as registry:
        await asyncio.gather(*(anext(registry.watch(f"service-{number}")) for number in range(40)))
    lines = [it for it in caplog.records if it.levelname != "DEBUG" and it.name == "registry_client.cache"]
    assert 1 <= len(lines) <= 2  # for reading and for writing


# ---- traffic policies


@pytest.fixture
async def known(server: RegistryServer, cache_home: Path) -> Path:
    """The file with the policy of a service, of a registry that is away."""
    async with registry_client.connect(server.address) as registry:
        await registry.policy.put(TrafficPolicy("player", timeout=2, split={"version=2.0": 1}))
        await registry.register_once(player("p1"))
        await registry.register_once(player("p2", 8002, version="2.0"))
        async with registry.balancer("player") as players:
            assert {(await players.get()).id for _ in range(4)} == {"p2"}
    server.kill()
    [path] = (cache_home / "grpc-registry").glob("*.policy")
    return path


async def test_a_policy_that_was_known_holds_at_a_cold_start(known: Path, server: RegistryServer) -> None:
    """For those who are known from disk, too; until the registry, which has begun anew, says that there is none."""
    async with registry_client.connect(server.address) as registry, registry.balancer("player") as players:
        assert {(await players.get(timeout=10)).id for _ in range(4)} == {"p2"}
        traffic = registry.traffic("player")
        assert traffic.policy is not None
        await server.start_async()
        await eventually_async(lambda: traffic.policy is None, timeout_s=20, what="it is followed")
        await eventually_async(lambda: PolicyFile.read(_file(known), time.time()) == [], what="it is saved")


def _file(path: Path) -> PolicyFile:
    file = PolicyFile(path.parent, ["h:1"], pb.PoliciesWatchRequest(), DAY_S)
    file.path = path
    return file


@pytest.mark.parametrize("harm", [a_fifo, a_device, lambda path: path.write_bytes(b"x" * 100), Path.unlink])
async def test_what_is_no_policy_of_ours_is_none(
    harm: Callable[[Path], object], known: Path, server: RegistryServer
) -> None:
    harm(known)
    async with registry_client.connect(server.address) as registry:
        traffic = registry.traffic("player")
        await asyncio.wait_for(traffic.known(), 10)
        assert traffic.policy is None


async def test_without_a_directory_no_policy_is_kept(server: RegistryServer, cache_home: Path) -> None:
    async with registry_client.connect(server.address, cache_dir=None) as registry:
        await registry.policy.put(TrafficPolicy("player", timeout=2))
        await registry.traffic("player").known()
    assert not list(cache_home.glob("*/*.policy"))
