"""What a page is told, and what it finds: state and no log, of what its reader may see, a bounded piece at a time."""

from collections.abc import Iterable
from typing import Any

import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.admin.sessions import MAX_OF_ONE, MAX_SESSIONS, SESSION_S, Sessions
from registry_server.catalog import Catalog
from registry_server.guard import RemovalGuard
from registry_server.history.events import Event, Moment
from registry_server.history.history import History
from registry_server.page import display
from registry_server.page.connected import MAX_ASKED, asked_of
from registry_server.page.display import Display, Look, Message, Sources
from registry_server.page.search import MAX_FOUND, searched
from registry_server.page.shown import MAX_SAID, instance_row
from registry_server.records import Author, Cause, Deleted, Delta, Key, Snapshot
from registry_server.rights import UNRESTRICTED, Rights
from registry_server.rpc.table import Credentials
from tests.support.access import granted
from tests.support.core import NOON, key, loaded, put, record

PLAYER = ("default", "player")


class Registry:
    """A catalog, its guard, and what happened."""

    def __init__(self, *names: Key) -> None:
        self.catalog: Catalog = loaded(*(record(it, 5) for it in names))
        self.guard = RemovalGuard(self.catalog.get)
        self.history = History(1_000, 3600.0)
        self.now = NOON

    def apply(self, delta: Delta) -> None:
        for change in self.catalog.apply(delta):
            self.history.add(Event(self.history.last + 1, Moment(self.now, False, "e1"), change))

    def page(self, rights: Rights = UNRESTRICTED, **look: Any) -> "Page":
        return Page(self, Display(Sources(self.catalog, self.guard, lambda: self.history), rights, Look(**look)))


class Page:
    """What the page's script makes of what it is told."""

    def __init__(self, registry: Registry, display: Display) -> None:
        self.services: dict[str, Any] = {}
        self.instances: dict[str, Any] = {}
        self.gone: dict[str, Any] = {}
        self.events: list[Any] = []
        self._registry = registry
        self._display = display

    def look(self) -> list[Message]:
        told = list(self._display.messages(self._registry.now))
        for message in (*told, *self._display.held()):
            self.take(message.data, *self.of(message.event))
        return told

    def of(self, event: str) -> tuple[dict[str, Any], int]:
        return (self.services, 2) if event == "services" else (self.instances, 1)

    def take(self, data: Any, known: dict[str, Any], named: int) -> None:
        if data.get("begins"):
            known.clear()
        known.update({"/".join(row[:named]): row[named:] for row in data.get("set", ())})
        for row in data.get("gone", ()):
            self.gone["/".join(row[:named])] = row[named:]
            known.pop("/".join(row[:named]), None)
        self.gone.update({row[0]: row[-3:] for row in data.get("left", ())})
        self.events += data.get("events", ())


def rights_of(name: str) -> Rights:
    (found,) = (it.rights for it in granted().identities if it.name == name)
    return found


def left(revision: int, *names: Key, cause: Cause, author: Author) -> Delta:
    return Delta(revision, deletes=tuple(Deleted(it, cause, author) for it in names))


def test_all_at_first_and_then_what_differs() -> None:
    registry = Registry(key("a"), key("b"), key("c", "chat"))
    page = registry.page(looks_at=PLAYER)
    page.look()
    assert sorted(page.services) == ["default/chat", "default/player"]
    assert sorted(page.instances) == ["a", "b"]
    assert page.look() == []
    registry.apply(put(11, key("b"), weight=7))
    (services, instances) = page.look()
    assert services.data["set"] == [["default", "player", 2, 2, 0, 0, 0, 0]]
    assert [row[0] for row in instances.data["set"]] == ["b"]  # type: ignore[attr-defined]
    assert page.instances["b"][4] == 7


def test_what_leaves_says_why() -> None:
    registry = Registry(key("a"), key("b"), key("c", "chat"))
    page = registry.page(looks_at=PLAYER)
    page.look()
    registry.apply(left(11, key("a"), cause=Cause.DEREGISTERED, author=Author("ops", "10.0.0.9", "")))
    registry.apply(left(12, key("c", "chat"), cause=Cause.UNHEALTHY, author=Author(detail="http: 503")))
    page.look()
    assert page.gone == {"a": ["deregistered", "by ops"], "default/chat": ["unhealthy", "http: 503"]}
    assert sorted(page.services) == ["default/player"]


