"""The checker finds every kind of mistake in a history that has it, and none in one that has none."""

from collections.abc import Callable

import pytest

from tests.faults.checker import CHECKS, mistakes
from tests.faults.history import (
    End,
    Fact,
    History,
    Left,
    Registered,
    Renewed,
    Seen,
    Step,
    Tried,
    Written,
)

TTL_S = 6.0


def step(at: float, revision: int, **fields: object) -> Step:
    values: dict[str, object] = {
        "watcher": "w", "stream": 1, "replica": "a", "epoch": "e", "reset": False,
        "is_sound": True, "removed": frozenset(), "upserts": {},
    }  # fmt: skip
    return Step(at=at, revision=revision, **{**values, **fields})  # type: ignore[arg-type]


def registered(sent: float, owner: str, generation: int) -> Registered:
    return Registered(sent, sent + 0.1, "seat", owner, f"lease-{owner}", generation, generation)


def renewed(sent: float, state: str) -> Renewed:
    return Renewed(sent, sent + 0.01, "a", "game", "lease", state, TTL_S)


def end(replica: str, counter: int = 2, **fields: object) -> End:
    values: dict[str, object] = {
        "epoch": "e",
        "checksum": 7,
        "instances": {"game": (1, 1, 0), "score": (9, 2, counter)},
    }
    return End(replica=replica, **{**values, **fields})  # type: ignore[arg-type]


SOUND: tuple[Fact, ...] = (
    registered(0.0, "ann", 5),
    registered(1.0, "bob", 8),
    renewed(2.0, "RENEWED"),
    Tried(2.0, "score", 1),
    Written(2.0, 2.1, "score", 1, 8),
    step(2.1, 8, upserts={"score": 1}),
    Tried(2.2, "score", 2),
    Written(2.2, 2.3, "score", 2, 9),
    step(2.3, 9, upserts={"score": 2}),
    Seen(2.4, "library", frozenset({"game"}), frozenset()),
    end("a"),
    end("b"),
)


def history(*more: Fact, sound: tuple[Fact, ...] = SOUND) -> History:
    recorded = History(frozenset({"game"}))
    for fact in (*sound, *more):
        recorded.add(fact)
    return recorded


def without_ends() -> tuple[Fact, ...]:
    return tuple(fact for fact in SOUND if not isinstance(fact, End))


def test_nothing_is_wrong_with_a_sound_history() -> None:
    assert mistakes(history()) == []


@pytest.mark.parametrize(
    ("check", "make"),
    [
        ("ordered", lambda: history(step(3.0, 7))),
        ("sound", lambda: history(step(3.0, 10, is_sound=False))),
        ("counters_grow", lambda: history(step(3.0, 10, upserts={"score": 1}))),
        ("no_write_lost", lambda: history(end("a", counter=1), end("b", counter=1), sound=without_ends())),
        ("no_write_lost", lambda: history(end("a", instances={"game": (1, 1, 0)}), sound=without_ends())),
        ("no_promise_broken", lambda: history(step(2.0 + TTL_S - 0.1, 10, removed=frozenset({"game"})))),
        ("no_promise_broken", lambda: history(renewed(20.0, "HELD"), step(21.9, 10, removed=frozenset({"game"})))),
        ("no_living_removed", lambda: history(step(30.0, 10, removed=frozenset({"game"})))),
        ("no_living_removed", lambda: history(Seen(30.0, "library", frozenset(), frozenset({"game"})))),
        ("tokens_grow", lambda: history(registered(3.0, "cid", 7))),
        ("tokens_grow", lambda: history(registered(0.95, "cid", 8))),
        ("same_at_the_end", lambda: history(end("c", checksum=8))),
        ("same_at_the_end", lambda: history(sound=without_ends())),
        ("same_at_the_end", lambda: history(end("a", instances={"score": (9, 2, 2)}), sound=without_ends())),
    ],
)
def test_every_mistake_is_found(check: str, make: Callable[[], History]) -> None:
    found = {text.partition(":")[0] for text in mistakes(make())}
    assert check in found, found


def test_every_check_is_tried_here() -> None:
    marks = [mark for mark in test_every_mistake_is_found.pytestmark if mark.name == "parametrize"]  # type: ignore[attr-defined]
    assert {check for check, _ in marks[0].args[1]} == {check.__name__ for check in CHECKS}


def test_what_is_not_a_mistake_is_not_found() -> None:
    """Removed after the promise was over, after the owner left, at a write that was never answered, at a resumption."""
    recorded = History(frozenset())
    for fact in (
        renewed(0.0, "RENEWED"),
        step(TTL_S + 0.1, 3, removed=frozenset({"game"})),
        renewed(10.0, "RENEWED"),
        Left(11.0, "game"),
        step(11.5, 4, removed=frozenset({"game"})),
        renewed(20.0, "HELD"),
        step(22.1, 5, removed=frozenset({"game"}), stream=2),
        Written(30.0, 30.1, "score", 4, 6),
        Tried(30.0, "score", 3),
        step(31.0, 2, stream=3, epoch="another"),
        end("a", counter=3),
    ):
        recorded.add(fact)
    assert mistakes(recorded) == []
