"""SHELL: keeps a warden at what is granted now: reads the file again when it changes, and looks whose token has ended.

A file that is wrong changes nothing: who may, may on, and the log says once what is wrong. One that is being written is
left alone until two looks find it the same.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from registry_server.access.identities import Access
from registry_server.access.warden import Warden

LOOK_S = 0.5

log = logging.getLogger(__name__)

Mark = tuple[int, ...]
"""What tells one state of a file from another; empty for one that is not there."""


class Rereading:
    """`read` gives what a file grants; raises ValueError, whose text is one line for whoever wrote the file."""

    def __init__(self, warden: Warden, access: Access, read: Callable[[str], Access]) -> None:
        self._warden = warden
        self._access = access
        self._read = read
        self._mark = self._seen = _mark(access.file)

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self._access.file:
                await self._look()
            if self._warden.is_due:
                await self._warden.review()
            self._warden.tell()

    async def _look(self) -> None:
        """The file may be on a disk that stands still: others do not wait for it."""
        mark = await asyncio.to_thread(_mark, self._access.file)
        before, self._seen = self._seen, mark
        if mark == self._mark or mark != before:
            return
        self._mark = mark
        try:
            access = await asyncio.to_thread(self._read, self._access.file)
        except ValueError as error:
            log.warning("what is granted stays as it was: %s", error)
            return
        if access != self._access:
            self._access = access
            self._warden.grant(access)
            log.info("what is granted was read again: %d identities", len(access.identities))
            await self._warden.review()


def _mark(file: str) -> Mark:
    try:
        it = Path(file).stat()
    except OSError:
        return ()
    return (it.st_mtime_ns, it.st_ctime_ns, it.st_size, it.st_ino, it.st_dev)
