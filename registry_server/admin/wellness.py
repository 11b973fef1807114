"""Whether this server is well: for those who start servers and watch over them."""

from collections.abc import Callable

from aiohttp import web

from registry_server.admin.server import Route
from registry_server.rpc.table import OPEN, Caller


def wellness(stale_for_s: Callable[[], float | None], is_serving: Callable[[], bool]) -> list[Route]:
    """`/healthz`: it runs, and its event loop has turns. `/readyz`: clients may be sent to it; that the store is away
    is no reason not to: the view is served on."""

    async def healthz(request: web.Request, caller: Caller) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(request: web.Request, caller: Caller) -> web.Response:
        if not is_serving():
            return web.Response(status=503, text="not serving\n")
        stale_s = stale_for_s()
        return web.Response(text="ok\n" if stale_s is None else f"ok; the store has been away for {stale_s:.0f} s\n")

    return [Route("/healthz", healthz, OPEN), Route("/readyz", readyz, OPEN)]
