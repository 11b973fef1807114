"""SHELL: what is there, from memory: a set of instances that keeps itself up to date."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry_client import checks
from registry_client.errors import RegistryError, RegistryUnavailable
from registry_client.lack import why_none
from registry_client.pulse import within

if TYPE_CHECKING:
    from registry_client.counts import Counts
    from registry_client.instance import Instance
    from registry_client.live import Live


@dataclass(frozen=True, slots=True)
class DiscoveryStatistics:
    """What became of the questions to one `Discovery`: those that waited for the registry are misses."""

    discoveries: int
    cache_hits: int
    cache_misses: int
    errors: int
    stale_for: float | None
    """None while the registry confirms what is known, else the seconds since it last did."""


class Discovery:
    """The instances of a service, over a watch that all of a client share who ask the same. Made by `discover`.

    It needs no closing: the watch ends with the last one that holds it, or with the client.
    """

    def __init__(self, service: str, live: Live, timeout: float, counts: Counts, *, filtered: bool) -> None:
        self.service = service
        self.live = live
        self.filtered = filtered
        self._timeout_s = timeout
        self._all = counts
        self._hits = self._misses = self._errors = 0

    async def instances(self, *, timeout: float | None = None) -> tuple[Instance, ...]:
        """Those that there are now, in the order of their ids. Asks nobody, except for the first time.

        Raises RegistryUnavailable when no registry has answered after `timeout` seconds, by default those of the
        client, and nothing is known from disk; ClientClosed after the client was closed.
        """
        await self.known(timeout)
        view = self.live.view
        return () if view is None else view.instances

    async def known(self, timeout: float | None = None) -> None:
        """Wait until something is known, which is counted. Raises Misuse in another loop than that of the client."""
        self.live.place.check("the discovery")
        seconds = self._timeout_s if timeout is None else checks.timeout(timeout)
        if self.live.view is not None and not self.live.is_over:
            self._hits += 1
            self._all.hits += 1
            return
        self._misses += 1
        self._all.misses += 1
        try:
            await within(self.live.first(), seconds)
        except RegistryError:
            self._erred()
            raise
        except TimeoutError:
            self._erred()
            trouble = self.live.trouble or "no answer in time"
            raise RegistryUnavailable(f"discover {self.service}: {trouble}") from None

    def _erred(self) -> None:
        self._errors += 1
        self._all.errors += 1

    def why_none(self) -> str:
        """Why none of them gets traffic, supposing that none does."""
        view = self.live.view
        if self.filtered and not (view and view.by_key):
            return f"no instance of {self.service} matches the filter"
        return why_none(self.service, () if view is None else view.instances, filtered=False)

    def stats(self) -> DiscoveryStatistics:
        """How many questions there were, and how many were answered from memory."""
        asked = self._hits + self._misses
        return DiscoveryStatistics(asked, self._hits, self._misses, self._errors, self.live.stale_for)
