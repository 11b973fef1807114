"""Who lists and follows events at several servers: each numbers them in a way of its own, and some saw them late."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import grpc.aio
import pytest

import registry_client
from registry_api.registry.v1 import history_pb2 as pb
from registry_api.registry.v1 import history_pb2_grpc
from registry_api.registry.v1 import registry_pb2 as registry
from registry_client import Event, InvalidAnswer
from registry_server.config import Config
from registry_server.server import serve
from tests.conftest import ServerFactory
from tests.integration.history.test_history import causes, history
from tests.support.etcd import free_port
from tests.support.raw import CALL_S, RawClient
from tests.support.registryctl import complaint_of, line_of, running
from tests.support.stores import Backends, backends
from tests.support.waiting import eventually_async

__all__ = ["backends"]


def header(revision: int, epoch: str = "e1") -> registry.ResponseHeader:
    return registry.ResponseHeader(epoch=epoch, revision=revision)


def told(number: int, revision: int, id_: str, was: int = 0, now: int = 0, **fields: Any) -> pb.Event:
    """An event of an instance that was of one revision and is of another; 0 for not there."""
    made = pb.Event(number=number, revision=revision, epoch="e1", namespace="default", service="player", id=id_)
    made.MergeFrom(pb.Event(**fields))
    for it, instance in ((was, made.before), (now, made.after)):
        if it:
            instance.MergeFrom(registry.Instance(service="player", id=id_, host="10.0.0.5", port=80, revision=it))
    return made


def news(revision: int, *events: pb.Event) -> pb.HistoryWatchResponse:
    return pb.HistoryWatchResponse(header=header(revision), events=events)


class Historian(history_pb2_grpc.HistoryServicer):
    """Says what it is given: each stream its own, after which that ends, and each List a page."""

    def __init__(self, streams: Sequence[Sequence[pb.HistoryWatchResponse]] = (), pages: Sequence[Any] = ()) -> None:
        self._streams, self._pages = iter(streams), iter(pages)
        self.asked: list[pb.HistoryWatchRequest] = []

    async def List(self, request: pb.HistoryListRequest, context: Any) -> pb.HistoryListResponse:
        return next(self._pages)  # type: ignore[no-any-return]

    async def Watch(self, request: pb.HistoryWatchRequest, context: Any) -> AsyncIterator[pb.HistoryWatchResponse]:
        self.asked.append(request)
        script = next(self._streams, None)
        for message in script or ():
            yield message
        if script is None:
            await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def listening(historian: Historian) -> AsyncIterator[str]:
    server = grpc.aio.server()
    history_pb2_grpc.add_HistoryServicer_to_server(historian, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@contextlib.asynccontextmanager
async def client_of(historian: Historian) -> AsyncIterator[registry_client.RegistryClient]:
    async with listening(historian) as address, registry_client.connect(address, cache_dir=None) as client:
        yield client


# ---- watches


async def test_who_was_told_nothing_for_long_goes_on_from_where_nothing_had_happened() -> None:
    historian = Historian([[news(10), news(500)], [news(500), news(500, told(1, 501, "a", now=501))]])
    async with client_of(historian) as client:
        following = client.watch_events("player")
        assert (await anext(following)).id == "a"
        assert [it.from_revision for it in historian.asked[:2]] == [0, 500]


async def test_what_a_server_saw_late_is_told_once() -> None:
    """One that was cut off from the store tells at a revision of its own what another told when it was."""
    first = [
        news(10),
        news(15, told(1, 13, "two", was=6), told(2, 15, "one", 5, 15)),
        news(15, told(3, 15, "six", 4, 15)),
    ]
    late = [
        told(91, 20, "two", was=6, late=True),
        told(92, 20, "one", 5, 15, late=True),
        told(93, 20, "six", 4, 19, late=True),
        told(94, 21, "two", now=21),
        told(95, 22, "two", was=21, late=True),
    ]
    async with client_of(Historian([first, [news(22, *late)]])) as client:
        following = client.watch_events("player")
        found = [await anext(following) for _ in range(6)]
        assert [(it.id, it.revision) for it in found] == [
            ("two", 13),
            ("one", 15),
            ("six", 15),
            ("six", 20),
            ("two", 21),
            ("two", 22),
        ]


# ---- lists


def page(revision: int, *numbers: int, more: str = "") -> pb.HistoryListResponse:
    """A page of events; the revisions of these are their numbers without the thousands, which are a server's own."""
    events = [told(it, it % 1_000, "a", now=it % 1_000) for it in numbers]
    return pb.HistoryListResponse(header=header(revision), events=events, next_page_token=more)


