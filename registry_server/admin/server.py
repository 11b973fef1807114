"""SHELL: an HTTP server for people and their tools, beside gRPC: whether this server is well, its numbers, its page.

Routes come from the rooms that have something to show. Here is what holds for all of them: who may ask, and what a
client may cost.
"""

import asyncio
import base64
import binascii
import ipaddress
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any, NamedTuple

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from registry_server.admin.logins import Logins, check_site
from registry_server.admin.lookout import Lookout
from registry_server.errors import LimitExceeded, PermissionDenied, RequestError, Unauthenticated, Unavailable
from registry_server.rpc.table import NO_CREDENTIALS, OPEN, Caller, Credentials, Needs
from registry_server.sockets import BACKLOG, Bound, bound

log = logging.getLogger(__name__)

# What clients may cost. A browser that shows the page has a stream and a few connections.
MAX_CONNECTIONS = 256
MAX_LINE_BYTES = 8 * 1024
MAX_BODY_BYTES = 64 * 1024
IDLE_S = 30.0
# How long a connection may take to ask the first time.
ASK_S = 10.0
# What is asked by the page's script, under this path, brings up no window of the browser's own that asks who is there.
API = "/api/"
# How long answers that are under way may take when the server stops.
LEAVING_S = 1.0
# How long the rest of a question is taken, and thrown away, that is answered already.
LINGER_S = 0.5
IPV4_PARTS = 2

_SAFE = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_NO_SUCH_HOST = "no such host here: ask by an address, or by the name that --admin has"
_KEPT = (hdrs.WWW_AUTHENTICATE, hdrs.ALLOW, hdrs.RETRY_AFTER)
_ASK_WHO: Mapping[str, str] = {
    hdrs.WWW_AUTHENTICATE: 'Basic realm="grpc-registry: the token is the password", charset="UTF-8"'
}

_ASK_SCRIPT: Mapping[str, str] = {hdrs.WWW_AUTHENTICATE: 'Bearer realm="grpc-registry"'}

Answer = Callable[[web.Request, Caller], Awaitable[web.StreamResponse]]
Within = Callable[[Caller], AbstractContextManager[None]]


class Route(NamedTuple):
    """What GET of a path, as aiohttp writes paths (`/api/services/{name}`), is answered to whom has what it needs. One
    that goes on and on is no request that is under way: it bounds itself."""

    path: str
    answer: Answer
    needs: Needs
    goes_on: bool = False