def test_who_comes_later_is_told_what_left_lately() -> None:
    registry = Registry(key("a"), key("b"), key("c"))
    registry.apply(left(11, key("a"), cause=Cause.EXPIRED, author=Author()))
    registry.now += display.LEFT_S + 1
    registry.apply(left(12, key("b"), cause=Cause.EXPIRED, author=Author()))
    registry.apply(left(13, key("c"), cause=Cause.EXPIRED, author=Author()))
    registry.apply(put(14, key("c")))
    page = registry.page(looks_at=PLAYER)
    page.look()
    assert page.gone == {"b": ["expired", "", round(registry.now * 1000)]}
    assert sorted(page.instances) == ["c"]


def test_another_order_of_changes_is_told_anew() -> None:
    registry = Registry(key("a"), key("b"))
    page = registry.page(looks_at=PLAYER)
    page.look()
    registry.catalog.load(Snapshot("e2", 3, (record(key("b"), 2),), 0))
    page.look()
    assert sorted(page.instances) == ["b"]


def test_of_very_many_changes_only_what_is_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "MAX_CHANGES", 10)
    registry = Registry(key("a"))
    page = registry.page()
    page.look()
    for number in range(20):
        registry.apply(put(11 + number, key(f"x{number}")))
    assert next(it.data for it in page.look() if it.event == "services") == {"begins": True}
    assert page.services["default/player"][0] == 21


def test_messages_are_bounded() -> None:
    registry = Registry(*(key(f"p{number}") for number in range(display.INSTANCES_AT_ONCE * 3)))
    page = registry.page(looks_at=PLAYER)
    sizes = [len(it.data.get("set", ())) for it in page.look() if it.event == "instances"]  # type: ignore[arg-type]
    assert sum(sizes) == display.INSTANCES_AT_ONCE * 3
    assert max(sizes) <= display.INSTANCES_AT_ONCE


def test_one_is_told_what_one_may_read() -> None:
    registry = Registry(key("a"), key("c", "chat"))
    page = registry.page(rights_of("reader"), events=0)
    page.look()
    assert sorted(page.services) == ["default/player"]
    registry.apply(put(11, key("d", "chat"), key("b")))
    registry.apply(left(12, key("c", "chat"), key("d", "chat"), cause=Cause.EXPIRED, author=Author()))
    page.look()
    assert sorted(page.services) == ["default/player"]
    assert page.gone == {}
    assert [event[3:6] for event in page.events] == [["default", "player", "b"]]


def test_what_is_held_is_told_as_it_changes() -> None:
    registry = Registry(key("a"), key("b"))
    page = registry.page(looks_at=PLAYER)
    page.look()
    registry.guard.store_ill(100.0)
    assert registry.guard.filter_delta(Delta(11, deletes=(Deleted(key("a"), Cause.EXPIRED),)), 100.0).deletes == ()
    page.look()
    assert [page.instances[it][-1] for it in "ab"] == [True, False]
    registry.guard.release([key("a")])
    page.look()
    assert [page.instances[it][-1] for it in "ab"] == [False, False]


def test_events_come_once_the_latest_first_and_not_more_than_some() -> None:
    registry = Registry(key("a"))
    page = registry.page(events=0)
    page.look()
    for number in range(3):
        registry.apply(put(11 + number, key("a"), weight=number))
    page.look()
    assert [(event[6], event[8]) for event in page.events][:1] == [("updated", "weight 1 -> 2")]
    assert page.look() == []
    for number in range(display.EVENTS_AT_ONCE + 1):
        registry.apply(put(20 + number, key("a"), weight=number + 9))
    (told,) = (it.data for it in page.look() if it.event == "history")
    assert (len(told["events"]), told["more"]) == (display.EVENTS_AT_ONCE, True)  # type: ignore[arg-type]


def test_who_comes_back_is_told_what_happened_meanwhile() -> None:
    """A page that was hidden, or cut off, knows events up to some number; another server has not that one."""
    registry = Registry(key("a"))
    for number in range(5):
        registry.apply(put(11 + number, key("a"), weight=number))

    def told(after: int) -> tuple[list[int], object, object, object] | None:
        page = registry.page(events=after)
        data: Any = next((it.data for it in page.look() if it.event == "history"), None)
        assert page.look() == []
        return None if data is None else ([it[0] for it in data["events"]], data["more"], data["lost"], data["anew"])

    assert told(5) is None
    assert told(3) == ([5, 4], False, False, False)
    assert told(0) == ([5, 4, 3, 2, 1], False, False, False)
    assert told(99) == ([5, 4, 3, 2, 1], False, False, True)
    registry.history.expire(registry.now + 3601)
    assert told(5) is None
    assert told(3) == ([], False, True, False)
    registry.now += 3600
    registry.apply(put(16, key("a"), weight=7))
    assert told(5) == ([6], False, False, False)
    assert told(3) == ([6], False, True, False)


