"""SHELL: the command that is registered for as long as it runs."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType


class Command:
    """A child process: started by entering, and told to end (SIGTERM) by leaving, which waits for that.

    Entering raises OSError when there is no such command.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = arguments
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(*self.arguments)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.end()

    async def end(self) -> int:
        """Tell it to end, if it has not, and wait; its exit code as a shell shows it."""
        assert self._process is not None  # noqa: S101 - entered
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
        return await self.wait()

    async def wait(self) -> int:
        """Wait until it has ended; its exit code as a shell shows it: 128 and the signal that ended it."""
        assert self._process is not None  # noqa: S101 - entered
        code = await self._process.wait()
        return code if code >= 0 else 128 - code
