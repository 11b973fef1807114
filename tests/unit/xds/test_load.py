"""What clients report of their calls, added up; and how many streams may begin at a time."""

import pytest

from registry_api.registry.xds.v1 import ads_pb2 as ads
from registry_server.errors import Unavailable
from registry_server.rights import UNRESTRICTED
from registry_server.xds.admission import Admission
from registry_server.xds.load import (
    MAX_INTERVAL_S,
    MAX_SERVICES,
    MAX_STATS,
    MAX_TOTAL,
    MIN_INTERVAL_S,
    REPORTS_PER_S,
    Load,
    LoadBook,
)
from tests.support.ads_session import World
from tests.support.core import key, put


def stats(name: str, *localities: tuple[int, int, int, int], dropped: int = 0) -> ads.ClusterStats:
    """One report: calls begun, ended well, ended badly, under way, for each locality."""
    found = ads.ClusterStats(cluster_name=name, total_dropped_requests=dropped)
    found.load_report_interval.seconds = 2
    for issued, good, bad, going in localities:
        found.upstream_locality_stats.add(
            total_issued_requests=issued,
            total_successful_requests=good,
            total_error_requests=bad,
            total_requests_in_progress=going,
        )
    return found


@pytest.fixture
def book() -> LoadBook:
    world = World()
    world.apply(put(1, key("a")))
    return LoadBook(world.resources)


def only(book: LoadBook) -> Load:
    ((name, load),) = book.loads()
    assert name == ("default", "player")
    return load


def test_reports_are_added_up_over_places_parts_and_clients(book: LoadBook) -> None:
    for client in (one := object(), two := object()):
        book.came(client)
    book.report(one, [stats("player", (10, 8, 1, 1), (4, 4, 0, 0), dropped=3)], UNRESTRICTED, 5.0)
    part, whole = stats("player#version=2", (2, 0, 2, 0)), stats("default/player", (2, 2, 0, 7))
    book.report(two, [part, whole], UNRESTRICTED, 6.0)
    load = only(book)
    assert (load.calls, load.successes, load.errors, load.dropped, load.reported_at) == (18, 14, 3, 3, 6.0)
    assert [(it.in_progress, it.per_second) for it in load.now.values()] == [(1, 7.0), (7, 2.0)]
    book.report(one, [], UNRESTRICTED, 7.0)
    assert load.now[one] == (0, 0.0)
    book.left(two)
    assert list(load.now) == [one]


def test_a_report_of_places_without_number_is_left_where_it_begins_to_be_that(book: LoadBook) -> None:
    book.came(client := object())
    one = stats("player", (1, 1, 0, 0))
    for without_number in ([ads.ClusterStats()] * MAX_STATS, [stats("player", *[(1, 1, 0, 0)] * MAX_STATS)]):
        book.report(client, [one, *without_number, one], UNRESTRICTED, 5.0)
    assert only(book).calls == 2


def test_a_report_of_what_nobody_knows_is_nothing(book: LoadBook) -> None:
    book.came(client := object())
    book.report(client, [stats("nobody", (1, 1, 0, 0)), stats("no name!", (1, 1, 0, 0))], UNRESTRICTED, 1.0)
    assert list(book.loads()) == []
    book.report(object(), [stats("player", (1, 1, 0, 0))], UNRESTRICTED, 1.0)
    assert only(book).now == {}


def test_services_that_nobody_calls_take_no_place_in_a_report() -> None:
    """Envoy reports of all that it could call."""
    world = World()
    names = [f"s{number}" for number in range(MAX_SERVICES + 500)]
    world.apply(put(1, *[key("a", name) for name in names]))
    book = LoadBook(world.resources)
    book.came(client := object())
    book.report(client, [*map(stats, names), stats("s1499", (3, 1, 1, 1)), stats("s7", dropped=2)], UNRESTRICTED, 1.0)
    assert {name: (it.calls, it.dropped) for (_, name), it in book.loads()} == {"s1499": (3, 0), "s7": (0, 2)}
    book.report(client, [stats("s1499")], UNRESTRICTED, 2.0)
    assert [it.now[client] for _, it in book.loads()] == [(0, 0.0)] * 2


def test_no_report_makes_a_count_that_cannot_be_told(book: LoadBook) -> None:
    book.came(client := object())
    most = 2**64 - 1
    liar = stats("player", (most, most, most, most), dropped=most)
    book.report(client, [liar], UNRESTRICTED, 1.0)
    load = only(book)
    load.calls = load.successes = load.errors = load.dropped = MAX_TOTAL - 1
    book.report(client, [liar], UNRESTRICTED, 1.0)
    assert {load.calls, load.successes, load.errors, load.dropped} == {MAX_TOTAL}


def test_nothing_is_left_of_a_client_that_reported_of_more_services_than_are_kept() -> None:
    world = World()
    names = [f"s{number}" for number in range(MAX_SERVICES + 500)]
    world.apply(put(1, *[key("a", name) for name in names]))
    book = LoadBook(world.resources)
    book.came(client := object())
    for some in (names[:800], names[800:], names[:800]):
        book.report(client, [stats(name, (1, 1, 0, 1)) for name in some], UNRESTRICTED, 1.0)
    assert sum(len(load.now) for _, load in book.loads()) == MAX_SERVICES
    book.left(client)
    assert sum(len(load.now) for _, load in book.loads()) == 0


def test_many_clients_report_less_often(book: LoadBook) -> None:
    assert book.came(object()) == MIN_INTERVAL_S
    intervals = [book.came(number) for number in range(4 * REPORTS_PER_S)]
    assert 3.9 < intervals[-1] <= MAX_INTERVAL_S


def test_streams_that_begin_at_once_wait_for_their_turn() -> None:
    admission = Admission(burst=2, rate_per_s=10, longest_s=0.25)
    assert [round(admission.enter(100.0), 3) for _ in range(5)] == [0.0, 0.0, 0.0, 0.1, 0.2]
    with pytest.raises(Unavailable):
        admission.enter(100.0)
    assert admission.enter(100.2) == pytest.approx(0.1)
    assert admission.enter(200.0) == 0.0