def test_no_look_at_what_happened_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of very many events that one may not see it is told that there may be more."""
    monkeypatch.setattr(display, "MAX_EVENTS", 3)
    registry = Registry(key("a"), key("c", "chat"))
    for number in range(5):
        registry.apply(put(11 + number, key("c", "chat"), weight=number))
    page = registry.page(rights_of("reader"), events=0)
    (told,) = (it.data for it in page.look() if it.event == "history")
    assert (told["events"], told["more"]) == ([], True)


def test_an_instance_says_which_check_failed() -> None:
    results = [
        {"name": "old", "health": pb.CRITICAL, "output": "x", "checked_at": {"seconds": 5}},
        {"name": "http", "health": pb.UNHEALTHY, "output": "503 " * 99, "checked_at": {"seconds": 9}},
        {"name": "fine", "health": pb.HEALTHY, "output": "ok", "checked_at": {"seconds": 10}},
    ]
    it = pb.Instance(id="a", health=pb.UNHEALTHY, check_results=results)  # type: ignore[arg-type]
    said = instance_row(it)[12]
    assert str(said).startswith("http: 503")
    assert len(str(said)) == MAX_SAID
    assert instance_row(pb.Instance(health=99, status=77))[3:5] == ["?", "?"]  # type: ignore[arg-type]


# ---- search


def found(registry: Registry, asked: str, rights: Rights = UNRESTRICTED) -> list[Any]:
    return [it for it in searched(registry.catalog, rights, asked) if it is not None]


@pytest.mark.parametrize(
    "asked", ["PLAY-1", " play-1 ", "10.9.8.7:99", "canary", "eu-west", "9.9.9", "shard=seven", "seven"]
)
def test_found_by_any_part(asked: str) -> None:
    registry = Registry(key("b"))
    fields = {"host": "10.9.8.7", "port": 9999, "tags": ["canary"], "version": "9.9.9", "metadata": {"Shard": "Seven"}}
    registry.apply(put(11, key("play-1"), locality={"region": "eu-west"}, **fields))
    assert [row[2] for row in found(registry, asked)] == ["play-1"]


def test_a_search_is_bounded_and_shows_what_one_may_read() -> None:
    registry = Registry(*(key(f"p{number}") for number in range(MAX_FOUND + 9)), key("p", "chat"))
    assert len(found(registry, "p")) == MAX_FOUND + 1
    assert found(registry, "  ") == []
    assert {row[1] for row in found(registry, "p", rights_of("reader"))} == {"player"}


# ---- who is connected


def test_what_streams_ask_for() -> None:
    assert asked_of(pb.WatchRequest(services=["a", "b"])) == "default/a, default/b"
    assert asked_of(pb.WatchRequest(all_namespaces=True)) == "*/*"
    narrow = pb.WatchRequest(namespace="prod", services=["a"], filter=pb.Filter(tags=["<b>"]))
    assert asked_of(narrow) == "prod/a, of these tags: [<b>]"
    assert asked_of(None) == ""
    many: Iterable[str] = [f"service-{number}" for number in range(1_000)]
    assert len(asked_of(pb.WatchRequest(services=many))) <= MAX_ASKED


# ---- sessions


def test_who_begins_very_many_ends_those_of_nobody_else() -> None:
    names = iter(map(str, range(10**6)))
    sessions = Sessions(lambda: 0.0, lambda: next(names))
    other = sessions.begin(Credentials("other"))
    begun = [sessions.begin(Credentials("one")) for _ in range(MAX_SESSIONS + 1)]
    assert sessions.credentials(other) is not None
    assert sessions.credentials(begun[-1]) is not None
    assert len(sessions) == 1 + MAX_OF_ONE


def test_a_session_ends_and_the_oldest_go_first() -> None:
    now, names = [0.0], iter(map(str, range(10**6)))
    sessions = Sessions(lambda: now[0], lambda: next(names))
    first = sessions.begin(Credentials("t0"))
    assert sessions.credentials(first) == Credentials("t0")
    for number in range(MAX_SESSIONS - 1):
        sessions.begin(Credentials(f"t{number}"))
    assert sessions.credentials(first) == Credentials("t0")  # and is no more the one not used for longest
    second = sessions.begin(Credentials("new"))
    assert len(sessions) == MAX_SESSIONS
    assert sessions.credentials("1") is None
    sessions.end(second)
    sessions.end("nobody's \udcff")
    assert sessions.credentials(second) is None
    now[0] = SESSION_S
    assert sessions.credentials(first) is None
