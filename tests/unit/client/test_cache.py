"""Views on disk: whole or not at all, this user's or nobody's, and not for ever."""

import asyncio
import contextlib
import logging
import os
import pwd
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from registry_client import cache
from registry_client.cache import MAX_AGE_S, MAX_BYTES, Disk, Unusable, ViewFile, default_dir
from registry_client.instance import Instance
from registry_client.view import View
from tests.support.waiting import eventually

QUESTION = pb.WatchRequest(namespace="default", services=["player"])
PLAYER = Instance(
    "player", "h", 1, id="p1", namespace="default", revision=7, create_revision=3, generation=2, ttl_s=15.0
)
VIEW = View({PLAYER.key: PLAYER}, "e1", 7, None)
NOBODY = 65534


def file_in(directory: Path, **options: float) -> ViewFile:
    return ViewFile(directory, ["h:1"], QUESTION, **options)


def written(directory: Path) -> ViewFile:
    """A file with a view in it, written now."""
    file = file_in(directory)
    file.write(VIEW, "token", time.time())
    return file


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it belong to another user: only root can do that, so anybody else becomes another one."""
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: NOBODY)


def aged(file: ViewFile, by_s: float) -> None:
    """Make it so much older, by its time of change."""
    at = time.time() - by_s
    os.utime(file.path, (at, at))


def test_what_was_written_is_read(tmp_path: Path) -> None:
    now = time.time()
    file_in(tmp_path / "new" / "folder").write(VIEW, "token", now - 10)
    saved = file_in(tmp_path / "new" / "folder").read(now + 20)
    assert saved is not None
    assert (saved.view.by_key, saved.view.epoch, saved.view.revision) == (VIEW.by_key, "e1", 7)
    assert saved.token == "token"
    assert saved.age_s == pytest.approx(30.0)
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == [file_in(tmp_path).path.name]


def test_each_question_has_a_file_of_its_own(tmp_path: Path) -> None:
    others = [
        pb.WatchRequest(namespace="prod", services=["player"]),
        pb.WatchRequest(namespace="default", services=["player", "chat"]),
        pb.WatchRequest(namespace="default", services=["player"], filter=pb.Filter(tags=["eu"])),
    ]
    paths = {ViewFile(tmp_path, ["h:1"], question).path for question in (QUESTION, *others)}
    paths.add(ViewFile(tmp_path, ["h:2"], QUESTION).path)
    assert len(paths) == 5
    assert ViewFile(tmp_path, ["a", "b"], QUESTION).path == ViewFile(tmp_path, ["b", "a"], QUESTION).path


def test_a_file_under_the_name_of_another_question_is_not_its_answer(tmp_path: Path) -> None:
    other = ViewFile(tmp_path, ["h:1"], pb.WatchRequest(namespace="prod"))
    written(tmp_path).path.rename(other.path)
    with pytest.raises(Unusable, match="damaged"):
        other.read(time.time())


def test_nothing_there_is_nothing(tmp_path: Path) -> None:
    assert file_in(tmp_path).read(0.0) is None
    assert file_in(tmp_path / "nowhere").read(0.0) is None


def test_any_damage_is_noticed(tmp_path: Path) -> None:
    file = written(tmp_path)
    whole = file.path.read_bytes()
    damaged = [whole[:length] for length in range(len(whole))]
    damaged += [whole[:i] + bytes([whole[i] ^ 0xFF]) + whole[i + 1 :] for i in range(len(whole))]
    damaged += [whole + b"x", b"", b"something else entirely"]
    for content in damaged:
        file.path.write_bytes(content)
        with pytest.raises(Unusable, match="damaged"):
            file.read(time.time())


# ---- time


def test_a_view_is_used_for_a_day_unless_its_user_says_otherwise(tmp_path: Path) -> None:
    file = written(tmp_path)
    assert file.read(time.time() + MAX_AGE_S - 60) is not None
    with pytest.raises(Unusable, match="too old"):
        file.read(time.time() + MAX_AGE_S + 60)
    assert file_in(tmp_path, max_age_s=10 * MAX_AGE_S).read(time.time() + MAX_AGE_S + 60) is not None
    with pytest.raises(Unusable, match="too old"):
        file_in(tmp_path, max_age_s=5.0).read(time.time() + 6)


def test_a_file_is_as_old_as_the_older_of_its_times(tmp_path: Path) -> None:
    file = written(tmp_path)
    aged(file, 600)
    saved = file.read(time.time())
    assert saved is not None
    assert saved.age_s == pytest.approx(600, abs=5)
    aged(file, 365 * MAX_AGE_S)
    with pytest.raises(Unusable, match="too old"):
        file.read(time.time())


def test_a_clock_that_was_set_back_makes_nothing_younger_than_now(tmp_path: Path) -> None:
    saved = written(tmp_path).read(time.time() - 3600)
    assert saved is not None
    assert saved.age_s == 0.0


def test_a_view_from_a_time_that_is_far_ahead_is_not_used(tmp_path: Path) -> None:
    """When it was written, or now, the clock was wrong: nobody knows its age."""
    with pytest.raises(Unusable, match="too old"):
        written(tmp_path).read(time.time() - 2 * MAX_AGE_S)


def test_a_clock_that_was_set_back_stops_no_writing(tmp_path: Path) -> None:
    file = file_in(tmp_path)
    file.write(VIEW, "before", time.time())
    file.write(VIEW, "after", time.time() - 7200)
    saved = file.read(time.time() - 7200)
    assert saved is not None
    assert saved.token == "after"


def test_old_files_and_too_many_files_are_removed_and_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MAX_FILES", 3)
    names = [f"{number:032x}.view" for number in range(6)]
    for age, name in enumerate(names):
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (time.time() - age, time.time() - age))
    os.utime(tmp_path / names[0], (0, time.time() - 2 * MAX_AGE_S))
    (tmp_path / ".view-0123456789abcdef").write_text("left over by a process that was killed")
    os.utime(tmp_path / ".view-0123456789abcdef", (0, 0))
    (tmp_path / ".view-0123456789abcdee").write_text("being written")
    others = ["notes.view", "x.txt", f"{7:032x}.view.bak"]
    for name in others:
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / f"{9:032x}.view").mkdir()
    file_in(tmp_path).tidy(time.time())
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {*names[1:4], *others, ".view-0123456789abcdee", f"{9:032x}.view"}


def test_what_is_kept_is_bounded_in_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_TOTAL_BYTES", 25)
    for age in range(4):
        path = tmp_path / f"{age:032x}.view"
        path.write_text("0123456789")
        os.utime(path, (0, time.time() - age))
    file_in(tmp_path).tidy(time.time())
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{age:032x}.view" for age in range(2)]


# ---- what stands in its place


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


def a_directory(path: Path) -> None:
    path.mkdir()


def a_link(path: Path) -> None:
    target = path.parent / "elsewhere"
    written(path.parent).path.rename(target)
    path.symlink_to(target)


def a_link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_socket(path: Path) -> None:
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path.name)  # the name of a socket has 107 bytes at most


def ten_gigabytes(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 * 1024**3)


def one_that_others_can_write(path: Path) -> None:
    written(path.parent).path.chmod(0o622)


@pytest.mark.parametrize(
    "make", [a_fifo, a_directory, a_link, a_link_to_a_device, a_socket, ten_gigabytes, one_that_others_can_write]
)
def test_what_is_no_file_of_ours_is_not_read(make: Callable[[Path], None], tmp_path: Path) -> None:
    file = file_in(tmp_path)
    make(file.path)
    began = time.monotonic()
    with pytest.raises(Unusable):
        file.read(time.time())
    assert time.monotonic() - began < 5


def test_the_file_of_another_user_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path)
    give_away(file.path, monkeypatch)
    with pytest.raises(Unusable, match="another user"):
        file.read(time.time())


@pytest.mark.parametrize("by_link", [False, True])
def test_the_directory_of_another_user_is_not_used(
    by_link: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "theirs"
    written(theirs)
    if by_link:
        (tmp_path / "link").symlink_to(theirs)
        theirs = tmp_path / "link"
    give_away(theirs, monkeypatch)
    before = sorted(path.stat().st_mtime_ns for path in theirs.iterdir())
    for attempt in (lambda: file_in(theirs).read(time.time()), lambda: file_in(theirs).write(VIEW, "t", time.time())):
        with pytest.raises(Unusable, match="another user"):
            attempt()
    assert sorted(path.stat().st_mtime_ns for path in theirs.iterdir()) == before


def test_a_link_of_our_own_to_a_directory_of_our_own_is_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "here").symlink_to(tmp_path / "there")
    assert written(tmp_path / "here").read(time.time()) is not None


@pytest.mark.parametrize("make", [a_fifo, a_link_to_a_device, a_link])
def test_what_stands_in_the_place_of_a_file_is_replaced_and_not_written_to(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    file = file_in(tmp_path)
    make(file.path)
    file.write(VIEW, "new", time.time())
    saved = file.read(time.time())
    assert saved is not None
    assert saved.token == "new"
    if (tmp_path / "elsewhere").exists():
        assert b"new" not in (tmp_path / "elsewhere").read_bytes()


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def test_what_is_made_is_for_this_user_alone_whatever_the_umask(tmp_path: Path, no_umask: None) -> None:
    file = written(tmp_path / "a" / "b" / "grpc-registry")
    for made in (tmp_path / "a", tmp_path / "a" / "b", file.path.parent):
        assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_a_directory_that_an_earlier_version_left_open_is_closed(tmp_path: Path) -> None:
    (tmp_path / "grpc-registry").mkdir()
    (tmp_path / "grpc-registry").chmod(0o777)
    written(tmp_path / "grpc-registry")
    assert stat.S_IMODE((tmp_path / "grpc-registry").stat().st_mode) == 0o700


def test_a_disk_that_is_full_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="No space"):
        file.write(VIEW, "later", time.time())
    monkeypatch.undo()
    saved = file.read(time.time())
    assert saved is not None
    assert saved.token == "token"
    assert [path.name for path in tmp_path.iterdir()] == [file.path.name]


def test_a_view_too_large_for_a_file_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_BYTES", 100)
    with pytest.raises(Unusable, match="too large"):
        written(tmp_path)
    assert not list(tmp_path.iterdir())
    assert MAX_BYTES > 10_000_000


# ---- the directory


def test_the_users_cache_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_dir() == tmp_path / "grpc-registry"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/to/be/ignored")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_dir() == tmp_path / ".cache" / "grpc-registry"


@pytest.mark.parametrize("home", [None, "", "relative"])
def test_without_a_home_in_the_environment_the_system_is_asked(
    home: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME") if home is None else monkeypatch.setenv("HOME", home)
    assert default_dir() == Path(pwd.getpwuid(os.geteuid()).pw_dir) / ".cache" / "grpc-registry"


def test_a_user_that_the_system_does_not_know_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs as any uid."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 3_456_789)
    assert default_dir() is None


# ---- off the loop


async def test_the_disk_reads_what_it_has_written(tmp_path: Path) -> None:
    disk = Disk(time.time)
    assert await disk.read(file_in(tmp_path)) is None
    disk.write(file_in(tmp_path), VIEW, "token", 5.0)
    await disk.flush()
    saved = await disk.read(file_in(tmp_path))
    assert saved is not None
    assert saved.token == "token"
    assert saved.age_s == pytest.approx(5.0, abs=1.0)


async def test_the_disk_has_a_thread_only_while_it_has_something_to_do(tmp_path: Path) -> None:
    disk = Disk(time.time)
    await disk.flush()
    disk.write(file_in(tmp_path), VIEW, "token", 0.0)
    await disk.flush()
    eventually(lambda: "registry-disk" not in {thread.name for thread in threading.enumerate()})


class Stuck(ViewFile):
    """On a disk that does not answer until it is freed."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, ["h:1"], QUESTION)
        self.freed = threading.Event()
        self.tokens: list[str] = []

    def write(self, view: View, token: str, saved_at_s: float) -> None:
        self.freed.wait()
        self.tokens.append(token)
        super().write(view, token, saved_at_s)


