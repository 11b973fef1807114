"""SHELL: a browser says once who it is, and shows a cookie from then on. See sessions.py for what is in it."""

import asyncio
import secrets
import time
from collections.abc import Callable

from aiohttp import web

from registry_server.admin.sessions import SESSION_S, Sessions
from registry_server.errors import InvalidField, Unavailable
from registry_server.rpc.table import NO_CREDENTIALS, Caller, Credentials

# How long what is asked may take to come, after its head.
BODY_S = 10.0
# ... and so many may come at a time, so that some connections are always left for others.
MAX_AT_ONCE = 16


class Logins:
    """`known` says who a caller is, and raises Unauthenticated."""

    def __init__(self, known: Callable[[Caller], Caller]) -> None:
        self._known = known
        self._sessions = Sessions(time.monotonic, lambda: secrets.token_urlsafe(32))
        self._coming = 0

    def shown(self, request: web.Request) -> Credentials:
        """What was shown when the session of a request began."""
        return self._sessions.credentials(request.cookies.get(_cookie_of(request), "")) or NO_CREDENTIALS

    async def login(self, request: web.Request, caller: Caller) -> web.Response:
        """With `{"token": TOKEN}`: a session, if there is anybody with that token."""
        check_origin(request)
        credentials = Credentials(await self._asked(request))
        self._known(caller._replace(credentials=credentials))
        id_ = self._sessions.begin(credentials)
        response = web.Response(status=204)
        response.set_cookie(_cookie_of(request), id_, max_age=int(SESSION_S), httponly=True, samesite="Strict")
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
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise InvalidField("sec-fetch-site", "a page from elsewhere has nothing to ask here")


def _cookie_of(request: web.Request) -> str:
    """The name of the cookie: a host's cookies are those of all its ports, and two servers may be on one."""
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
