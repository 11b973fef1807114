"""SHELL: sockets to listen on: every address that a host stands for, all of them on one port."""

import errno
import socket
import stat
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

UNIX = "unix:"
_EVERYWHERE = ("", "*", "0.0.0.0", "::")  # noqa: S104 - which is asked for
# How often a port is tried that has to be free for every address of a host.
_TRIES = 20
_LACKING = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_Info = tuple[int, Any]


def bound(address: str) -> list[socket.socket]:
    """Sockets bound to HOST:PORT or unix:PATH. Port 0 takes one that is free. Raises OSError."""
    if address.startswith(UNIX):
        return [_at_path(Path(address.removeprefix(UNIX)))]
    host, _, port = address.rpartition(":")
    infos = _infos(host.strip("[]"), int(port))
    for _ in range(_TRIES):
        with suppress(_OtherTaken):
            return _all(infos)
    raise OSError(errno.EADDRINUSE, "no port is free for all addresses")


class _OtherTaken(Exception):
    """A port that was free for the first address of a host is not for another one."""


def _infos(host: str, port: int) -> list[_Info]:
    if host in _EVERYWHERE and socket.has_dualstack_ipv6():
        return [(socket.AF_INET6, ("::", port))]
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
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


def _at_path(path: Path) -> socket.socket:
    """Takes the place of a socket that a server left there which is gone."""
    with ExitStack() as opened:
        it = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode) and not _answers(path):
            path.unlink()
        it.bind(str(path))
        opened.pop_all()
        return it


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0
