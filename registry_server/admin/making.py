"""SHELL: the HTTP side of a server, as its settings ask for it."""

from __future__ import annotations

import errno
import logging
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from registry_server.config import Config, ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from registry_server.admin.server import AdminServer
    from registry_server.metrics.counting import Counting
    from registry_server.rpc.table import Caller

log = logging.getLogger(__name__)


class Seen(NamedTuple):
    """What the HTTP side asks of the rest of the server."""

    is_serving: Callable[[], bool]
    known: Callable[[Caller], Caller]  # who a caller is; raises Unauthenticated
    counting: Counting


class Admin:
    """From `start` to `stop`. Nothing of HTTP is loaded where none is asked for."""

    def __init__(self, config: Config, seen: Seen) -> None:
        self._address = config.admin_address
        self._must = config.admin != "auto"
        has_secrets = config.access.is_on and not config.access.anonymous.grants
        hosts = None if has_secrets else [self._address.rpartition(":")[0]]
        self._server = _server(hosts, seen) if self._address else None

    async def start(self) -> None:
        """Listen, if it is asked for. Raises ConfigError for an address that cannot be had."""
        if self._server is None:
            return
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
        if self._server is not None:
            await self._server.stop()


def _server(hosts: list[str] | None, seen: Seen) -> AdminServer:
    from registry_server.admin.server import AdminServer
    from registry_server.admin.wellness import wellness
    from registry_server.limits.overload import Work
    from registry_server.metrics.exposition import metrics

    routes = [*wellness(lambda: seen.counting.feed.stale_for_s, seen.is_serving), metrics(seen.counting)]
    return AdminServer(routes, seen.known, hosts, partial(seen.counting.gate.within, work=Work.READ))
