"""What a pick costs, per policy and number of endpoints; what a change of one costs; and uhashring in the same run.

python -m tests.bench.bench_policies [--json FILE]
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from rich.console import Console
from uhashring import HashRing

from balancer.endpoints import Endpoint, Resolved
from balancer.policies.base import PickInfo
from tests.bench.report import Row, show
from tests.support.fleet import POLICIES, endpoints, key_of, pool_of

if TYPE_CHECKING:
    from tests.bench.stage import Stage

SECTION = "policies"
SIZES = (10, 1_000, 10_000)
PICK_LIMIT_NS = 2_000
FULL_SCAN = "least_connections?choices=full"
WEIGHTED = ("weighted_round_robin", "weighted_random", "least_connections", "response_time", "consistent_hash")
SPREAD_KEYS = 100_000


def run(stage: Stage | None = None) -> list[Row]:
    """All rows. `stage` tells how many rounds to make."""
    rounds = stage.rounds if stage is not None else 3
    rows = [pick_row(name, size, rounds) for name in POLICIES for size in SIZES]
    rows += [pick_row(name, SIZES[-1], rounds, weights=100) for name in WEIGHTED]
    rows += [update_row(name, rounds) for name in POLICIES]
    return rows + hashring_rows(rounds)


def fleet(size: int, weights: int = 1) -> tuple[Endpoint, ...]:
    """`size` endpoints whose weights go round from 1 to `weights`."""
    return tuple(replace(endpoint, weight=1 + n % weights) for n, endpoint in enumerate(endpoints(size)))


def pick_row(name: str, size: int, rounds: int, weights: int = 1) -> Row:
    pool = pool_of(name, fleet(size, weights))
    for node in pool.members:  # so that estimates have something to estimate
        node.load.started(0.0)
        node.load.finished(0.1, 0.1)
    rng = Random(1)
    infos = [PickInfo(key_of(rng)) for _ in range(20 if name == FULL_SCAN else 2_000)]
    pick = pool.picker.pick

    def once() -> None:
        for info in infos:
            pick(info, 1.0)

    cost_ns = fastest(once, rounds) / len(infos)
    limited = name != FULL_SCAN
    return Row(
        SECTION,
        name + (f", weights 1 to {weights}" if weights > 1 else ""),
        f"pick, {size:,} endpoints",
        cost_ns,
        "ns",
        target=f"≤ {PICK_LIMIT_NS:,} ns" if limited else "",
        holds=cost_ns <= PICK_LIMIT_NS if limited else None,
    )


def update_row(name: str, rounds: int) -> Row:
    """One endpoint of 10,000 gets another weight: until the new picker is there. The ratio is to making it all anew."""
    given = fleet(SIZES[-1])
    built_ns = timed(lambda: pool_of(name, given).picker)
    pool = pool_of(name, given)
    assert pool.picker
    updates = []
    for weight in range(2, 3 + 3 * rounds):
        middle = len(given) // 2
        given = (*given[:middle], replace(given[middle], weight=weight), *given[middle + 1 :])

        def update(current: tuple[Endpoint, ...] = given) -> None:
            pool.apply(Resolved(current), 1.0)
            assert pool.picker

        updates.append(timed(update))
    cost_ns = statistics.median(updates)
    return Row(SECTION, name, "update 1 of 10,000", cost_ns / 1_000, "µs", ratio=cost_ns / built_ns)


def hashring_rows(rounds: int) -> list[Row]:
    """Rings with as many points per node: what a look-up costs, and how much the busiest node gets above the mean."""
    rows = []
    rng = Random(2)
    keys = [key_of(rng) for _ in range(2_000)]
    infos = [PickInfo(key) for key in keys]
    for size in SIZES[:2]:
        theirs = HashRing(nodes=[endpoint.address for endpoint in endpoints(size)], vnodes=160)
        ours = pool_of("consistent_hash?virtual_nodes=160", endpoints(size)).picker

        def look_up(ring: HashRing = theirs) -> None:
            for key in keys:
                ring.get_node(key)

        def pick(picker: object = ours) -> None:
            for info in infos:
                picker.pick(info, 1.0)  # type: ignore[attr-defined]

        their_ns, our_ns = fastest(look_up, rounds) / len(keys), fastest(pick, rounds) / len(keys)
        what = f"ring of 160 points a node, pick, {size:,} endpoints"
        rows.append(Row(SECTION, "uhashring", what, their_ns, "ns"))
        rows.append(Row(SECTION, "consistent_hash", what, our_ns, "ns", ratio=our_ns / their_ns))
    return rows + spread_rows(SIZES[0])


def spread_rows(size: int) -> list[Row]:
    rng = Random(3)
    keys = [key_of(rng) for _ in range(SPREAD_KEYS)]
    theirs = HashRing(nodes=[endpoint.address for endpoint in endpoints(size)], vnodes=160)
    subjects: dict[str, Callable[[str], object]] = {"uhashring": theirs.get_node}
    for name in ("consistent_hash?virtual_nodes=160", "consistent_hash", "consistent_hash?table=maglev"):
        picker = pool_of(name, endpoints(size)).picker
        subjects[name] = lambda key, picker=picker: picker.pick(PickInfo(key), 0.0)  # type: ignore[misc]
    what = f"busiest of {size} endpoints to the mean, {SPREAD_KEYS:,} keys"
    return [
        Row(SECTION, name, what, busiest(Counter(map(place, keys)).values()), "times")
        for name, place in subjects.items()
    ]


def busiest(counts: Iterable[int]) -> float:
    values = list(counts)
    return max(values) * len(values) / sum(values)


def fastest(work: Callable[[], object], rounds: int) -> float:
    """Nanoseconds of the fastest of some runs: what disturbs a run only ever makes it slower."""
    work()
    return min(timed(work) for _ in range(4 + 3 * rounds))


def timed(work: Callable[[], object]) -> float:
    """Nanoseconds of this thread's CPU: nothing here waits, and other processes do not count. Without the collector,
    whose time is that of all the garbage before."""
    gc.collect()
    gc.disable()
    try:
        begin = time.thread_time_ns()
        work()
        return time.thread_time_ns() - begin
    finally:
        gc.enable()


def main() -> None:
    parser = argparse.ArgumentParser(description="What picks and updates cost.")
    parser.add_argument("--json", type=Path, help="save the rows there, too")
    o = parser.parse_args()
    rows = run()
    show(rows, Console(highlight=False, width=140))
    if o.json:
        o.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
