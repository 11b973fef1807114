"""An idle registry tells a change at once: no timer of an earlier round holds the next one up."""

import heapq
from collections.abc import Sequence

from registry_server.changes import Change
from registry_server.hub import STALL_S, Hub, Ready
from registry_server.records import Key

KEY = Key("default", "player", "one")


class Timeline:
    """A clock that stands still between the calls that were asked for."""

    def __init__(self) -> None:
        self.now = 100.0
        self.hub = Hub(lambda: self.now, lambda at: heapq.heappush(self.due, at))
        self.due: list[float] = []

    def run_until(self, end: float) -> None:
        while self.due and self.due[0] <= end:
            self.now = max(self.now, heapq.heappop(self.due))
            self.hub.run()
        self.now = end


class Counter:
    """A topic whose state is how often it changed."""

    interests = (("default", "player"),)

    def __init__(self) -> None:
        self.version = 0

    def advance(self) -> bool:
        return True

    def expect(self, claim: object) -> None:
        pass

    def known(self, claim: object) -> None:
        pass

    def step(self, since: int | None) -> Ready:
        return Ready(self.version, f"{since}->{self.version}".encode())

    def bookmark(self) -> None:
        pass


class Recorder:
    """A sink that keeps what it is given; the test says when it is free."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, chunks: Sequence[bytes]) -> None:
        self.sent.append(b"".join(chunks))


def test_next_change_does_not_wait_for_the_look_at_a_stall() -> None:
    timeline, topic, sink = Timeline(), Counter(), Recorder()
    reader = timeline.hub.join("player", lambda: topic, sink)
    timeline.run_until(timeline.now)
    reader.free()
    for number in range(1, 6):
        topic.version = number
        timeline.hub.changed([Change(number, number, KEY, None, None)])
        timeline.run_until(timeline.now + STALL_S / 50)
        assert sink.sent[-1] == f"{number - 1}->{number}".encode()
        reader.free()
        timeline.run_until(timeline.now + STALL_S / 10)


def test_stalled_round_ends_and_others_go_on() -> None:
    timeline, topic, slow, quick = Timeline(), Counter(), Recorder(), Recorder()
    readers = [timeline.hub.join("player", lambda: topic, sink) for sink in (slow, quick)]
    timeline.run_until(timeline.now)
    for reader in readers:
        reader.free()
    for number in (1, 2):
        topic.version = number
        timeline.hub.changed([Change(number, number, KEY, None, None)])
        timeline.run_until(timeline.now + 4 * STALL_S)
        readers[1].free()
    assert quick.sent[-1] == b"1->2"
    assert slow.sent[-1] == b"0->1"
