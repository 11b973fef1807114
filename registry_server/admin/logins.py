"""SHELL: a browser says once who it is, and shows a cookie from then on. See sessions.py for what is in it."""

import asyncio
import secrets
import time
from collections.abc import Callable

from aiohttp import hdrs, web

from registry_server.admin.sessions import SESSION_S, Sessions
from registry_server.errors import InvalidField, Unavailable
from registry_server.rpc.table import NO_CREDENTIALS, Caller, Credentials

# How long what is asked may take to come, after its head.
BODY_S = 10.0
# ... and so many may come at a time, so that some connections are always left for others.
MAX_AT_ONCE = 16
MAX_PORT_DIGITS = 5


class Logins:
    """`known` says who a caller is, and raises Unauthenticated."""

    def __init__(self, known: Callable[[Caller], Caller]) -> None:
        self._known = known
        self._sessions = Sessions(time.monotonic, lambda: secrets.token_urlsafe(32))
        self._coming = 0

    def shown(self, request: web.Request) -> Credentials:
        """What was shown when the session of a request began."""
        return self._sessions.credentials(request.cookies.get(_cookie_of(request), "")) or NO_CREDENTIALS

    def is_over(self, request: web.Request, credentials: Credentials) -> bool:
        """Whether the session is over that a request began with: one logged out in another tab, or logged in too long
        ago. Never of who shows a token each time."""
        return hdrs.AUTHORIZATION not in request.headers and self.shown(request) != credentials

    async def login(self, request: web.Request, caller: Caller) -> web.Response:
        """With `{"token": TOKEN}`: a session, if there is anybody with that token."""
        check_origin(request)
        credentials = Credentials(await self._asked(request))
        self._known(caller._replace(credentials=credentials))
        name = _cookie_of(request)
        self._sessions.end(request.cookies.get(name, ""))  # who logs in as somebody else is logged out in all tabs
        id_ = self._sessions.begin(credentials)
        response = web.Response(status=204)
        response.set_cookie(name, id_, max_age=int(SESSION_S), httponly=True, samesite="Strict")
        return response

    async def logout(self, request: web.Request, caller: Caller) -> web.Response:
        """The session of the request is over, if there is one."""
        check_origin(request)
        name = _cookie_of(request)
        self._sessions.end(request.cookies.get(name, ""))
        response = web.Response(status=204)
        response.del_cookie(name, httponly=True, samesite="Strict")
        return response

    async def _asked(self, request: web.Request) -> str:
        if self._coming >= MAX_AT_ONCE:
            raise Unavailable("too many log in just now")
        self._coming += 1
        try:
            return await _token_of(request)
        finally:
            self._coming -= 1


def check_origin(request: web.Request) -> None:
    """Raises InvalidField where a page of somebody else's asks. No form sends JSON, and a script elsewhere may not
    without having asked first, which nobody answers here."""
    if request.content_type != "application/json":
        raise InvalidField("content-type", "must be application/json")
    check_site(request)


def check_site(request: web.Request) -> None:
    """Raises InvalidField where a browser says that a page of somebody else's asks: it could read nothing, but hold
    open what it likes."""
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise InvalidField("sec-fetch-site", "a page from elsewhere has nothing to ask here")


def _cookie_of(request: web.Request) -> str:
    """The name of the cookie: a host's cookies are those of all its ports, and two servers may be on one. The port is
    the one that the browser knows, which is another than here where ports are mapped."""
    port = request.headers.get(hdrs.HOST, "").rpartition(":")[2]
    if port.isascii() and port.isdigit():
        return f"grpc-registry-{port[:MAX_PORT_DIGITS]}"
    own = request.transport.get_extra_info("sockname") if request.transport is not None else None
    return f"grpc-registry-{own[1]}" if isinstance(own, tuple) else "grpc-registry"


async def _token_of(request: web.Request) -> str:
    try:
        async with asyncio.timeout(BODY_S):
            said = await request.json()
    except (ValueError, LookupError, RecursionError):
        said = None
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    token = said.get("token") if isinstance(said, dict) else None
    if not isinstance(token, str) or not token.strip():
        raise InvalidField("token", "is required: what `registry-server token new` printed")
    return token.strip()
