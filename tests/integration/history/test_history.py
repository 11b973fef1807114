"""registry.v1.History: who came, changed, left, why and by whom; listed, watched, by who may; on every replica."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

import registry_client
from registry_api.registry.v1 import history_pb2 as pb
from registry_api.registry.v1 import history_pb2_grpc, registry_pb2_grpc
from registry_api.registry.v1 import registry_pb2 as registry
from registry_client import EventCause, Instance
from registry_server.config import Config
from registry_server.server import serve
from registry_server.transport.limits import Limits
from tests.conftest import ServerFactory
from tests.support.access import asking, granted
from tests.support.raw import CALL_S, RawClient
from tests.support.registryctl import ctl
from tests.support.stores import Backends, backends
from tests.support.waiting import eventually_async

__all__ = ["backends"]

PLAYER = Instance("player", "10.0.0.5", 8001, id="anna")


class Told:
    """What a Watch says, event by event."""

    def __init__(self, stub: Any, **asked: Any) -> None:
        self._call = stub.Watch(pb.HistoryWatchRequest(**asked), timeout=60)
        self._events: list[pb.Event] = []
        self.lost = 0

    async def begin(self) -> "Told":
        """From here on everything is told."""
        await self._read()
        return self

    async def _read(self) -> None:
        message = await self._call.read()
        self._events += message.events
        self.lost += message.lost

    async def next(self) -> pb.Event:
        while not self._events:
            await self._read()
        return self._events.pop(0)

    async def several(self, count: int) -> list[tuple[str, str]]:
        found = [await self.next() for _ in range(count)]
        return [(it.id, pb.Event.Cause.Name(it.cause)) for it in found]

    def cancel(self) -> None:
        self._call.cancel()


@contextlib.asynccontextmanager
async def server(**settings: Any) -> AsyncIterator[RawClient]:
    config = Config(listen="127.0.0.1:0", admin="off", **settings)
    async with serve(config) as address, RawClient(address) as client:
        yield client


def history(client: RawClient) -> Any:
    return history_pb2_grpc.HistoryStub(client.channel)


def causes(events: Any) -> list[tuple[str, str]]:
    return [(it.id, pb.Event.Cause.Name(it.cause)) for it in events]


def at(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


async def test_a_life_from_its_begin_to_its_end() -> None:
    async with server() as client:
        stub = history(client)
        told = await Told(stub).begin()
        await client.register("anna", 8001)
        await client.update("anna", weight=7)
        await client.register("berta", 8001)  # at the same address
        await client.deregister("berta")
        first, second, third, fourth, fifth = [await told.next() for _ in range(5)]
        assert causes([first, second, third, fourth, fifth]) == [
            ("anna", "REGISTERED"),
            ("anna", "UPDATED"),
            ("anna", "REPLACED"),
            ("berta", "REGISTERED"),
            ("berta", "DEREGISTERED"),
        ]
        assert (first.HasField("before"), first.after.weight) == (False, 100)
        assert (second.before.weight, second.after.weight, second.detail) == (100, 7, "weight 100 -> 7")
        assert (third.before.weight, third.HasField("after")) == (7, False)
        assert third.detail.endswith(":8001 is the address of berta")
        assert {it.peer for it in (first, second, third, fourth, fifth)} == {"127.0.0.1"}
        assert not any(it.late for it in (first, second, third, fourth, fifth))
        assert third.revision == fourth.revision == fifth.revision - 1
        assert abs(first.at.ToDatetime(UTC) - datetime.now(UTC)) < timedelta(minutes=5)
        listed = await stub.List(pb.HistoryListRequest(), timeout=CALL_S)
        assert list(listed.events) == [fifth, fourth, third, second, first]
        assert listed.known_since.ToDatetime(UTC) <= first.at.ToDatetime(UTC)
        assert listed.header.revision == fifth.revision
        told.cancel()


async def test_what_is_asked_for_is_told_and_nothing_else() -> None:
    async with server() as client:
        stub = history(client)
        for number, name in enumerate(("anna", "berta", "clara")):
            await client.register(name, 8001 + number)
        await client.update("berta", weight=3)
        await client.register("tom", 9001, service="chat")
        await client.register("tim", 9001, service="chat", namespace="prod")

        async def found(**fields: Any) -> list[tuple[str, str]]:
            answer = await stub.List(pb.HistoryListRequest(filter=pb.EventFilter(**fields)), timeout=CALL_S)
            return causes(answer.events)

        now = datetime.now(UTC)
        assert len(await found()) == 5
        assert await found(all_namespaces=True, service="chat") == [("tim", "REGISTERED"), ("tom", "REGISTERED")]
        assert await found(service="player", id="berta") == [("berta", "UPDATED"), ("berta", "REGISTERED")]
        assert await found(causes=[pb.Event.UPDATED, pb.Event.EXPIRED]) == [("berta", "UPDATED")]
        assert await found(identity="ops") == []
        assert await found(until=at(now - timedelta(hours=1))) == []
        assert await found(since=at(now + timedelta(hours=1))) == []
        assert len(await found(since=at(now - timedelta(hours=1)), until=at(now + timedelta(hours=1)))) == 5
        pages, token = [], ""
        while True:
            answer = await stub.List(pb.HistoryListRequest(page_size=2, page_token=token), timeout=CALL_S)
            pages.append(causes(answer.events))
            if not (token := answer.next_page_token):
                break
        assert [len(page) for page in pages] == [2, 2, 1]
        assert [it for page in pages for it in page] == await found()


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.HistoryListRequest(filter=pb.EventFilter(id="anna")), "filter.id"),
        (pb.HistoryListRequest(filter=pb.EventFilter(service="a b")), "filter.service"),
        (pb.HistoryListRequest(filter=pb.EventFilter(namespace="a", all_namespaces=True)), "filter.namespace"),
        (pb.HistoryListRequest(filter=pb.EventFilter(causes=[99])), "filter.causes"),
        (pb.HistoryListRequest(filter=pb.EventFilter(causes=[1] * 500_000)), "filter.causes"),
        (pb.HistoryListRequest(filter=pb.EventFilter(identity="x" * 100_000)), "filter.identity"),
        (pb.HistoryListRequest(filter=pb.EventFilter(since=Timestamp(seconds=2**62))), "filter.since"),
        (pb.HistoryListRequest(page_size=-1), "page_size"),
        (pb.HistoryListRequest(page_token="²"), "page_token"),
        (pb.HistoryListRequest(page_token="9" * 40), "page_token"),
    ],
)
async def test_what_is_wrong_is_named(request_: pb.HistoryListRequest, field: str) -> None:
    async with server() as client:
        with pytest.raises(grpc.aio.AioRpcError, match=field) as caught:
            await history(client).List(request_, timeout=CALL_S)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_who_watches_goes_on_where_he_was() -> None:
    async with server(history_events=20) as client:
        stub = history(client)
        await client.register("anna", 8001)
        for weight in range(1, 5):
            revision = (await client.update("anna", weight=weight)).header.revision
        told = Told(stub, from_revision=revision - 1)
        assert [(await told.next()).after.weight for _ in range(2)] == [3, 4]
        assert not told.lost
        for weight in range(10, 60):
            await client.update("anna", weight=weight)
        late = Told(stub, from_revision=revision)
        assert (await late.next()).after.weight > 30
        assert late.lost
        since = Told(stub, filter=pb.EventFilter(since=at(datetime.now(UTC) - timedelta(hours=1))))
        assert (await since.next()).after.weight > 30
        for it in (told, late, since):
            it.cancel()


async def test_other_beginnings_are_no_other_questions() -> None:
    """What follows is shared, and many services are followed with one filter or none."""
    async with server(limits=Limits(max_filters_per_peer=1)) as client:
        stub = history(client)
        revisions = [(await client.register(id_, 8001 + port)).header.revision for port, id_ in enumerate("abc")]
        now = datetime.now(UTC)
        told = [Told(stub, from_revision=revision) for revision in revisions]
        told += [Told(stub, filter=pb.EventFilter(since=at(now - timedelta(seconds=10 + it)))) for it in range(2)]
        told += [await Told(stub, filter=pb.EventFilter(service=name)).begin() for name in ("one", "two", "player")]
        expected = ["abc", "bc", "c", "abc", "abc", "", "", ""]
        for it, ids in zip(told, expected, strict=True):
            assert [event[0] for event in await it.several(len(ids))] == list(ids)
        await client.register("d", 9000)
        for it in (*told[:5], told[-1]):
            assert (await it.next()).id == "d"
        for it in told:
            it.cancel()


async def test_nothing_is_remembered_where_that_is_not_wanted() -> None:
    async with server(history_events=0) as client:
        await client.register("anna", 8001)
        assert not (await history(client).List(pb.HistoryListRequest(), timeout=CALL_S)).events


# ---- who may


async def test_by_whom_and_for_whose_eyes() -> None:
    """What may not be read is not told of, in a list and in a watch, however wide the question."""
    async with asking("http2", granted(), admin="off") as asked:
        rpc: Any = registry_pb2_grpc.RegistryStub(asked.channel)
        stub: Any = history_pb2_grpc.HistoryStub(asked.channel)
        wide = stub.Watch(pb.HistoryWatchRequest(), metadata=asked.metadata("reader"), timeout=60)
        await wide.read()
        for who, service in (("owner", "player"), ("elsewhere", "chat")):
            wanted = registry.Instance(service=service, id="one", host="10.0.0.5", port=80)
            await rpc.Register(registry.RegisterRequest(instance=wanted), metadata=asked.metadata(who))
        mask = FieldMask(paths=["weight"])
        changed = registry.Instance(service="player", id="one", weight=7)
        update = registry.UpdateRequest(instance=changed, update_mask=mask)
        await rpc.Update(update, metadata=asked.metadata("operator"))
        key = registry.InstanceKey(service="player", id="one")
        await rpc.Deregister(registry.DeregisterRequest(key=key), metadata=asked.metadata("operator"))
        expected = [("REGISTERED", "owner"), ("UPDATED", "operator"), ("DEREGISTERED", "operator")]
        told: list[pb.Event] = []
        while len(told) < 3:
            told += (await wide.read()).events
        assert [(pb.Event.Cause.Name(it.cause), it.identity) for it in told] == expected
        wide.cancel()
        by = pb.HistoryListRequest(filter=pb.EventFilter(identity="operator"))
        listed = await stub.List(by, metadata=asked.metadata("reader"))
        assert [it.identity for it in listed.events] == ["operator", "operator"]
        assert told[2].before.changed_by == "operator"
        listed = await stub.List(pb.HistoryListRequest(), metadata=asked.metadata("elsewhere"))
        assert [(it.service, it.identity) for it in listed.events] == [("chat", "elsewhere")]
        listed = await stub.List(pb.HistoryListRequest(), metadata=asked.metadata("root"))
        assert len(listed.events) == 4


# ---- stores


async def test_over_a_restart_of_a_file(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'registry.db'}"
    async with server(store=url, history_events=4) as client:
        await client.register("anna", 8001, ttl_s=600)
        for weight in range(1, 4):
            await client.update("anna", weight=weight)
    async with server(store=url, history_events=4) as client:
        before = await history(client).List(pb.HistoryListRequest(), timeout=CALL_S)
        assert [it.after.weight for it in before.events] == [3, 2, 1, 100]
        await client.deregister("anna")
        after = await history(client).List(pb.HistoryListRequest(), timeout=CALL_S)
        assert causes(after.events)[0] == ("anna", "DEREGISTERED")
        assert after.events[0].number > after.events[1].number
        assert [it.late for it in after.events] == [False] * len(after.events)
    async with server(store=url, history_events=2) as client:
        last = await history(client).List(pb.HistoryListRequest(), timeout=CALL_S)
        assert causes(last.events)[0] == ("anna", "DEREGISTERED")
        assert len(last.events) <= 2


@pytest.mark.parametrize(
    "by_hand",
    [
        "DROP TABLE events; CREATE TABLE events (number INTEGER PRIMARY KEY, event BLOB, more TEXT NOT NULL)",
        "DROP TABLE events; CREATE TABLE events (a, b)",
        "DROP TABLE events; CREATE VIEW events AS SELECT 1 AS number, x'00' AS event",
        "CREATE TRIGGER no BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'no'); END",
    ],
)
async def test_a_table_of_events_that_is_broken_costs_nothing_else(
    by_hand: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "registry.db"
    async with server(store=f"sqlite:{path}") as client:
        await client.register("anna", 8001, ttl_s=600)
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.executescript(by_hand)
    async with server(store=f"sqlite:{path}") as client:
        await client.update("anna", weight=7)
        await eventually_async(lambda: _is_said(caplog))
        answer = await client.update("anna", weight=8)
        assert not answer.header.HasField("stale_for")
        assert causes((await history(client).List(pb.HistoryListRequest(), timeout=CALL_S)).events)[0][1] == "UPDATED"
    assert not [it for it in caplog.messages if "the store is away" in it]
    assert len([it for it in caplog.messages if it.startswith("what beca")]) <= 1, "a cause is one line"


async def _is_said(caplog: pytest.LogCaptureFixture) -> bool:
    return any("its table events is broken, or was changed by hand" in it for it in caplog.messages)


async def test_events_that_somebody_wrote_into_the_file_are_none(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    async with server(store=f"sqlite:{path}") as client:
        await client.register("anna", 8001, ttl_s=600)
    with contextlib.closing(sqlite3.connect(path)) as file, file:
        [(number, ours)] = file.execute("SELECT number, event FROM events").fetchall()
        far, alien = pb.Event.FromString(ours), pb.Event.FromString(ours)
        far.number, alien.number, alien.id = 2**63 - 1, number + 2, "<script>"
        rows = [(2**63 - 1, far), (number + 1, alien), (number + 2, alien)]
        file.executemany("INSERT INTO events VALUES (?, ?)", [(it, event.SerializeToString()) for it, event in rows])
        file.executemany("INSERT INTO events VALUES (?, ?)", [(-1, b"\xff"), (0, b""), (number + 3, ours)])
    async with server(store=f"sqlite:{path}") as client:
        await client.update("anna", weight=7)
        answer = await history(client).List(pb.HistoryListRequest(), timeout=CALL_S)
        assert causes(answer.events) == [("anna", "UPDATED"), ("anna", "REGISTERED")]
    with contextlib.closing(sqlite3.connect(path)) as file:
        assert [it for (it,) in file.execute("SELECT number FROM events ORDER BY 1")] == sorted(
            it.number for it in answer.events
        )


@pytest.mark.parametrize("kind", ["etcd", "zookeeper"])
async def test_every_replica_tells_the_same(kind: str, backends: Backends, server_factory: ServerFactory) -> None:
    store = backends.etcd_url() if kind == "etcd" else backends.zookeeper_url()
    one, two = [await server_factory(store=store, name=name).start_async() for name in ("one", "two")]
    async with RawClient(one.address) as first, RawClient(two.address) as second:
        told = [await Told(history(it)).begin() for it in (first, second)]
        await first.register("anna", 8001)
        await eventually_async(lambda: _knows(second, "anna"))
        await second.update("anna", weight=7)
        await second.register("berta", 8001)
        await eventually_async(lambda: _knows(first, "berta"))
        await first.deregister("berta")
        found = [[await it.next() for _ in range(5)] for it in told]
        for its in found:
            for event in its:
                event.ClearField("number")
                event.ClearField("at")
        assert found[0] == found[1]
        assert causes(found[0])[2:] == [("anna", "REPLACED"), ("berta", "REGISTERED"), ("berta", "DEREGISTERED")]
        assert {event.peer for event in found[0]} == {"127.0.0.1"}
        for it in told:
            it.cancel()


async def _knows(client: RawClient, name: str) -> bool:
    return name in await client.ids()


# ---- clients


async def test_a_client_lists_and_follows() -> None:
    async with server() as raw, registry_client.connect(raw.address, cache_dir=None) as client:
        following = client.watch_events("player", causes=["REGISTERED", EventCause.DEREGISTERED])
        await eventually_async(lambda: following.is_current)
        registration = await client.register(PLAYER, drain=0)
        await eventually_async(lambda: client.events("player"))
        await client.update("player", "anna", weight=7)
        await registration.aclose()
        came = await anext(following)
        assert (came.cause, came.id, came.before) == (EventCause.REGISTERED, "anna", None)
        assert came.after is not None
        assert came.after.address == PLAYER.address
        left = await anext(following)
        assert (left.cause, left.after) == (EventCause.DEREGISTERED, None)
        found = await client.events("player", id="anna", since=timedelta(hours=1))
        assert [it.cause for it in found[:2]] == ["REGISTERED", "UPDATED"]
        assert [it.cause for it in await client.events(limit=1)] == ["DEREGISTERED"]
        with pytest.raises(registry_client.InvalidArgument, match="causes"):
            await client.events(causes=["DIED"])
        with pytest.raises(registry_client.InvalidArgument, match="id"):
            await client.events(id="anna")
        await following.aclose()
        with pytest.raises(registry_client.ClientClosed):
            await anext(following)


async def test_threads_have_it_too() -> None:
    async with server() as raw:
        await raw.register("anna", 8001)

        def look() -> list[EventCause]:
            with registry_client.sync.connect(raw.address, cache_dir=None) as client:
                [came] = client.events("player")
                with client.watch_events("player", from_revision=came.revision) as following:
                    assert following.next(timeout=20) == came
                    client.update("player", "anna", weight=7)
                    changed = following.next(timeout=20)
                    with pytest.raises(TimeoutError):
                        following.next(timeout=0.01)
                return [came.cause, changed.cause]

        assert await asyncio.to_thread(look) == ["REGISTERED", "UPDATED"]


async def test_nobody_says_for_another_that_he_changed_it() -> None:
    async with server() as client:
        answer = await client.register("anna", 8001, changed_by="boss", changed_from="10.9.9.9")
        assert (answer.instance.changed_by, answer.instance.changed_from) == ("", "127.0.0.1")


async def test_who_follows_goes_on_at_another_server_and_is_told_nothing_twice(
    backends: Backends, server_factory: ServerFactory
) -> None:
    store = backends.etcd_url()
    one, two = [await server_factory(store=store, name=name).start_async() for name in ("one", "two")]
    async with (
        registry_client.connect([one.address], cache_dir=None) as writer,
        registry_client.connect([one.address, two.address], cache_dir=None) as client,
        RawClient(two.address) as raw,
    ):
        following = client.watch_events()
        await eventually_async(lambda: following.is_current)
        await writer.register_once(PLAYER, ttl=60)
        seen = [(await anext(following)).cause]
        one.kill()
        await eventually_async(lambda: _knows(raw, "anna"))
        await raw.update("anna", weight=7)
        await raw.deregister("anna")
        seen += [(await anext(following)).cause for _ in range(2)]
        assert seen == ["REGISTERED", "UPDATED", "DEREGISTERED"]
        await following.aclose()


async def test_who_follows_is_told_where_the_registry_began_anew(server_factory: ServerFactory) -> None:
    one = await server_factory(name="one").start_async()
    async with registry_client.connect(one.address, cache_dir=None) as client:
        following = client.watch_events()
        await eventually_async(lambda: following.is_current)
        await client.register_once(PLAYER, ttl=60)
        first = await anext(following)
        one.kill()
        await one.start_async()
        await client.register_once(PLAYER, ttl=60)
        second = await anext(following)
        assert (first.cause, first.gap) == (second.cause, False) == ("REGISTERED", False)
        assert second.gap
        assert first.epoch != second.epoch
        await following.aclose()


async def test_the_command_shows_a_line_for_each() -> None:
    async with server() as client:
        await client.register("anna", 8001)
        await client.update("anna", weight=7)
        shown = await ctl("--server", client.address, "events", "player", "--since", "10m")
        assert shown.exit_code == 0
        came, changed = shown.stdout.splitlines()
        assert came.endswith("player/anna registered from 127.0.0.1")
        assert changed.endswith("player/anna updated from 127.0.0.1: weight 100 -> 7")
        shown = await ctl("--server", client.address, "events", "player", "anna", "--cause", "updated", "-o", "json")
        assert '"detail": "weight 100 -> 7"' in shown.stdout
        assert (await ctl("--server", client.address, "events", "--since", "never")).exit_code == 2
        empty = await ctl("--server", client.address, "events", "chat")
        assert (empty.exit_code, empty.stdout) == (0, "")
        assert "nothing happened" in empty.stderr
