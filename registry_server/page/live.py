"""SHELL: what an open page is told, as it happens: server-sent events, on one connection for each page."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from functools import partial

from aiohttp import hdrs, web

from registry_server.errors import RequestError, Unavailable
from registry_server.page.display import Data, Display, Message
from registry_server.rpc.table import Caller, Credentials

EVENT_STREAM = "text/event-stream"
# A proxy is asked to pass on each message as it comes.
_HEADERS = {hdrs.CONTENT_TYPE: EVENT_STREAM, hdrs.CACHE_CONTROL: "no-store, no-transform", "X-Accel-Buffering": "no"}
# So many pages may be open. Those that nobody sees close their streams.
MAX_PAGES = 64
# How long a page waits for what changed, at the least, and for the numbers of the server.
LOOK_S, TICK_S = 0.2, 2.0
# What a page is told may take so much of the time; the rest is everybody else's. And so long it waits at the most.
SHARE, LONGEST_REST_S = 0.1, 3.0
# Who does not take a message within this is gone.
WRITE_S = 20.0

HasLeft = Callable[[web.Request, Credentials], bool]


class Pages:
    """All pages that are open. `numbers` says how the server is; `known` who a caller is by now; `has_left` whether
    a request's session is over."""

    def __init__(self, numbers: Callable[[Caller], Data], known: Callable[[Caller], Caller], has_left: HasLeft) -> None:
        self._numbers = numbers
        self._known = known
        self._has_left = has_left
        self._open = 0
        self._is_over = asyncio.Event()

    def close(self) -> None:
        """The server stops: every page is told no more."""
        self._is_over.set()

    async def show(self, request: web.Request, caller: Caller, display: Display) -> web.StreamResponse:
        """Tell a page until it goes, or may not see it any more. Raises Unavailable when there are too many."""
        if request.method == hdrs.METH_HEAD:
            return web.Response(content_type=EVENT_STREAM)
        if self._open >= MAX_PAGES or self._is_over.is_set():
            raise Unavailable(f"{MAX_PAGES} pages are open already")
        self._open += 1
        try:
            response = web.StreamResponse(headers=_HEADERS)
            await response.prepare(request)
            await self._tell(response, caller, display, partial(self._may_go_on, request, caller))
        except (ConnectionError, TimeoutError):  # it is gone
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._open -= 1
        return response

    async def _tell(
        self, response: web.StreamResponse, caller: Caller, display: Display, may_go_on: Callable[[], bool]
    ) -> None:
        numbers_at = 0.0
        while not self._is_over.is_set():
            began = time.monotonic()
            if began >= numbers_at:
                numbers_at = began + TICK_S
                if not may_go_on():
                    return
                await _write(response, Message("server", self._numbers(caller)))
                for message in display.held():
                    await _write(response, message)
            for message in display.messages(time.time()):
                await _write(response, message)
            took = time.monotonic() - began
            await self._rest(min(max(LOOK_S, took / SHARE), LONGEST_REST_S))

    def _may_go_on(self, request: web.Request, caller: Caller) -> bool:
        """Whether who opened the page is still logged in and who that was, and may do the same."""
        if self._has_left(request, caller.credentials):
            return False
        try:
            now = self._known(caller)
        except RequestError:
            return False
        return (now.identity, now.rights) == (caller.identity, caller.rights)

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._is_over.wait()


async def _write(response: web.StreamResponse, message: Message) -> None:
    """Raises ConnectionError, TimeoutError. Others have a turn between two messages."""
    said = json.dumps(message.data, separators=(",", ":"))
    async with asyncio.timeout(WRITE_S):
        await response.write(f"event: {message.event}\ndata: {said}\n\n".encode())
    await asyncio.sleep(0)
