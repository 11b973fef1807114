"""The balancer used alone."""

import asyncio
import contextlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from random import Random
from types import SimpleNamespace

import pytest

from balancer import Endpoint, LoadBalancer, NoEndpointError, OutlierOptions, PoolOptions
from balancer.lb import ALONE
from tests.support.fleet import POLICIES

GIVEN = (Endpoint("a:1"), Endpoint("b:1"), Endpoint("c:1", weight=3))


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("name", POLICIES)
def test_selects_one_of_the_given_objects(name: str) -> None:
    subject = LoadBalancer(name)
    for kind in (tuple, list, iter):
        chosen = subject.select(kind(GIVEN), key="10.0.0.1")  # type: ignore[operator]
        assert any(chosen is endpoint for endpoint in GIVEN)


def test_a_list_may_change_between_calls() -> None:
    subject, changing = LoadBalancer("round_robin"), list(GIVEN)
    assert {subject.select(changing) for _ in range(6)} == set(GIVEN)
    changing.pop()
    assert {subject.select(changing) for _ in range(6)} == set(GIVEN[:2])
    changing[0] = replace(GIVEN[0], weight=0)
    assert {subject.select(changing) for _ in range(6)} == {GIVEN[1]}


def test_default_policy_goes_by_weight() -> None:
    subject = LoadBalancer()
    assert Counter(subject.select(GIVEN).address for _ in range(50)) == {"a:1": 10, "b:1": 10, "c:1": 30}


def test_same_key_same_endpoint() -> None:
    subject = LoadBalancer("consistent_hash")
    assert len({subject.select(GIVEN, key="player-1") for _ in range(20)}) == 1
    assert len({subject.select(GIVEN, key=f"player-{n}") for n in range(100)}) == 3


class Found:
    """An endpoint as a registry's client shows it."""

    def __init__(self, address: str, weight: int) -> None:
        self.address = address
        self.instance = SimpleNamespace(weight=weight, id=f"id of {address}")


def test_what_looks_like_an_endpoint_is_one() -> None:
    subject, given = LoadBalancer(), (Found("a:1", 1), Found("b:1", 3))
    chosen = [subject.select(given) for _ in range(8)]
    assert (chosen.count(given[0]), chosen.count(given[1])) == (2, 6)
    with subject.request(given[0]) as request:
        assert request.endpoint.address == "a:1"
    assert of(subject, Endpoint("a:1")).calls == 1
    assert subject.select(given, exclude=[given[1]]) is given[0]


def test_an_address_is_an_endpoint() -> None:
    subject = LoadBalancer("round_robin")
    assert [subject.select(["a:1", "b:1"]) for _ in range(4)] == ["a:1", "b:1", "a:1", "b:1"]


def test_what_has_no_address_is_none() -> None:
    with pytest.raises(TypeError, match="not an endpoint: 7"):
        LoadBalancer().select([7])


def test_number_is_a_key() -> None:
    subject = LoadBalancer("consistent_hash")
    assert subject.select(GIVEN, key=4711) is subject.select(GIVEN, key="4711")


@pytest.mark.parametrize("name", POLICIES)
def test_what_is_no_key_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=r"^key: must be str or bytes, is 1\.5$"):
        LoadBalancer(name).select(GIVEN, key=1.5)  # type: ignore[arg-type]


DRAINED, IDLE, OTHER = Endpoint("a:1", routable=False), Endpoint("b:1", weight=0), Endpoint("c:1", weight=0)


@pytest.mark.parametrize(
    ("nothing", "why"),
    [
        ((), ""),
        ((IDLE,), " that get traffic: of 1 known, 1 of weight 0"),
        (
            (DRAINED, IDLE, OTHER),
            " that get traffic: of 3 known, 1 draining or ill, 2 of weight 0",
        ),
    ],
)
def test_nothing_to_select_from_says_how_many_there_are_and_why(nothing: tuple[Endpoint, ...], why: str) -> None:
    """With a threshold of panic above 0 those that are draining or ill would be the last resort."""
    subject = LoadBalancer(options=replace(ALONE, panic_threshold=0.0))
    with pytest.raises(NoEndpointError, match=f"^the target has no endpoints{why}$"):
        subject.select(nothing)


def test_excluded_endpoint_is_avoided() -> None:
    subject = LoadBalancer("random", rng=Random(1))
    subject.select(GIVEN)
    assert {subject.select(GIVEN, exclude=[GIVEN[0]]) for _ in range(50)} == set(GIVEN[1:])


