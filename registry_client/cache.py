"""SHELL: the last views and traffic policies on disk, so that a process can start while the registry is away.

What is found there is not trusted: it is believed only if it is a regular file that belongs to this user, that nobody
else can write to, of a bounded size, whole, and not too old. Nothing here runs in the loop, and nobody waits for a disk
that does not answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import re
import secrets
import stat
import struct
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from registry_api.registry.v1 import policies_pb2
from registry_api.registry.v1 import registry_pb2 as pb
from registry_client.instance import Instance
from registry_client.view import View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_M = TypeVar("_M", bound=Message)
_ReadT_co = TypeVar("_ReadT_co", covariant=True)

MAX_AGE_S = 24 * 3600.0  # an older view is not offered, unless the user says otherwise
MAX_BYTES = 64 * 1024 * 1024
MAX_FILES = 1_000
MAX_TOTAL_BYTES = 512 * 1024 * 1024
READ_S = 30.0  # how long a watch waits for what is on disk; it has begun meanwhile
FLUSH_S = 1.0  # how long closing a client waits for the disk
TELL_EVERY_S = 600.0
TIDY_EVERY_S = 3600.0
LEFT_OVER_S = 3600.0  # a temporary file this old belongs to a process that was killed

_NAME = "grpc-registry"
_MAGIC = b"grpc-registry view 2\n"
_SAVED_AT = struct.Struct(">d")
_DIGEST_BYTES = hashlib.sha256().digest_size
_OURS = re.compile(r"[0-9a-f]{32}\.(view|policy)|\.view-[0-9a-f]{16}")
_MOST_ENTRIES = 100_000
_CHUNK = 1024 * 1024


def default_dir() -> Path | None:
    """`$XDG_CACHE_HOME/grpc-registry`, by default in `~/.cache`; None for a user without a home directory."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if base.startswith("/"):
        return Path(base) / _NAME
    home = _home()
    if home.startswith("/"):
        return Path(home) / ".cache" / _NAME
    log.info("there is no home directory: views are not kept on disk")
    return None


def _home() -> str:
    """The home directory of the user that this process runs as; empty for a user that the system does not know."""
    import pwd

    home = os.environ.get("HOME", "")
    with contextlib.suppress(KeyError):
        return home if home.startswith("/") else pwd.getpwuid(os.geteuid()).pw_dir
    return ""