class AdminServer:
    """`known` says who a caller is, and raises Unauthenticated. `hosts`: by which names a browser may have come here,
    beside addresses and localhost: a page of somebody else's whose name leads here is refused what it asks. With
    `any_host`, where most have to show a token, which such a page has not, only what it is given without one.
    `within`: around each answer that is not for anybody, the limits of its caller; raises LimitExceeded, or
    Unavailable. `logins` are its own unless others look at them, too."""

    def __init__(
        self,
        routes: Iterable[Route],
        known: Callable[[Caller], Caller],
        hosts: Iterable[str] = (),
        within: Within = lambda _: nullcontext(),
        logins: Logins | None = None,
        *,
        any_host: bool = False,
    ) -> None:
        self._known = known
        self._within = within
        self._logins = logins or Logins(known)
        self._hosts = frozenset(("localhost", *(it.lower() for it in hosts)))
        self._any_host = any_host
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_BODY_BYTES)
        for route in routes:
            app.router.add_get(route.path, self._answering(route))
        for path, answer in (("login", self._logins.login), ("logout", self._logins.logout)):
            app.router.add_post(API + path, self._answering(Route(API + path, answer, OPEN)))
        self._runner = web.AppRunner(
            app,
            access_log=None,
            logger=_Plain(log, {}),
            keepalive_timeout=IDLE_S,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
            shutdown_timeout=LEAVING_S,
            lingering_time=LINGER_S,
        )
        self._bound: Bound | None = None
        self._listening: list[asyncio.Server] = []
        # Connections that have not asked anything yet; and those with a request under way.
        self._silent: set[web.RequestHandler] = set()
        self._busy: set[web.RequestHandler] = set()
        self._looking: asyncio.Task[None] | None = None

    async def start(self, address: str) -> str:
        """Listen at HOST:PORT; gives it with the port that was taken. Raises OSError."""
        self._bound = bound(address)
        loop = asyncio.get_running_loop()
        try:
            await self._runner.setup()
            for it in self._bound.sockets:
                self._listening.append(await loop.create_server(self._let_in, sock=it, backlog=BACKLOG))
            self._looking = loop.create_task(Lookout(self._there).run(), name="admin-lookout")
        except BaseException:
            await self.stop()
            raise
        return self._bound.address

    async def stop(self) -> None:
        """End it; answers that are under way have a moment. May be called more than once."""
        for listening in self._listening:
            listening.close()
        if self._looking is not None:
            self._looking.cancel()
        await self._runner.cleanup()
        if self._bound is not None:
            self._bound.close()

    # ---- connections

    def _there(self) -> Sequence[web.RequestHandler]:
        return self._runner.server.connections if self._runner.server is not None else ()

    def _let_in(self) -> asyncio.Protocol:
        server = self._runner.server
        if server is None:
            return _TurnedAway()
        if len(server.connections) >= MAX_CONNECTIONS:
            if (other := self._to_go(server.connections)) is None:
                return _TurnedAway()
            self._silent.discard(other)
            other.force_close()
        handler = server()
        self._silent.add(handler)
        asyncio.get_running_loop().call_later(ASK_S, self._hang_up, handler)
        return handler

    def _to_go(self, there: Sequence[web.RequestHandler]) -> web.RequestHandler | None:
        """Who makes room, so that whoever looks whether this server is well gets in: who has asked nothing, or one of
        those who come from where most do; nobody who waits for an answer."""
        waiting = [it for it in there if it in self._silent] or [it for it in there if it not in self._busy]
        hosts = Counter(map(_host_of, there))
        return max(waiting, key=lambda it: hosts[_host_of(it)], default=None)

    def _hang_up(self, handler: web.RequestHandler) -> None:
        """On who said nothing, or not enough. Between requests aiohttp itself does."""
        if handler in self._silent:
            self._silent.discard(handler)
            handler.force_close()

    # ---- requests

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self._silent.discard(request.protocol)
        self._busy.add(request.protocol)
        try:
            if not self._any_host:
                self._check_host(request)
            response = await handler(request)
        except web.HTTPException as error:
            response = await _refused(error.status, error.reason.lower(), error.headers)
        except Unauthenticated as error:
            response = await _refused(401, str(error), _ASK_SCRIPT if request.path.startswith(API) else _ASK_WHO)
        except PermissionDenied as error:
            response = await _refused(403, str(error))
        except LimitExceeded as error:
            response = await _refused(429, str(error), {hdrs.RETRY_AFTER: "1"})
        except Unavailable as error:
            response = await _refused(503, str(error), {hdrs.RETRY_AFTER: str(math.ceil(error.retry_after_s))})
        except RequestError as error:
            response = await _refused(400, str(error))
        except Exception:
            log.exception("a mistake of this server in answering %s", request.path)
            response = await _refused(500, "a mistake of this server: its log says more")
        finally:
            self._busy.discard(request.protocol)
        if not response.prepared:
            response.headers.update({name: it for name, it in _SAFE.items() if name not in response.headers})
        return response

    def _check_host(self, request: web.Request) -> None:
        if not self._is_ours(request.headers.get(hdrs.HOST)):
            raise web.HTTPMisdirectedRequest(reason=_NO_SUCH_HOST)

    def _is_ours(self, host: str | None) -> bool:
        if host is None:  # every browser says one
            return True
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        name = name.lower().removesuffix(".")
        if name in self._hosts or name.endswith(".localhost"):  # which belongs to nobody: RFC 6761
            return True
        try:
            return bool(ipaddress.ip_address(name.strip("[]")))
        except ValueError:
            return False

    def _answering(self, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def answer(request: web.Request) -> web.StreamResponse:
            if route.path.startswith(API):
                check_site(request)
            caller = Caller(_peer(request), credentials=self._shown(request))
            if route.needs.right is None:
                return await route.answer(request, caller)
            with self._within(Caller(_peer(request))):
                caller = self._known(caller)
                route.needs.check(caller, None)
                if caller.credentials == NO_CREDENTIALS:
                    self._check_host(request)
                if not route.goes_on:
                    return await route.answer(request, caller)
            return await route.answer(request, caller)

        return answer

    def _shown(self, request: web.Request) -> Credentials:
        """What a request shows of who asks: in its header, or when its session began."""
        said = set(request.headers.getall(hdrs.AUTHORIZATION, ()))
        if not said:
            return self._logins.shown(request)
        return _credentials(said.pop() if len(said) == 1 else "")  # several are nobody's


def _peer(request: web.Request) -> str:
    """The other end, as gRPC writes it: who comes by both has one account."""
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    if not isinstance(peer, tuple):
        return f"http:{request.remote}"
    return f"ipv6:[{peer[0]}]:{peer[1]}" if len(peer) > IPV4_PARTS else f"ipv4:{peer[0]}:{peer[1]}"


def _host_of(handler: web.RequestHandler) -> str:
    peer = handler.transport.get_extra_info("peername") if handler.transport is not None else None
    return str(peer[0]) if isinstance(peer, tuple) else ""


class _Plain(logging.LoggerAdapter):  # type: ignore[type-arg]  # generic for the type checker alone
    """What a client said that is no HTTP is told at debug, and not shown: its token may be in it."""

    def log(self, level: int, msg: object, *args: object, **more: Any) -> None:
        """See LoggerAdapter."""
        if isinstance(more.get("exc_info"), HttpProcessingError):
            level, more = logging.DEBUG, {}
        super().log(level, msg, *args, **more)


class _TurnedAway(asyncio.Protocol):
    """There are too many already."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


async def _refused(status: int, why: str, headers: Mapping[str, str] = NO_HEADERS) -> web.Response:
    kept = {name: it for name, it in headers.items() if name in _KEPT}
    return web.Response(status=status, text=f"{why}\n", headers=kept)


def _credentials(said: str) -> Credentials:
    """The token of `Authorization: Bearer TOKEN`, or of Basic as its password, which browsers ask their users for. As
    by gRPC, who shows anything else is not taken for one who shows nothing."""
    scheme, _, value = said.partition(" ")
    if scheme.lower() == "basic":
        try:
            said = f"Bearer {base64.b64decode(value, validate=True).decode().partition(':')[2]}"
        except (binascii.Error, UnicodeDecodeError):
            raise Unauthenticated("the header Authorization is no Basic one") from None
    return NO_CREDENTIALS.with_authorization(said)