def test_request_counts_and_times_the_call() -> None:
    clock = Clock()
    subject = LoadBalancer("response_time", clock=clock)
    chosen = subject.select(GIVEN)
    with subject.request(chosen) as request:
        assert request.endpoint is chosen
        assert of(subject, chosen).in_flight == 1
        clock.now += 0.25
    told = of(subject, chosen)
    assert (told.calls, told.failures, told.in_flight, told.latency_s) == (1, 0, 0, 0.25)


def test_request_may_be_marked_failed() -> None:
    subject = LoadBalancer()
    chosen = subject.select(GIVEN)
    with subject.request(chosen) as request:
        request.mark_failed()
    assert (of(subject, chosen).calls, of(subject, chosen).failures) == (1, 1)


def test_exception_is_a_failure_and_goes_on() -> None:
    subject = LoadBalancer()
    chosen = subject.select(GIVEN)
    with pytest.raises(OSError, match="reset"), subject.request(chosen):
        raise OSError("reset")
    assert of(subject, chosen).failures == 1


async def test_request_in_asyncio() -> None:
    subject = LoadBalancer()
    chosen = subject.select(GIVEN)
    async with subject.request(chosen) as request:
        request.mark_failed()
    assert (of(subject, chosen).calls, of(subject, chosen).failures) == (1, 1)


async def test_cancelled_request_says_nothing_about_the_endpoint() -> None:
    subject = LoadBalancer()
    chosen = subject.select(GIVEN)
    with pytest.raises(asyncio.CancelledError):
        async with subject.request(chosen):
            raise asyncio.CancelledError
    told = of(subject, chosen)
    assert (told.calls, told.failures, told.in_flight) == (0, 0, 0)


def test_request_to_an_endpoint_that_has_left_meanwhile() -> None:
    subject = LoadBalancer()
    chosen = subject.select(GIVEN[:1])
    subject.select(GIVEN[1:])
    with subject.request(chosen) as request:
        assert request.endpoint is chosen
        assert of(subject, chosen).in_flight == 1
    assert of(subject, chosen).in_flight == 0
    assert {told.address for told in subject.stats().nodes} == {"a:1", "b:1", "c:1"}


def test_request_before_the_first_select_counts() -> None:
    subject = LoadBalancer("least_connections?choices=full")
    with subject.request(GIVEN[0]):
        assert of(subject, GIVEN[0]).in_flight == 1
        assert {subject.select(GIVEN[:2]) for _ in range(20)} == {GIVEN[1]}
    assert {subject.select(GIVEN[:2]) for _ in range(50)} == set(GIVEN[:2])


@pytest.mark.parametrize("between", [GIVEN[1:], GIVEN[2:], ()])
def test_calls_in_flight_outlive_a_select_without_their_endpoint(between: tuple[Endpoint, ...]) -> None:
    subject = LoadBalancer("least_connections?choices=full")
    subject.select(GIVEN[:2])
    with subject.request(GIVEN[0]):
        with contextlib.suppress(NoEndpointError):
            subject.select(between)
        assert {subject.select(GIVEN[:2]) for _ in range(20)} == {GIVEN[1]}
    assert of(subject, GIVEN[0]).in_flight == 0
    assert {subject.select(GIVEN[:2]) for _ in range(50)} == set(GIVEN[:2])


