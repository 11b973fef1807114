"""SHELL: keeps a warden at what is granted now: reads the file again when it changes, and looks whose token has ended.

A file that is wrong changes nothing: who may, may on, and the log says once what is wrong. One that is being written is
left alone until two looks find it the same.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from registry_server.access.identities import Access
from registry_server.access.warden import Warden

LOOK_S = 0.5

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Mark = tuple[int, ...]
"""What tells one state of a file from another; empty for one that is not there."""


class Rereading:
    """`read` gives what a file grants; raises ValueError, whose text is one line for whoever wrote the file."""

    def __init__(self, warden: Warden, access: Access, read: Callable[[str], Access]) -> None:
        self._warden = warden
        self._access = access
        self._read = read
        self._file = access.file
        self._mark = self._seen = _mark(self._file)

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
        mark = await _aside(lambda: _mark(self._file))
        before, self._seen = self._seen, mark
        if mark == self._mark or mark != before:
            return
        self._mark = mark
        try:
            access = await _aside(lambda: self._read(self._file))
        except ValueError as error:
            log.warning("what is granted stays as it was: %s", error)
            return
        if access != self._access:
            self._access = access
            self._warden.grant(access)
            log.info("what is granted was read again: %d identities", len(access.identities))
            await self._warden.review()


async def _aside(work: Callable[[], Result]) -> Result:
    """What comes of it in a thread of its own, which holds up nobody, and no end of the process either."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[Result] = loop.create_future()

    def tell(set_: Callable[[Any], None], value: object) -> None:
        def told() -> None:
            if not outcome.done():
                set_(value)

        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(told)

    def run() -> None:
        try:
            tell(outcome.set_result, work())
        except Exception as error:
            tell(outcome.set_exception, error)

    threading.Thread(target=run, name="registry-access", daemon=True).start()
    return await outcome


def _mark(file: str) -> Mark:
    try:
        it = Path(file).stat()
    except OSError:
        return ()
    return (it.st_mtime_ns, it.st_ctime_ns, it.st_size, it.st_ino, it.st_dev)
