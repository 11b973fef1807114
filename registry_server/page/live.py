"""SHELL: what an open page is told, as it happens: server-sent events, on one connection for each page."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable

from aiohttp import hdrs, web

from registry_server.errors import RequestError, Unavailable
from registry_server.limits.peers import host_of
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


class _Open:
    """A page. `whose`: an identity's, or a host's if there are none."""

    __slots__ = ("caller", "is_over", "request", "whose")

    def __init__(self, request: web.Request, caller: Caller) -> None:
        self.request = request
        self.caller = caller
        self.whose = caller.identity or str(host_of(caller.peer))
        self.is_over = asyncio.Event()


class Pages:
    """All pages that are open. `numbers` says how the server is; `known` who a caller is by now; `has_left` whether
    a request's session is over."""

    def __init__(self, numbers: Callable[[Caller], Data], known: Callable[[Caller], Caller], has_left: HasLeft) -> None:
        self._numbers = numbers
        self._known = known
        self._has_left = has_left
        self._open: dict[_Open, None] = {}
        self._is_over = False

    def close(self) -> None:
        """The server stops: every page is told no more."""
        self._is_over = True
        for page in self._open:
            page.is_over.set()

    async def show(self, request: web.Request, caller: Caller, display: Display) -> web.StreamResponse:
        """Tell a page until it goes, or may not see it any more. Raises Unavailable when there are too many."""
        if request.method == hdrs.METH_HEAD:
            return web.Response(content_type=EVENT_STREAM)
        page = _Open(request, caller)
        if self._is_over or (len(self._open) >= MAX_PAGES and not self._make_room(page.whose)):
            raise Unavailable(f"{MAX_PAGES} pages are open already")
        self._open[page] = None
        try:
            response = web.StreamResponse(headers=_HEADERS)
            await response.prepare(request)
            await self._tell(response, page, display)
        except (ConnectionError, TimeoutError):  # it is gone
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._open.pop(page, None)
        return response

    def _make_room(self, whose: str) -> bool:
        """End the oldest page of whoever has most, if that is more than who comes would have."""
        counts = Counter(page.whose for page in self._open)
        most, count = counts.most_common(1)[0]
        if count <= counts[whose] + 1:
            return False
        oldest = next(page for page in self._open if page.whose == most)
        oldest.is_over.set()
        del self._open[oldest]
        return True

    async def _tell(self, response: web.StreamResponse, page: _Open, display: Display) -> None:
        numbers_at = 0.0
        while not page.is_over.is_set():
            began = time.monotonic()
            if began >= numbers_at:
                numbers_at = began + TICK_S
                if not self._may_go_on(page):
                    return
                await _write(response, Message("server", self._numbers(page.caller)))
                for message in display.held():
                    await _write(response, message)
            for message in display.messages(time.time()):
                await _write(response, message)
            took = time.monotonic() - began
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(max(LOOK_S, took / SHARE), LONGEST_REST_S)):
                    await page.is_over.wait()

    def _may_go_on(self, page: _Open) -> bool:
        """Whether who opened the page is still logged in and who that was, and may do the same."""
        caller = page.caller
        if self._has_left(page.request, caller.credentials):
            return False
        try:
            now = self._known(caller)
        except RequestError:
            return False
        return (now.identity, now.rights) == (caller.identity, caller.rights)


async def _write(response: web.StreamResponse, message: Message) -> None:
    """Raises ConnectionError, TimeoutError. Others have a turn between two messages."""
    said = json.dumps(message.data, separators=(",", ":"))
    async with asyncio.timeout(WRITE_S):
        await response.write(f"event: {message.event}\ndata: {said}\n\n".encode())
    await asyncio.sleep(0)
