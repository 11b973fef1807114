"""What a call holds in place of an attempt while it has none."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from grpc import StatusCode

from balancer import native
from balancer.native import EOF


class Unsent:
    """Stands in for an attempt while a call has none; or, once it is `end`ed, for good."""

    def __init__(self, deadline: float | None) -> None:
        self._deadline = deadline
        self._status: Any = None
        self._initial_metadata: tuple[Any, ...] | None = None
        self._locally_cancelled = False
        self._over: asyncio.Future[None] | None = None

    def end(self, code: StatusCode, details: str) -> None:
        """The call ends here, with no attempt to tell of."""
        if self._status is None:
            self._status = native.Status(code.value[0], details, (), details)
            self._initial_metadata = ()
            self.release()

    def end_as(self, attempt: Any, initial_metadata: tuple[Any, ...] | None = ()) -> None:
        """The call ends as this attempt did."""
        self._status = attempt._status  # noqa: SLF001 - grpcio's own objects read it so too
        self._locally_cancelled = attempt.is_locally_cancelled()
        self._initial_metadata = initial_metadata
        self.release()

    def release(self) -> None:
        """An attempt takes this one's place: whoever waits here looks again."""
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    async def _wait(self) -> None:
        if self._status is None:
            if self._over is None:
                self._over = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._over})

    async def status(self) -> Any:
        await self._wait()
        return self._status

    async def initial_metadata(self) -> tuple[Any, ...] | None:
        await self._wait()
        return self._initial_metadata

    def done(self) -> bool:
        return self._status is not None

    def is_ok(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return self._status is not None and self._status.code() == StatusCode.CANCELLED.value[0]

    def is_locally_cancelled(self) -> bool:
        return self._locally_cancelled

    def cancel(self, details: str) -> bool:
        if self._status is not None:
            return False
        self._locally_cancelled = True
        self.end(StatusCode.CANCELLED, details)
        return True

    def set_internal_error(self, details: str) -> None:
        self.end(StatusCode.INTERNAL, details)

    def time_remaining(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.time())

    async def receive_serialized_message(self) -> Any:
        return EOF

    async def send_serialized_message(self, message: bytes) -> None:
        raise native.InternalError("the call has ended")

    async def send_receive_close(self) -> None:
        """Nothing was opened, nothing is left to close."""

    def __repr__(self) -> str:
        state = "waiting for a connection" if self._status is None else f"ended: {self._status.details()}"
        return f"<AioCall {state}>"
