"""SHELL: where to listen: every address that a host stands for, all on one port; or a file, for who is on this machine.

The file of a server that is gone is replaced, that of one that answers is not. Who may connect is decided by the file's
mode, which it has before anybody can.
"""

import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry_api.limits import UNIX

# Its user alone, as a file that is a way in.
SOCKET_MODE = 0o600
BACKLOG = 4096
_EVERYWHERE = ("", "*", "0.0.0.0", "::")  # noqa: S104 - which is asked for
# How often a port is tried that has to be free for every address of a host; and a lock that another server has, with
# so many seconds between two tries.
_TRIES = 20
_AGAIN_S = 0.01
_LACKING = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_Info = tuple[int, Any]


@dataclass(frozen=True, slots=True)
class SocketFile:
    """The file of a socket that is listened on: that one, and none that somebody else put in its place."""

    path: Path
    device: int
    inode: int

    @classmethod
    def at(cls, path: Path) -> "SocketFile":
        """The file that is there now. Raises OSError."""
        found = path.lstat()
        return cls(path, found.st_dev, found.st_ino)

    def remove(self) -> None:
        """Nobody finds the way here any more. While the socket is open, no other file has its inode."""
        with suppress(OSError):
            if SocketFile.at(self.path) == self:
                self.path.unlink()


@dataclass(frozen=True, slots=True)
class Bound:
    """The sockets of one address."""

    address: str  # with the port that was taken, where any was asked for
    sockets: list[socket.socket]
    file: SocketFile | None = None

    def close(self) -> None:
        """Let go of them. May be called more than once, and when others have closed them."""
        self.remove_file()
        for it in self.sockets:
            it.close()

    def remove_file(self) -> None:
        """The way here is gone; to be called before anybody closes the socket."""
        if self.file is not None:
            self.file.remove()


def bound(address: str, socket_mode: int = SOCKET_MODE) -> Bound:
    """Sockets bound to HOST:PORT or unix:PATH. Port 0 takes one that is free. Raises OSError."""
    if address.startswith(UNIX):
        return _at_path(address, path_of(address), socket_mode)
    host, _, port = address.rpartition(":")
    infos = _infos(host.strip("[]"), int(port))
    for _ in range(_TRIES):
        with suppress(_OtherTaken):
            sockets = _all(infos)
            return Bound(f"{host}:{sockets[0].getsockname()[1]}", sockets)
    raise OSError(errno.EADDRINUSE, "no port is free for all addresses")


def path_of(address: str) -> Path:
    """The PATH of unix:PATH."""
    return Path(address.removeprefix(UNIX))


class _OtherTaken(Exception):
    """A port that was free for the first address of a host is not for another one."""


def _infos(host: str, port: int) -> list[_Info]:
    if host in _EVERYWHERE and socket.has_dualstack_ipv6():
        return [(socket.AF_INET6, ("::", port))]
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except UnicodeError:
        raise OSError(errno.EINVAL, "no such host") from None
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _all(infos: list[_Info]) -> list[socket.socket]:
    """One socket for each address that this machine has. Those after the first get the port of the first."""
    sockets: list[socket.socket] = []
    lacking = OSError(errno.EADDRNOTAVAIL, "no such address")
    with ExitStack() as opened:
        for family, (host, asked, *rest) in infos:
            port = sockets[0].getsockname()[1] if sockets else asked
            try:
                sockets.append(opened.enter_context(_one(family, (host, port, *rest))))
            except OSError as error:
                if error.errno == errno.EADDRINUSE and not asked:
                    raise _OtherTaken from None
                if error.errno not in _LACKING:
                    raise
                lacking = error
        if not sockets:
            raise lacking
        opened.pop_all()
    return sockets


def _one(family: int, address: Any) -> socket.socket:
    with ExitStack() as opened:
        it = opened.enter_context(socket.socket(family, socket.SOCK_STREAM))
        it.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            it.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
        it.bind(address)
        opened.pop_all()
        return it


# ---- files


def _at_path(address: str, path: Path, mode: int) -> Bound:
    with ExitStack() as opened:
        with place(path, mode):
            it = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            it.bind(str(path))
            it.listen(BACKLOG)  # while the place is ours: whoever looks next finds somebody who answers
        file = SocketFile.at(path)
        opened.pop_all()
    return Bound(address, [it], file)


@contextmanager
def place(path: Path, mode: int) -> Iterator[None]:
    """Within this a socket may be bound at the path, and has to listen at the end; no other server is in it meanwhile.

    What a server left there that is gone is removed first. Raises OSError.
    """
    with _locked(path.parent):
        _remove_dead(path)
        others = os.umask(0o777 & ~mode)
        try:
            yield
        finally:
            os.umask(others)
        path.chmod(mode)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Two servers that start together do not take each other's socket for a dead one's.

    Without a lock where the directory cannot be read, or somebody else keeps it.
    """
    with ExitStack() as opened:
        with suppress(OSError):
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, fd)
            _lock(fd)
        yield


def _lock(fd: int) -> None:
    for _ in range(_TRIES):
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(_AGAIN_S)


def _remove_dead(path: Path) -> None:
    """Remove a socket that nobody listens on. What is no socket stays, and so does what may be somebody's."""
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            if _is_dead(path):
                path.unlink()
            else:
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        else:
            raise OSError(errno.EEXIST, "there is a file that is no socket")


def _is_dead(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # who stands still has a full queue
        return probe.connect_ex(str(path)) == errno.ECONNREFUSED