class Unusable(Exception):
    """What is on disk is not to be used. `kind` is the same for all that have the same cause."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Saved:
    """A view as it was read back; its age in seconds by the wall clock, which may have been set since."""

    view: View
    token: str
    age_s: float


class Readable(Protocol[_ReadT_co]):
    """A file that was saved."""

    path: Path

    def read(self, now_wall_s: float) -> _ReadT_co | None:
        """What is in it, or None when there is nothing. Raises OSError and Unusable."""


class CacheFile(Generic[_M]):
    """The file of one question to one registry: the last answer, as a message. Reading and writing block."""

    kind: str
    message: type[_M]

    def __init__(self, directory: Path, addresses: Sequence[str], question: Message, max_age_s: float) -> None:
        named = "\n".join(sorted(addresses)).encode() + b"\0" + question.SerializeToString(deterministic=True)
        self.path = directory / f"{hashlib.sha256(named).hexdigest()[:32]}.{self.kind}"
        self._max_age_s = max_age_s

    def _put(self, message: _M, saved_at_s: float) -> None:
        """Replace the file at once, or leave it as it is. `saved_at_s`: when that was last confirmed, by the time of
        day. Raises OSError and Unusable."""
        content = _encode(self.path.name, message, saved_at_s)
        if len(content) > MAX_BYTES:
            raise Unusable("size", f"the {self.kind} is too large to be saved: {len(content):,} bytes")
        with _directory(self.path.parent, make=True) as directory:
            _replace(directory, self.path.name, content)

    def _get(self, now_wall_s: float) -> tuple[_M, float] | None:
        """What was written last, and its age in seconds; None when there is nothing. Raises OSError and Unusable."""
        try:
            with _directory(self.path.parent) as directory:
                content, written_at_s = _load(directory, self.path)
        except FileNotFoundError:
            return None
        saved_at_s, message = _decode(self.path, content, self.message)
        # A file is as old as the older one of the times that it has.
        age_s = now_wall_s - min(saved_at_s, written_at_s)
        if not -self._max_age_s <= age_s <= self._max_age_s:
            raise Unusable("age", f"{_saved(self.path)} is too old to be used: {age_s:,.0f} s")
        return message, max(0.0, age_s)

    def tidy(self, now_wall_s: float) -> None:
        """Remove files of ours that nobody will use any more, in the whole directory. Raises OSError."""
        with _directory(self.path.parent) as directory:
            _tidy(directory, now_wall_s, max(self._max_age_s, MAX_AGE_S))


class ViewFile(CacheFile[pb.WatchResponse]):
    """Of a view."""

    kind = "view"
    message = pb.WatchResponse

    def __init__(
        self, directory: Path, addresses: Sequence[str], question: pb.WatchRequest, max_age_s: float = MAX_AGE_S
    ) -> None:
        super().__init__(directory, addresses, question, max_age_s)

    def write(self, view: View, token: str, saved_at_s: float) -> None:
        """See CacheFile."""
        message = pb.WatchResponse(reset=True, resume_token=token)
        message.header.epoch, message.header.revision = view.epoch, view.revision
        message.upserts.extend(instance.to_proto() for instance in view.instances)
        self._put(message, saved_at_s)

    def read(self, now_wall_s: float) -> Saved | None:
        """See CacheFile."""
        found = self._get(now_wall_s)
        if found is None:
            return None
        message, age_s = found
        view = View({it.key: it for it in map(Instance.from_proto, message.upserts)}, *_order(message), None)
        return Saved(view, message.resume_token, age_s)


class PolicyFile(CacheFile[policies_pb2.PoliciesWatchResponse]):
    """Of the traffic policy of one service, or that there is none."""

    kind = "policy"
    message = policies_pb2.PoliciesWatchResponse

    def write(self, policy: policies_pb2.Policy | None, saved_at_s: float) -> None:
        """See CacheFile."""
        self._put(policies_pb2.PoliciesWatchResponse(policies=[] if policy is None else [policy]), saved_at_s)

    def read(self, now_wall_s: float) -> Sequence[policies_pb2.Policy]:
        """See CacheFile."""
        found = self._get(now_wall_s)
        return () if found is None else found[0].policies


# ---- what is on disk


def _make_directory(path: Path) -> None:
    """Make it and its parents, for this user alone, whatever the umask. Those that are there are left as they are."""
    for missing in reversed([it for it in (path, *path.parents) if not it.exists()]):
        with contextlib.suppress(FileExistsError):
            missing.mkdir(mode=0o700)


@contextlib.contextmanager
def _directory(path: Path, *, make: bool = False) -> Iterator[int]:
    """A descriptor of it, if it belongs to this user or to root. Raises OSError and Unusable."""
    try:
        if make:
            _make_directory(path)
        entry = path.lstat()
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except ValueError as error:  # a NUL in the path
        raise Unusable("path", f"{str(path)!r}: {error}") from None
    try:
        # A link of somebody else's would lead wherever that one likes.
        for owner in (entry.st_uid, os.fstat(directory).st_uid):
            if owner not in (0, os.geteuid()):
                raise Unusable("directory", f"{path} belongs to another user (uid {owner})")
        if path.name == _NAME and os.fstat(directory).st_mode & 0o022:
            os.fchmod(directory, 0o700)
        yield directory
    finally:
        os.close(directory)


def _load(directory: int, path: Path) -> tuple[bytes, float]:
    """The content of a file, and when it was written by the time of day. Raises OSError and Unusable."""
    _check(os.stat(path.name, dir_fd=directory, follow_symlinks=False), path)
    # Should another file have come into its place since: to open one for reading must neither block nor do anything.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    with open(os.open(path.name, flags, dir_fd=directory), "rb", buffering=0) as file:  # noqa: PTH123
        status = os.fstat(file.fileno())
        _check(status, path)
        content = bytearray()
        while len(content) <= MAX_BYTES and (chunk := file.read(_CHUNK)):
            content += chunk
    if len(content) > MAX_BYTES:
        raise Unusable("size", f"{_saved(path)} is too large and ignored")
    return bytes(content), status.st_mtime


def _check(status: os.stat_result, path: Path) -> None:
    """Raises Unusable for what can be no file of ours."""
    if not stat.S_ISREG(status.st_mode):
        raise Unusable("file", f"{path} is no regular file and ignored")
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise Unusable("owner", f"{_saved(path)} belongs to another user, or others can write to it: ignored")
    if status.st_size > MAX_BYTES:
        raise Unusable("size", f"{_saved(path)} is too large and ignored: {status.st_size:,} bytes")


def _replace(directory: int, name: str, content: bytes) -> None:
    """Put a file in place at once. Raises OSError."""
    temporary = f".view-{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123
            file.write(content)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        raise


def _tidy(directory: int, now_wall_s: float, max_age_s: float) -> None:
    kept: list[tuple[float, int, str]] = []
    for name, status in _files(directory):
        age_s = now_wall_s - status.st_mtime
        if age_s > (LEFT_OVER_S if name.startswith(".") else max_age_s):
            _remove(directory, name)
        elif not name.startswith("."):
            kept.append((status.st_mtime, status.st_size, name))
    total = 0
    for number, (_, size, name) in enumerate(sorted(kept, reverse=True)):
        total += size
        if number >= MAX_FILES or total > MAX_TOTAL_BYTES:
            _remove(directory, name)


def _files(directory: int) -> Iterator[tuple[str, os.stat_result]]:
    """Those of ours, and of no one else."""
    with os.scandir(directory) as entries:
        for _, entry in zip(range(_MOST_ENTRIES), entries, strict=False):
            if _OURS.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
                        yield entry.name, status


def _remove(directory: int, name: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(name, dir_fd=directory)


# ---- what is in a file


def _saved(path: Path) -> str:
    return f"the saved {path.suffix[1:]} {path}"


def _encode(name: str, message: Message, saved_at_s: float) -> bytes:
    payload = _SAVED_AT.pack(saved_at_s) + message.SerializeToString()
    return _MAGIC + _digest(name, payload) + payload


def _digest(name: str, payload: bytes) -> bytes:
    """Of the name too: a file that was given the name of another one is not the answer to its question."""
    return hashlib.sha256(name.encode() + b"\0" + payload).digest()


def _decode(path: Path, content: bytes, kind: type[_M]) -> tuple[float, _M]:
    """When it was saved, and what. Raises Unusable."""
    if not content.startswith(_MAGIC):
        raise Unusable("damage", f"{_saved(path)} is damaged and ignored: not one of this version")
    digest, payload = content[len(_MAGIC) :][:_DIGEST_BYTES], content[len(_MAGIC) + _DIGEST_BYTES :]
    if _digest(path.name, payload) != digest:
        raise Unusable("damage", f"{_saved(path)} is damaged and ignored: the checksum does not match")
    try:
        (saved_at_s,) = _SAVED_AT.unpack_from(payload)
        return saved_at_s, kind.FromString(payload[_SAVED_AT.size :])
    except (struct.error, DecodeError) as error:
        raise Unusable("damage", f"{_saved(path)} is damaged and ignored: {error}") from None


def _order(message: pb.WatchResponse) -> tuple[str, int]:
    return message.header.epoch, message.header.revision


# ---- off the loop


class Disk:
    """What the files of one client are read and written by: a daemon thread, there while there is something to do.

    A view that is to be written takes the place of an older one of the same file that still waits, so what waits is
    bounded by the number of files. Each cause of trouble is told every ten minutes at most.
    """

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock  # the time of day, in seconds
        self._lock = threading.Lock()
        self._jobs: dict[object, Callable[[], None]] = {}  # in the order in which they were asked for
        self._thread: threading.Thread | None = None
        self._told: dict[str, float] = {}
        self._tidied_at_s: float | None = None

    async def read(self, file: Readable[_T]) -> _T | None:
        """What is in the file, or None if that is nothing to go by, or takes too long."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[_T | None] = loop.create_future()

        def job() -> None:
            saved = self._read(file)
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(_answer, answer, saved)

        self._ask(answer, job)
        return await self._within(answer, READ_S, "nothing that was saved is used: the disk does not answer")

    def write(self, file: ViewFile, view: View, token: str, age_s: float) -> None:
        """Have it written soon; `age_s` is for how many seconds the view was not confirmed."""
        saved_at_s = self._wall_clock() - age_s
        self._ask(file.path, lambda: self._write(file, lambda: file.write(view, token, saved_at_s)))

    def write_policy(self, file: PolicyFile, policy: policies_pb2.Policy | None) -> None:
        """The same for a policy, or that there is none, which was confirmed just now."""
        saved_at_s = self._wall_clock()
        self._ask(file.path, lambda: self._write(file, lambda: file.write(policy, saved_at_s)))

    async def flush(self) -> None:
        """Wait until all is done that was asked for before, a second at most."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                return
        answer: asyncio.Future[None] = loop.create_future()

        def job() -> None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_answer, answer, None)

        self._ask(answer, job)
        await self._within(answer, FLUSH_S, "views were not saved in time: the disk does not answer")

    async def _within(self, answer: asyncio.Future[_T], seconds: float, complaint: str) -> _T | None:
        try:
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError:
            self._tell("time", complaint)
            return None
        finally:
            with self._lock:
                self._jobs.pop(answer, None)

    # ---- the thread

    def _ask(self, key: object, job: Callable[[], None]) -> None:
        with self._lock:
            self._jobs[key] = job
            if self._thread is None or not self._thread.is_alive():  # after a fork it is not
                self._thread = threading.Thread(target=self._main, name="registry-disk", daemon=True)
                self._thread.start()

    def _main(self) -> None:
        while (job := self._next()) is not None:
            try:
                job()
            except Exception:
                log.exception("the disk cache failed")

    def _next(self) -> Callable[[], None] | None:
        with self._lock:
            for key in self._jobs:
                return self._jobs.pop(key)
            self._thread = None
            return None

    def _read(self, file: Readable[_T]) -> _T | None:
        try:
            return file.read(self._wall_clock())
        except OSError as error:
            self._tell(f"read {error.errno}", f"{_saved(file.path)} could not be read: {error}")
        except Unusable as error:
            self._tell(error.kind, str(error))
        return None

    def _write(self, file: ViewFile | PolicyFile, write: Callable[[], None]) -> None:
        try:
            write()
            self._tidy(file)
        except OSError as error:
            self._tell(f"write {error.errno}", f"views could not be saved to {file.path.parent}: {error}")
        except Unusable as error:
            self._tell(error.kind, f"views are not saved: {error}")

    def _tidy(self, file: ViewFile | PolicyFile) -> None:
        now = self._wall_clock()
        if self._tidied_at_s is None or abs(now - self._tidied_at_s) >= TIDY_EVERY_S:
            self._tidied_at_s = now
            file.tidy(now)

    def _tell(self, kind: str, text: str) -> None:
        now = self._wall_clock()
        is_new = kind not in self._told or abs(now - self._told[kind]) >= TELL_EVERY_S
        if is_new:
            self._told[kind] = now
        log.log(logging.WARNING if is_new else logging.DEBUG, "%s", text)


def _answer(answer: asyncio.Future[_T], value: _T) -> None:
    if not answer.done():
        answer.set_result(value)
