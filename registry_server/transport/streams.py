"""SHELL: the life of streams, the same on every transport: who they are, and how they end when the server stops.

A transport that waits while it writes, as grpc.aio does, runs them by the functions here; one that is called back
needs `Streams` alone.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from registry_server.errors import RequestError
from registry_server.rpc.table import Broadcast, Caller, Conversation, Refusable, Session, Subscription, parse

# When the server stops, those who watch its health hear of it first, so much earlier than any stream ends.
NOTICE_S = 0.1
# Then streams are ended spread over so long, so that their clients do not all come back at once.
MAX_JITTER_S = 0.5
# What is under way when the server stops has so long to end.
GRACE_S = 2.0
# How long a client may take to say something on a stream that is refused anyway.
REFUSAL_S = 0.25

# The next message of a stream, None when its client has no more; writing one.
Read = Callable[[], Awaitable[bytes | None]]
Write = Callable[[bytes], Awaitable[None]]


class Stream(Protocol):
    """One that is open."""

    def end(self) -> None:
        """End it with the status of `shutting_down`, soon; it is discarded then."""


class Streams:
    """All streams that are open on a server. `rng` spreads their ends."""

    def __init__(self, rng: random.Random) -> None:
        self.is_stopping = False
        self.rng = rng
        self._open: set[Stream] = set()
        self._all_gone = asyncio.Event()

    def add(self, stream: Stream) -> None:
        """Know a stream. None is to be opened while the server stops: a client whose stream ended comes back at once"""
        self._open.add(stream)

    def discard(self, stream: Stream) -> None:
        """Forget one that is over."""
        self._open.discard(stream)
        if not self._open:
            self._all_gone.set()

    async def stop(self) -> None:
        """End them all, spread over a moment; return when they are gone, or do not go."""
        self.is_stopping = True
        if not self._open:
            return
        self._all_gone.clear()
        loop = asyncio.get_running_loop()
        timers = [loop.call_later(NOTICE_S + self.rng.uniform(0, MAX_JITTER_S), it.end) for it in self._open]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(NOTICE_S + MAX_JITTER_S + GRACE_S):
                await self._all_gone.wait()
        for timer in timers:
            timer.cancel()


class Outbox:
    """An Outlet that keeps what it was sent until the one writer of the stream takes it."""

    def __init__(self, ending: Refusable) -> None:
        self._ending = ending
        self._chunks: Sequence[bytes] | None = None
        self._is_closed = False
        self._waiter: asyncio.Future[None] | None = None

    def send(self, chunks: Sequence[bytes]) -> None:
        """See Sink."""
        self._chunks = chunks
        self._wake()

    def refuse(self, error: RequestError, /) -> None:
        """See Refusable."""
        self._ending.refuse(error)

    def close(self) -> None:
        """Nothing more comes."""
        self._is_closed = True
        self._wake()

    async def take(self) -> bytes | None:
        """The next message; None after the last one."""
        if self._chunks is None and not self._is_closed:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        chunks, self._chunks = self._chunks, None
        if chunks is None:
            return None
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


async def converse(method: Conversation[Any], caller: Caller, read: Read, write: Write, ending: Refusable) -> None:
    """Run one Conversation until its client has no more to ask. Raises what the method raises."""
    with contextlib.ExitStack() as over:
        if method.opened is not None:
            try:
                over.callback(method.opened(caller, ending))
            except Exception:
                await _heard(read)
                raise
        while (message := await read()) is not None:
            await write(await method.answer(parse(method.request, message), caller))


async def broadcast(method: Broadcast[Any], caller: Caller, message: bytes, write: Write, ending: Refusable) -> None:
    """Run one Broadcast until it is cancelled. Raises what the method raises."""
    outbox = Outbox(ending)
    subscription = method.join(parse(method.request, message), caller, outbox)
    try:
        await _write_all(outbox, subscription, write)
    finally:
        subscription.leave()


async def hold(method: Session[Any], caller: Caller, read: Read, write: Write, ending: Refusable) -> None:
    """Run one Session until its client has no more to say, and what it was told is written. Raises what the method
    raises."""
    outbox = Outbox(ending)
    try:
        dialogue = method.open(caller, outbox)
    except Exception:
        await _heard(read)
        raise
    writing = asyncio.create_task(_write_all(outbox, dialogue, write))
    try:
        while (message := await read()) is not None:
            await dialogue.received(parse(method.request, message))
    finally:
        dialogue.leave()
        outbox.close()
        await writing  # never cut off: after a first message that was, gRPC's core does not end the stream any more


async def _heard(read: Read) -> None:
    """Wait until the client has said something, or waits for us to: while one of grpc.aio writes its first message, it
    takes an end for an error of its own."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(REFUSAL_S):
            await read()


async def _write_all(outbox: Outbox, subscription: Subscription, write: Write) -> None:
    while (message := await outbox.take()) is not None:
        await write(message)
        subscription.free()
