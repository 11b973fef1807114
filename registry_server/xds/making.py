"""SHELL: makes the xDS control plane of a server, and runs it."""

import asyncio
import time

from registry_server.catalog import Catalog
from registry_server.hub import Hub
from registry_server.policies.book import PolicyBook
from registry_server.rpc.table import Service
from registry_server.xds.hosts import HostBook
from registry_server.xds.resolving import Resolving
from registry_server.xds.resources import Resources
from registry_server.xds.service import XdsService


class ControlPlane:
    """All of it. `streams` is to be told what changes in the catalog."""

    def __init__(self, catalog: Catalog, policies: PolicyBook, hub: Hub) -> None:
        hosts = HostBook()
        self.streams = XdsService(Resources(catalog, policies, hosts), hub, time.monotonic)
        self._resolving = Resolving(hosts, self.streams.moved, time.monotonic)

    def services(self) -> tuple[Service, ...]:
        """What a table says of it."""
        return (self.streams.service(),)

    async def run(self, loaded: asyncio.Event) -> None:
        """Until cancelled. `loaded` is set when the catalog is."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._resolving.run())
            tasks.create_task(self.streams.run(loaded))
