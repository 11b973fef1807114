"""Hosts that are names: who is told when what they stand for changes, and when they are looked up."""

import asyncio
import threading

import pytest

from registry_server.xds.hosts import REFRESH_S, RETRY_S, HostBook
from registry_server.xds.resolving import MAX_LOOKUPS, Resolving
from tests.support.waiting import eventually_async

PLAYER, CHAT = ("default", "player"), ("default", "chat")


def test_a_number_stands_for_itself() -> None:
    book = HostBook()
    book.used(PLAYER, ["10.0.0.1", "2001:DB8::1"])
    assert [book.address(host) for host in ("10.0.0.1", "2001:DB8::1")] == ["10.0.0.1", "2001:db8::1"]
    assert book.due(0.0, 9) == []
    assert book.next_due() is None


def test_a_name_is_looked_up_and_all_who_use_it_are_told() -> None:
    book = HostBook()
    calls: list[int] = []
    book.on_due = lambda: calls.append(1)
    book.used(PLAYER, ["one.example"])
    book.used(CHAT, ["one.example"])
    assert (book.address("one.example"), len(calls)) == ("", 2)
    assert book.due(0.0, 9) == ["one.example"]
    services, is_lost = book.found("one.example", ["2001:db8::1", "10.0.0.2", "10.0.0.1"], 0.0)
    assert (sorted(services), is_lost) == ([CHAT, PLAYER], False)
    assert book.address("one.example") == "10.0.0.1"
    assert book.due(0.0, 9) == []
    assert book.next_due() == REFRESH_S


def test_a_name_keeps_its_number_while_it_is_among_those_found() -> None:
    book = HostBook()
    book.used(PLAYER, ["one.example"])
    book.found("one.example", ["10.0.0.2"], 0.0)
    assert book.found("one.example", ["10.0.0.1", "10.0.0.2"], 30.0) == ((), False)
    assert book.address("one.example") == "10.0.0.2"
    assert book.found("one.example", ["10.0.0.1"], 60.0)[0] == (PLAYER,)


def test_a_name_that_is_lost_keeps_its_number_and_is_said_once() -> None:
    book = HostBook()
    book.used(PLAYER, ["one.example"])
    book.found("one.example", ["10.0.0.2"], 0.0)
    assert book.found("one.example", [], 30.0) == ((), True)
    assert book.found("one.example", [], 35.0) == ((), False)
    assert (book.address("one.example"), book.next_due()) == ("10.0.0.2", 35.0 + RETRY_S)


@pytest.mark.parametrize("found", [["fe80::1%eth0"], ["fe80::1%eth0", "2001:DB8::1"], ["nonsense"]])
def test_an_address_that_only_one_machine_can_call_is_none(found: list[str]) -> None:
    book = HostBook()
    book.used(PLAYER, ["one.example"])
    _, is_lost = book.found("one.example", found, 0.0)
    assert (book.address("one.example"), is_lost) == (("2001:db8::1", False) if len(found) > 1 else ("", True))


def test_a_name_that_nobody_uses_is_forgotten() -> None:
    book = HostBook()
    book.used(PLAYER, ["one.example", "two.example"])
    book.used(PLAYER, ["two.example"])
    assert book.due(0.0, 9) == ["two.example"]
    book.used(PLAYER, [])
    assert book.next_due() is None
    assert book.found("two.example", ["10.0.0.1"], 0.0) == ((), False)


def test_names_without_number_are_given_some_at_a_time_and_each_once() -> None:
    book = HostBook()
    names = [f"host-{number}.example" for number in range(5)]
    book.used(PLAYER, names)
    first, rest = book.due(0.0, 3), book.due(0.0, 3)
    assert (len(first), sorted(first + rest)) == (3, names)
    assert (book.due(0.0, 3), book.next_due()) == ([], None)
    book.found(first[0], ["10.0.0.1"], 1.0)
    assert book.next_due() == 1.0 + REFRESH_S


