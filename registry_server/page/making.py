"""SHELL: the routes of the page: its files, and what its script asks for."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from importlib import resources
from typing import NamedTuple

from aiohttp import web
from google.protobuf.json_format import MessageToDict

from registry_api.registry.v1 import xds_pb2
from registry_server import fields
from registry_server.admin.server import API, Answer, Route
from registry_server.audience import Audience
from registry_server.errors import RequestError
from registry_server.metrics.counting import Counting
from registry_server.page.connected import counts, stream_row
from registry_server.page.display import Display
from registry_server.page.live import Pages
from registry_server.page.numbers import Numbers
from registry_server.page.search import MAX_FOUND, searched
from registry_server.page.shown import Cells, Name
from registry_server.records import Key
from registry_server.rpc.table import OPEN, Caller, Needs

MAX_STREAMS = 1_000
MAX_XDS_CLIENTS = 200
# Blocks of instances that are looked through before others have a turn.
BLOCKS_AT_ONCE = 4
STREAMS_AT_ONCE = 250
TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}

_SOME = Needs("read", is_some=True)
ListXds = Callable[[xds_pb2.ListClientsRequest, Caller], Awaitable[bytes]]


class Sights(NamedTuple):
    """What the page shows. `list_xds` is ListClients of registry.v1.Xds; `store` the kind of store."""

    counting: Counting
    audience: Audience
    list_xds: ListXds
    known: Callable[[Caller], Caller]
    is_serving: Callable[[], bool]
    store: str
    has_access: bool


class LivePage:
    """Its routes, and the pages that are open."""

    def __init__(self, shown: Sights) -> None:
        self._shown = shown
        self._catalog = shown.counting.feed.catalog
        numbers = Numbers(shown.counting, shown.audience, shown.store, shown.is_serving)
        self._pages = Pages(numbers, shown.known)

    def routes(self) -> Iterator[Route]:
        """All of them."""
        yield from _files()
        yield Route(f"{API}me", self._me, _SOME)
        yield Route(f"{API}live", self._live, _SOME, goes_on=True)
        yield Route(f"{API}instance", self._instance, _SOME)
        yield Route(f"{API}search", self._search, _SOME)
        yield Route(f"{API}connected", self._connected, Needs("admin"))

    def close(self) -> None:
        """No page is told anything any more."""
        self._pages.close()

    # ---- what is asked

    async def _me(self, request: web.Request, caller: Caller) -> web.Response:
        rights = list(caller.rights.grants)
        return web.json_response({"identity": caller.identity, "grants": rights, "access": self._shown.has_access})

    async def _live(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        looks_at, refused = None, ""
        try:
            if "service" in request.query:
                looks_at = _service(request)
                _may_read(caller, looks_at)
        except RequestError as error:  # a browser shows no script why a stream is refused, so the stream says it
            looks_at, refused = None, str(error)
        display = Display(self._catalog, self._shown.counting.feed.guard, caller.rights, looks_at, refused)
        return await self._pages.show(request, caller, display)

    async def _instance(self, request: web.Request, caller: Caller) -> web.Response:
        name, id_ = _service(request), fields.name("id", request.query.get("id", ""))
        _may_read(caller, name)
        entry = self._catalog.get(key := Key(*name, id_))
        instance = MessageToDict(entry.parse(), preserving_proto_field_name=True) if entry is not None else None
        is_held = key in self._shown.counting.feed.guard
        return web.json_response({"instance": instance, "held": is_held})

    async def _search(self, request: web.Request, caller: Caller) -> web.Response:
        found: list[Cells] = []
        blocks = 0
        for row in searched(self._catalog, caller.rights, request.query.get("q", "")):
            if row is not None:
                found.append(row)
                continue
            blocks += 1
            if blocks % BLOCKS_AT_ONCE == 0:
                await asyncio.sleep(0)
        return web.json_response({"found": found[:MAX_FOUND], "more": len(found) > MAX_FOUND})

    async def _connected(self, request: web.Request, caller: Caller) -> web.Response:
        streams = list(self._shown.audience.open())
        rows: list[Cells] = []
        for number, it in enumerate(streams[:MAX_STREAMS], 1):
            rows.append(stream_row(it))
            if number % STREAMS_AT_ONCE == 0:
                await asyncio.sleep(0)
        return web.json_response(
            {"streams": rows, "count": len(streams), "methods": counts(streams), "xds": await self._xds(caller)}
        )

    async def _xds(self, caller: Caller) -> Sequence[object]:
        answer = await self._shown.list_xds(xds_pb2.ListClientsRequest(page_size=MAX_XDS_CLIENTS), caller)
        clients = xds_pb2.ListClientsResponse.FromString(answer).clients
        return [MessageToDict(it, preserving_proto_field_name=True) for it in clients]


def _service(request: web.Request) -> Name:
    """The service that is asked for. Raises InvalidField."""
    query = request.query
    return fields.namespace("namespace", query.get("namespace", "")), fields.name("service", query.get("service", ""))


def _may_read(caller: Caller, name: Name) -> None:
    """Raises PermissionDenied, or Unauthenticated."""
    Needs("read", lambda _: (name,)).check(caller, None)


def _files() -> Iterator[Route]:
    """What a browser loads: nothing that has to be hidden from anybody."""
    for file in (resources.files("registry_server") / "page" / "static").iterdir():
        kind = TYPES.get(file.name.rpartition(".")[2])
        if kind is not None:
            path = "/" if file.name == "index.html" else f"/page/{file.name}"
            yield Route(path, _file(file.read_bytes(), kind), OPEN)


def _file(body: bytes, kind: str) -> Answer:
    async def answer(request: web.Request, caller: Caller) -> web.Response:
        return web.Response(body=body, content_type=kind, charset="utf-8")

    return answer
