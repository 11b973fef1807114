"""Hosts that are names: who is told when what they stand for changes, and when they are looked up."""

from registry_server.xds.hosts import REFRESH_S, RETRY_S, HostBook

PLAYER, CHAT = ("default", "player"), ("default", "chat")


def test_a_number_stands_for_itself() -> None:
    book = HostBook()
    book.used(PLAYER, ["10.0.0.1", "2001:DB8::1"])
    assert [book.address(host) for host in ("10.0.0.1", "2001:DB8::1")] == ["10.0.0.1", "2001:db8::1"]
    assert book.due(0.0) == []
    assert book.next_due() is None


def test_a_name_is_looked_up_and_all_who_use_it_are_told() -> None:
    book = HostBook()
    calls: list[int] = []
    book.on_due = lambda: calls.append(1)
    book.used(PLAYER, ["one.example"])
    book.used(CHAT, ["one.example"])
    assert (book.address("one.example"), len(calls)) == ("", 1)
    assert book.due(0.0) == ["one.example"]
    services, is_lost = book.found("one.example", ["2001:db8::1", "10.0.0.2", "10.0.0.1"], 0.0)
    assert (sorted(services), is_lost) == ([CHAT, PLAYER], False)
    assert book.address("one.example") == "10.0.0.1"
    assert book.due(0.0) == []
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


def test_a_name_that_nobody_uses_is_forgotten() -> None:
    book = HostBook()
    book.used(PLAYER, ["one.example", "two.example"])
    book.used(PLAYER, ["two.example"])
    assert book.due(0.0) == ["two.example"]
    book.used(PLAYER, [])
    assert book.next_due() is None
    assert book.found("two.example", ["10.0.0.1"], 0.0) == ((), False)
