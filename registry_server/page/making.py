"""SHELL: the routes of the page: its files, and what its script asks for."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from importlib import resources
from typing import NamedTuple

from aiohttp import web
from google.protobuf.json_format import MessageToDict

from registry_api.registry.v1 import why_pb2, xds_pb2
from registry_server import fields
from registry_server.admin.server import API, Answer, Route
from registry_server.audience import Audience
from registry_server.errors import Contended, InvalidField, RequestError, too_many_long
from registry_server.history.history import History
from registry_server.limits.peers import peer_of
from registry_server.metrics.counting import Counting
from registry_server.page.connected import counts, stream_row
from registry_server.page.display import Display, Look, Sources
from registry_server.page.live import HasLeft, Pages
from registry_server.page.numbers import Numbers
from registry_server.page.search import MAX_FOUND, searched
from registry_server.page.shown import Cells, event_row
from registry_server.records import Key
from registry_server.rpc.table import OPEN, Caller, Name, Needs
from registry_server.turns import Turns

MAX_STREAMS = 1_000
MAX_XDS_CLIENTS = 200
# Blocks of instances that are looked through before others have a turn.
BLOCKS_AT_ONCE = 4
STREAMS_AT_ONCE = 250
# Events in one answer, and in the life of one instance; so many are looked at before others have a turn.
EVENTS, MAX_LIFE, EVENTS_AT_ONCE = 200, 100, 100
MAX_DIGITS = 20
TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}

_SOME = Needs("read", is_some=True)
ListXds = Callable[[xds_pb2.ListClientsRequest, Caller], Awaitable[bytes]]
AskWhy = Callable[[why_pb2.WhyRequest, Caller], Awaitable[bytes]]


class Sights(NamedTuple):
    """What the page shows. `list_xds` is ListClients of registry.v1.Xds, `why` is Why of registry.v1.Diagnosis; `store`
    the kind of store."""

    counting: Counting
    audience: Audience
    list_xds: ListXds
    why: AskWhy
    history: Callable[[], History]
    known: Callable[[Caller], Caller]
    has_left: HasLeft
    is_serving: Callable[[], bool]
    store: str
    has_access: bool


class LivePage:
    """Its routes, and the pages that are open."""

    def __init__(self, shown: Sights) -> None:
        self._shown = shown
        feed = shown.counting.feed
        self._catalog = feed.catalog
        self._sources = Sources(feed.catalog, feed.guard, shown.history)
        self._numbers = Numbers(shown.counting, shown.audience, shown.store, shown.is_serving)
        self._looking = Turns()
        self._pages = Pages(self._numbers, shown.known, shown.has_left)

    def routes(self) -> Iterator[Route]:
        """All of them."""
        yield from _files()
        yield Route(f"{API}me", self._me, _SOME)
        yield Route(f"{API}live", self._live, _SOME, goes_on=True)
        yield Route(f"{API}instance", self._instance, _SOME)
        yield Route(f"{API}history", self._in_turn(self._history), _SOME)
        yield Route(f"{API}search", self._in_turn(self._search), _SOME)
        yield Route(f"{API}connected", self._in_turn(self._connected), Needs("admin"))

    def registry_listens(self, addresses: str) -> None:
        """Where clients of the registry go; several with commas between them."""
        self._numbers.listens = addresses

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
        look = Look(looks_at, refused, self._events_after(request))
        display = Display(self._sources, caller.rights, look)
        return await self._pages.show(request, caller, display)

    def _events_after(self, request: web.Request) -> int | None:
        """The number of the latest event that a page knows that wants to be told of more; `yes`, of those to come.
        Raises InvalidField."""
        said = request.query.get("events")
        if said is None or said == "yes":
            return None if said is None else self._shown.history().last
        return _number("events", said)

    async def _instance(self, request: web.Request, caller: Caller) -> web.Response:
        name, id_ = _service(request), fields.name("id", request.query.get("id", ""))
        _may_read(caller, name)
        entry = self._catalog.get(key := Key(*name, id_))
        instance = MessageToDict(entry.parse(), preserving_proto_field_name=True) if entry is not None else None
        events = self._shown.history().of(*key[:3])[:MAX_LIFE]
        said = {"instance": instance, "history": [event_row(it) for it in events], "why": await self._why(key, caller)}
        return web.json_response(said)

    async def _why(self, key: Key, caller: Caller) -> object:
        """Why it gets traffic or none; nothing where that cannot be said now."""
        request = why_pb2.WhyRequest(namespace=key.namespace, service=key.service, id=key.id)
        try:
            answer = why_pb2.WhyResponse.FromString(await self._shown.why(request, caller))
        except RequestError:
            return None
        reasons = [[it.about, why_pb2.Reason.Effect.Name(it.effect).lower(), it.text] for it in answer.reasons]
        return {"verdict": answer.verdict, "traffic": answer.gets_traffic, "reasons": reasons}

    def _in_turn(self, answer: Answer) -> Answer:
        """What may take long takes one of a peer at a time, as by gRPC."""

        async def in_turn(request: web.Request, caller: Caller) -> web.StreamResponse:
            try:
                async with self._looking.of([(peer_of(caller.peer),)]):
                    return await answer(request, caller)
            except Contended:
                raise too_many_long() from None

        return in_turn

    async def _history(self, request: web.Request, caller: Caller) -> web.Response:
        """What happened before an event of that number, or up to now, the latest first."""
        asked = request.query.get("before", "")
        before = _number("before", asked) if asked else None
        rows: list[Cells] = []
        events = self._shown.history().backwards(None, before)
        for number, it in enumerate(events, 1):
            if caller.rights.may("read", *it.name):
                rows.append(event_row(it))
                if len(rows) > EVENTS:
                    break
            if number % EVENTS_AT_ONCE == 0:
                await asyncio.sleep(0)
        return web.json_response({"events": rows[:EVENTS], "more": len(rows) > EVENTS})

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


def _number(name: str, said: str) -> int:
    """Of an event. Raises InvalidField."""
    if not (said.isascii() and said.isdigit() and len(said) < MAX_DIGITS):
        raise InvalidField(name, "must be the number of an event")
    return int(said)


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