def test_a_name_that_is_used_again_is_looked_up_again() -> None:
    book = HostBook()
    book.used(PLAYER, ["one.example"])
    assert book.due(0.0, 9) == ["one.example"]
    book.used(PLAYER, [])
    book.used(PLAYER, ["one.example"])
    assert book.due(0.0, 9) == ["one.example"]
    for number in (1.0, 2.0):
        book.found("one.example", ["10.0.0.1"], number)
    assert book.due(1.0 + REFRESH_S, 9) == []
    assert book.due(2.0 + REFRESH_S, 9) == ["one.example"]


async def test_names_are_looked_up_when_they_are_due(caplog: pytest.LogCaptureFixture) -> None:
    book, moved, known = HostBook(), list[tuple[str, str]](), {"one.example": ["10.0.0.1"]}
    now = [0.0]

    def find(name: str) -> list[str]:
        if name not in known:
            raise OSError(name)
        return known[name]

    resolving = Resolving(book, moved.append, lambda: now[0], find)
    running = asyncio.create_task(resolving.run())
    try:
        book.used(PLAYER, ["one.example"])
        await eventually_async(lambda: moved == [PLAYER])
        assert book.address("one.example") == "10.0.0.1"
        known.clear()
        now[0] = REFRESH_S
        book.used(CHAT, ["two.example"])
        await eventually_async(lambda: len(caplog.records) == 2)
        assert {record.getMessage().partition(":")[0] for record in caplog.records} == {"one.example", "two.example"}
        assert (moved, book.address("one.example")) == ([PLAYER, CHAT], "10.0.0.1")  # no more will be known of it now
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_a_name_server_that_does_not_answer_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry_server.xds.resolving.PATIENCE_S", 0.2)
    book, moved = HostBook(), list[tuple[str, str]]()
    answer = threading.Event()

    def find(name: str) -> list[str]:
        if name == "slow.example":
            answer.wait(20)
        return ["10.0.0.1"]

    running = asyncio.create_task(Resolving(book, moved.append, lambda: 0.0, find).run())
    book.used(PLAYER, ["slow.example"])
    book.used(CHAT, ["one.example"])
    try:
        await eventually_async(lambda: moved == [CHAT])
        assert book.is_awaited(PLAYER)
        await eventually_async(lambda: moved == [CHAT, PLAYER])  # it waits no more
        running.cancel()
        await asyncio.wait([running])
    finally:
        answer.set()
    await eventually_async(lambda: not [it for it in threading.enumerate() if it.name == "xds-dns"])


@pytest.mark.parametrize("error", [ValueError("embedded null byte"), AttributeError("what nobody expected")])
async def test_names_that_cannot_even_be_looked_up_take_nothing_from_the_others(error: Exception) -> None:
    book, moved = HostBook(), list[tuple[str, str]]()

    def find(name: str) -> list[str]:
        if name.startswith("bad"):
            raise error
        return ["10.0.0.1"]

    running = asyncio.create_task(Resolving(book, moved.append, lambda: 0.0, find).run())
    try:
        book.used(CHAT, [f"bad{number}.example" for number in range(MAX_LOOKUPS)])
        book.used(PLAYER, ["one.example"])
        await eventually_async(lambda: set(moved) == {CHAT, PLAYER})
        assert book.address("one.example") == "10.0.0.1"
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_a_system_that_gives_no_more_threads_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    book, moved = HostBook(), list[tuple[str, str]]()
    now = [0.0]
    running = asyncio.create_task(Resolving(book, moved.append, lambda: now[0], lambda _: ["10.0.0.1"]).run())
    try:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            book.used(PLAYER, ["one.example"])
            await eventually_async(lambda: book.next_due() == RETRY_S)
        now[0] = RETRY_S
        book.on_due()
        await eventually_async(lambda: moved == [PLAYER])
    finally:
        running.cancel()
        await asyncio.wait([running])
