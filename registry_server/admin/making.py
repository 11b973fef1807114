"""SHELL: the HTTP side of a server, as its settings ask for it."""

from __future__ import annotations

import errno
import logging
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from registry_server.config import Config, ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from registry_api.registry.v1 import why_pb2, xds_pb2
    from registry_server.admin.logins import Logins
    from registry_server.admin.server import AdminServer
    from registry_server.audience import Audience
    from registry_server.history.history import History
    from registry_server.metrics.counting import Counting
    from registry_server.page.making import LivePage
    from registry_server.rpc.table import Caller

log = logging.getLogger(__name__)


class Seen(NamedTuple):
    """What the HTTP side asks of the rest of the server."""

    is_serving: Callable[[], bool]
    known: Callable[[Caller], Caller]  # who a caller is; raises Unauthenticated
    counting: Counting
    audience: Audience
    list_xds: Callable[[xds_pb2.ListClientsRequest, Caller], Awaitable[bytes]]  # ListClients of registry.v1.Xds
    why: Callable[[why_pb2.WhyRequest, Caller], Awaitable[bytes]]  # Why of registry.v1.Diagnosis
    history: Callable[[], History]  # what happened, up to now


class Admin:
    """From `start` to `stop`. Nothing of HTTP is loaded where none is asked for."""

    def __init__(self, config: Config, seen: Seen) -> None:
        self._address = config.admin_address
        self._must = config.admin != "auto"
        self._page: LivePage | None = None
        self._server: AdminServer | None = None
        if self._address:
            self._page, self._server = _made(config, seen)

    async def start(self, listens: str) -> None:
        """Listen, if it is asked for. `listens` is where the registry does, for the page to tell. Raises ConfigError
        for an address that cannot be had."""
        if self._server is None or self._page is None:
            return
        self._page.registry_listens(listens)
        try:
            log.info("http://%s shows how this server is", await self._server.start(self._address))
        except OSError as error:
            if self._must:
                why = f"cannot listen on {self._address}: {error.strerror or error}"
                raise ConfigError(Problem("admin", why)) from None
            is_taken = error.errno == errno.EADDRINUSE
            why = f"somebody else has {self._address}" if is_taken else f"{self._address}: {error.strerror or error}"
            log.info("no HTTP side: %s (--admin HOST:PORT for another, or off)", why)

    async def stop(self) -> None:
        """End it. May be called more than once."""
        if self._page is not None:
            self._page.close()
        if self._server is not None:
            await self._server.stop()


def _made(config: Config, seen: Seen) -> tuple[LivePage, AdminServer]:
    from registry_server.admin.logins import Logins

    logins = Logins(seen.known)
    page = _page(config, seen, logins)
    return page, _server(config, seen, page, logins)


def _page(config: Config, seen: Seen, logins: Logins) -> LivePage:
    from registry_server.page.making import LivePage, Sights

    is_serving, known, counting, audience, list_xds, why, history = seen
    store, has_access = config.store.partition(":")[0], config.access.is_on
    sights = Sights(counting, audience, list_xds, why, history, known, logins.is_over, is_serving, store, has_access)
    return LivePage(sights)


def _server(config: Config, seen: Seen, page: LivePage, logins: Logins) -> AdminServer:
    from registry_server.admin.server import AdminServer
    from registry_server.admin.wellness import wellness
    from registry_server.limits.overload import Work
    from registry_server.metrics.exposition import metrics

    routes = [
        *wellness(lambda: seen.counting.feed.stale_for_s, seen.is_serving),
        metrics(seen.counting),
        *page.routes(),
    ]
    within = partial(seen.counting.gate.within, work=Work.READ)
    host = config.admin_address.rpartition(":")[0]
    # What may be done by who shows nothing may change while it runs: what a request shows is looked at each time.
    any_host = config.access.is_on and not config.access.anonymous.grants
    return AdminServer(routes, seen.known, [host], within, logins, any_host=any_host)