@pytest.mark.parametrize("kind", [tuple, list])
def test_two_services_in_turn(kind: type) -> None:
    subject, one, other = LoadBalancer("round_robin"), kind("ab"), kind("cd")
    chosen = Counter(subject.select(given) for _ in range(50) for given in (one, other))
    assert chosen == {"a": 50 // 2, "b": 50 // 2, "c": 50 // 2, "d": 50 // 2}


def test_set_that_changes_to_and_fro_starves_nobody() -> None:
    subject, all_three = LoadBalancer("round_robin"), ["a", "b", "c"]
    chosen = Counter(subject.select(all_three[:2] if turn % 2 else all_three) for turn in range(60))
    assert 9 <= chosen["c"] <= 11
    assert abs(chosen["a"] - chosen["b"]) <= 3


def test_call_counts_in_every_set_its_endpoint_is_in() -> None:
    subject = LoadBalancer("least_connections?choices=full")
    sets = [(GIVEN[0], GIVEN[1]), (GIVEN[0], GIVEN[2]), (GIVEN[0], GIVEN[1])]
    for given in sets:
        subject.select(given)
    with subject.request(GIVEN[0]):
        assert [{subject.select(given) for _ in range(9)} for given in sets] == [{GIVEN[1]}, {GIVEN[2]}, {GIVEN[1]}]


def ejecting(clock: Clock) -> LoadBalancer:
    """Its first endpoint has just failed too often."""
    options = replace(ALONE, outlier=OutlierOptions(consecutive_failures=3))
    subject = LoadBalancer("round_robin", options=options, clock=clock)
    subject.select(GIVEN)
    for _ in range(3):
        with subject.request(GIVEN[0]) as request:
            request.mark_failed()
    assert subject.select(GIVEN) is not GIVEN[0]
    return subject


def test_set_that_comes_back_has_its_failing_endpoint_ejected() -> None:
    subject = ejecting(Clock())
    for _ in range(4):
        assert subject.select(GIVEN[:2]) is GIVEN[1]
        assert subject.select(GIVEN) is not GIVEN[0]


def test_set_that_grows_goes_on_with_its_ejections() -> None:
    clock = Clock()
    subject = ejecting(clock)
    clock.now += 1.0
    assert GIVEN[0] not in {subject.select((*GIVEN, Endpoint("d:1"))) for _ in range(9)}
    assert of(subject, GIVEN[0]).ejected_since == 100.0


def test_what_is_remembered_is_bounded() -> None:
    subject = LoadBalancer("round_robin")
    kept = subject.request("busy:1").__enter__()
    for number in range(3_000):
        with subject.request(f"stranger:{number}"):
            pass
        subject.select((f"a:{number}", f"b:{number}"))
    assert len(list(subject._accounts)) < 1_200
    assert len(subject.stats().nodes) == 2 * 16 + 1
    assert of(subject, Endpoint("busy:1")).in_flight == 1
    kept.__exit__(None, None, None)
    assert len(subject.stats().nodes) == 2 * 16


def test_bound_on_load_is_of_each_set_alone() -> None:
    """Calls of another service leave no more room than there is."""
    subject = LoadBalancer("consistent_hash?load_factor=1")
    for _ in range(20):
        subject.request(subject.select(("x", "y"), key="k")).__enter__()
    chosen: Counter[str] = Counter()
    for _ in range(20):
        endpoint = subject.select(("a", "b"), key="k")
        subject.request(endpoint).__enter__()
        chosen[endpoint] += 1
    assert chosen == {"a": 10, "b": 10}


def test_least_connections_goes_by_requests_under_way() -> None:
    subject = LoadBalancer("least_connections?choices=full")
    for endpoint in GIVEN[1:]:
        subject.select(GIVEN)
        subject.request(endpoint).__enter__()
    assert {subject.select(GIVEN) for _ in range(10)} == {GIVEN[0]}


def test_ejected_endpoint_is_avoided_at_once_and_comes_back() -> None:
    clock = Clock()
    options = replace(ALONE, outlier=OutlierOptions(consecutive_failures=3, base_ejection_s=30.0))
    subject = LoadBalancer("round_robin", options=options, clock=clock)
    subject.select(GIVEN)
    for _ in range(3):
        with subject.request(GIVEN[0]) as request:
            request.mark_failed()
    assert {subject.select(GIVEN) for _ in range(10)} == set(GIVEN[1:])
    assert of(subject, GIVEN[0]).ejected_since == 100.0
    clock.now += 30.0
    assert {subject.select(GIVEN) for _ in range(10)} == set(GIVEN)


def test_stats_tell_the_policy_and_why() -> None:
    subject = LoadBalancer()
    assert subject.stats().nodes == ()
    assert subject.stats().last_pick == ""
    subject.select(GIVEN)
    told = subject.stats()
    assert told.policy == "weighted_round_robin"
    assert [(node.address, node.weight) for node in told.nodes] == [("a:1", 1.0), ("b:1", 1.0), ("c:1", 3.0)]
    assert told.last_pick == "c:1: weight 3, next in turn of 1 of that weight"


def test_why_outlives_the_next_change() -> None:
    subject = LoadBalancer()
    subject.select(GIVEN)
    told = subject.stats().last_pick
    with pytest.raises(NoEndpointError):
        subject.select(())
    assert subject.stats().last_pick == told


def test_one_balancer_for_many_threads() -> None:
    """Sets that differ from thread to thread, all the time: no exception, no foreign endpoint, no lost count."""
    subject = LoadBalancer("least_connections")

    def work(number: int) -> int:
        mine = tuple(Endpoint(f"{letter}:1") for letter in "abcdef"[number % 3 :])
        for _ in range(300):
            chosen = subject.select(mine)
            with subject.request(chosen):
                pass
        return 300

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(work, range(8))) == 2_400
    assert all(told.in_flight == 0 for told in subject.stats().nodes)


def test_options_of_a_pool_apply() -> None:
    subject = LoadBalancer("round_robin", options=PoolOptions(subset_size=1))
    assert len({subject.select(GIVEN) for _ in range(10)}) == 1


def of(subject: LoadBalancer, endpoint: Endpoint):  # type: ignore[no-untyped-def]
    return next(told for told in subject.stats().nodes if told.address == endpoint.address)
