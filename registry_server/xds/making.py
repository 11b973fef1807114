"""SHELL: makes the xDS control plane of a server, and runs it."""

import asyncio
import time
from functools import partial

from registry_api.registry.v1.registry_pb2 import ResponseHeader
from registry_server.feed import Feed
from registry_server.hub import Hub
from registry_server.policies.book import PolicyBook
from registry_server.rpc import answers
from registry_server.rpc.table import Service
from registry_server.rpc.xds import XdsAnswers
from registry_server.xds.hosts import HostBook
from registry_server.xds.load import LoadBook
from registry_server.xds.reports import LoadReports
from registry_server.xds.resolving import Resolving
from registry_server.xds.resources import Resources
from registry_server.xds.service import XdsService


class ControlPlane:
    """All of it. `streams` is to be told what changes in the catalog; `hosts` are the names that instances go by."""

    def __init__(self, feed: Feed, policies: PolicyBook, hub: Hub) -> None:
        hosts = self.hosts = HostBook()
        resources = Resources(feed.catalog, policies, hosts)
        loads = LoadBook(resources)
        self._reports = LoadReports(loads, time.time)
        self.streams = XdsService(resources, hub, time.time, loads.forget)
        self._answers = XdsAnswers(self.streams.streams, loads, partial(_header, feed))
        self.list_clients = self._answers.list_clients
        self._resolving = Resolving(hosts, self.streams.moved, time.monotonic)
        self._loaded = feed.loaded

    def services(self) -> tuple[Service, ...]:
        """What a table says of it."""
        return self.streams.service(), self._reports.service(), self._answers.service()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._resolving.run())
            tasks.create_task(self.streams.run(self._loaded))


def _header(feed: Feed) -> ResponseHeader:
    return answers.header(feed.catalog.epoch, feed.catalog.revision, feed.stale_for_s)