def revisions(events: Sequence[Event]) -> list[int]:
    return [it.revision for it in events]


async def test_pages_of_several_servers_are_one_list() -> None:
    pages = [page(9, 1_009, 1_008, more="x"), page(12, 5_008, 5_007, more="y"), page(12, 1_006)]
    async with client_of(Historian(pages=pages)) as client:
        found = await client.events("player", limit=5_000)
        assert (revisions(found), found.revision) == ([6, 7, 8, 9], 9)


async def test_a_list_that_tells_the_same_again_and_again_has_no_end() -> None:
    pages = [page(9, 9, 8, more="x"), page(9, 9, 8, more="x")]
    async with client_of(Historian(pages=pages)) as client:
        with pytest.raises(InvalidAnswer, match="no end"):
            await client.events("player", limit=5_000)


async def test_who_follows_what_was_listed_misses_nothing_that_came_between_its_pages() -> None:
    """The later pages of a long list tell of what is older, and of nothing that came since the first one."""
    pages = [page(9, 9, 8, more="x"), page(12, 7)]
    async with client_of(Historian([[news(12, *page(12, 9, 10, 11).events)]], pages)) as client:
        found = await client.events("player", limit=5_000)
        following = client.watch_events("player", from_revision=found.revision)
        assert [(await anext(following)).revision for _ in range(3)] == [9, 10, 11]


@pytest.mark.parametrize("size", [1, 2])
async def test_a_page_goes_on_at_another_replica(size: int, backends: Backends, server_factory: ServerFactory) -> None:
    store = backends.etcd_url()
    one, two = [await server_factory(store=store, name=name).start_async() for name in ("one", "two")]
    async with RawClient(one.address) as first, RawClient(two.address) as second:
        await first.register("anna", 8001)
        await first.update("anna", weight=7)
        last = (await first.register("berta", 8001)).header.revision  # with which anna is replaced
        stubs = [history(it) for it in (first, second)]

        await eventually_async(lambda: _is_at(second, last))
        pages, token = list[tuple[str, str]](), ""
        for number in range(9):
            request = pb.HistoryListRequest(page_size=1, page_token=token)
            answer = await stubs[number % 2].List(request, timeout=CALL_S)
            pages += causes(answer.events)
            if not (token := answer.next_page_token):
                break
        whole = await stubs[0].List(pb.HistoryListRequest(), timeout=CALL_S)
        assert pages == causes(whole.events)
        assert len(pages) == 4


async def _is_at(client: RawClient, revision: int) -> bool:
    return (await history(client).List(pb.HistoryListRequest(), timeout=CALL_S)).header.revision >= revision  # type: ignore[no-any-return]


# ---- the command


async def test_the_command_waits_for_a_registry_that_is_away() -> None:
    address = f"127.0.0.1:{free_port()}"
    with running("--server", address, "--timeout", "0.5", "events", "--follow") as process:
        assert address in await complaint_of(process, waits=True)
        async with serve(Config(listen=address, admin="off")), RawClient(address) as client:
            await client.register("anna", 8001)
            assert "player/anna registered" in await line_of(process)


async def test_the_command_goes_on_from_the_first_page_of_a_long_list() -> None:
    pages = [page(9, 9, 8, more="x"), page(12, 7)]
    historian = Historian([[news(12, *page(12, 9, 10, 11).events)]], pages)
    async with listening(historian) as address:
        with running("--server", address, "events", "--follow", "-o", "json") as process:
            shown = [json.loads(await line_of(process))["revision"] for _ in range(5)]
    assert shown == ["7", "8", "9", "10", "11"]
