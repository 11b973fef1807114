"""SHELL: keeps a warden at what is granted now: reads the file again when it changes, and looks whose token has ended.

A file that is wrong changes nothing: who may, may on, and the log says once what is wrong. One that is being written is
left alone until two looks find it the same.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from registry_server.access.identities import Access
from registry_server.access.warden import Warden
from registry_server.aside import aside

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
        self._file = access.file
        # Of what the file was when `access` was read nobody knows: since then it may have changed, so it is read again.
        self._mark: Mark = ()
        self._seen: Mark = ()

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._on_and_on(self._look_at_streams))
            if self._file:
                tasks.create_task(self._on_and_on(self._look_at_file))

    async def _on_and_on(self, look: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await look()
            except Exception:
                log.exception("a mistake of this server in looking after what is granted")

    async def _look_at_streams(self) -> None:
        if self._warden.is_due:
            await self._warden.review()
        self._warden.tell()

    async def _look_at_file(self) -> None:
        """On a disk that stands still nothing but this waits for it."""
        mark = await aside(lambda: _mark(self._file))
        before, self._seen = self._seen, mark
        if mark == self._mark or mark != before:
            return
        self._mark = mark
        try:
            access = await aside(lambda: self._read(self._file))
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