async def test_nobody_waits_for_a_disk_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cache, "READ_S", 0.1)
    disk, file = Disk(time.time), Stuck(tmp_path)
    began = time.monotonic()
    for number in range(1000):
        disk.write(file, VIEW, f"{number}", 0.0)
    assert await disk.read(file) is None
    await disk.flush()
    assert time.monotonic() - began < 5
    assert "does not answer" in caplog.text
    assert len(disk._jobs) <= 1  # the latest view is all that waits
    file.freed.set()
    await disk.flush()
    assert file.tokens[-1] == "999"
    assert len(file.tokens) <= 2


async def test_one_cause_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    clock = [1000.0]
    disk = Disk(lambda: clock[0])
    questions = [pb.WatchRequest(services=[f"s{number}"]) for number in range(350)]
    with caplog.at_level(logging.INFO):
        for question in questions:
            disk.write(ViewFile(tmp_path / "file", ["h:1"], question), VIEW, "token", 0.0)
        await disk.flush()
        assert len(caplog.records) == 1
        clock[0] += cache.TELL_EVERY_S
        disk.write(file_in(tmp_path / "file"), VIEW, "token", 0.0)
        await disk.flush()
        assert len(caplog.records) == 2


@pytest.mark.parametrize("path", ["with\0nul", "x" * 5000])
async def test_a_directory_that_cannot_be_is_a_line(path: str, caplog: pytest.LogCaptureFixture) -> None:
    disk = Disk(time.time)
    disk.write(file_in(Path("/tmp") / path), VIEW, "token", 0.0)
    await disk.flush()
    assert await disk.read(file_in(Path("/tmp") / path)) is None
    assert 1 <= len(caplog.records) <= 2
    assert "Traceback" not in caplog.text


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_disk_works_after_a_fork(tmp_path: Path) -> None:
    """The thread of the parent is not there in the child; what the child makes anew works."""
    disk, file = Disk(time.time), Stuck(tmp_path / "parent")
    disk.write(file, VIEW, "token", 0.0)
    pid = os.fork()
    if pid == 0:
        child = Disk(time.time)
        child.write(file_in(tmp_path / "child"), VIEW, "token", 0.0)
        asyncio.run(child.flush())
        os._exit(0 if file_in(tmp_path / "child").read(time.time()) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    file.freed.set()
    eventually(lambda: file.tokens)
