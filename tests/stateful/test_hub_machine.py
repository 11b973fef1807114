"""The hub beside "send everything to everybody": whoever is free in the end has seen exactly what there is."""

import json

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from registry_server.changes import Change
from registry_server.hub import BOOKMARK_INTERVAL_S, STALL_S, Chunks, Reader
from registry_server.records import Key
from tests.support.core import Sink, Timeline

SERVICES = st.sampled_from(["a", "b"])
QUESTIONS = st.sampled_from(["a", "b", "all"])
LAZINESS = st.sampled_from([0, 0, 1, 3])
State = dict[str, int]


class Truth:
    """All states there ever were, by their number."""

    def __init__(self) -> None:
        self.states: list[State] = [{}]

    @property
    def version(self) -> int:
        return len(self.states) - 1

    def change(self, name: str, value: int | None) -> None:
        state = dict(self.states[-1])
        if value is None:
            state.pop(name, None)
        else:
            state[name] = value
        self.states.append(state)

    def at(self, version: int, question: str) -> State:
        return {name: it for name, it in self.states[version].items() if question in ("all", name[0])}


class NaiveStep:
    """Some messages, and at some places a moment's work before there is one."""

    def __init__(self, version: int, messages: list[bytes], delay: int) -> None:
        self.version = version
        self.messages = messages
        self.delay = delay

    def part(self, place: int) -> tuple[Chunks | None, int | None]:
        if self.delay:
            self.delay -= 1
            return None, place
        return (self.messages[place],), place + 1 if place + 1 < len(self.messages) else None


class NaiveTopic:
    """A topic that looks at all states there ever were. It needs `laziness` looks to take in what changed."""

    def __init__(self, truth: Truth, question: str, laziness: int) -> None:
        self.truth = truth
        self.question = question
        self.interests = (("default",) if question == "all" else ("default", question),)
        self.version = truth.version
        self.seen = truth.version
        self.laziness = self.left = laziness
        self.expected: list[int] = []

    def advance(self) -> bool:
        if self.seen != self.truth.version:
            if self.left:
                self.left -= 1
                return False
            self.left, self.seen = self.laziness, self.truth.version
        if self.truth.at(self.version, self.question) != self.truth.at(self.truth.version, self.question):
            self.version = self.truth.version
        return True

    def expect(self, claim: int) -> None:
        self.expected.append(claim)

    def known(self, claim: int) -> int:
        assert claim in self.expected
        self.check()
        return claim

    def step(self, since: int | None) -> NaiveStep | None:
        self.check()
        now = self.truth.at(self.version, self.question)
        before = {} if since is None else self.truth.at(since, self.question)
        changed = {name: value for name, value in now.items() if before.get(name) != value}
        gone = sorted(before.keys() - now.keys())
        if since is not None and not changed and not gone:
            return None
        # Two messages, as a large step has: a reader takes all of them before it is free.
        messages: list[dict[str, object]] = [
            {"reset": since is None, "changed": changed},
            {"gone": gone, "version": self.version},
        ]
        return NaiveStep(self.version, [json.dumps(it).encode() for it in messages], self.laziness)

    def bookmark(self) -> bytes:
        self.check()
        return json.dumps({"bookmark": True}).encode()

    def check(self) -> None:
        assert self.seen == self.truth.version, "asked before everything is taken in"


class Client:
    """A reader, and what it makes of what it is sent."""

    def __init__(self, question: str) -> None:
        self.question = question
        self.sink = Sink()
        self.reader: Reader
        self.state: State = {}
        self.version = -1
        self.is_gone = False
        self.is_told = False

    def take(self) -> None:
        for part in self.sink.take():
            self.is_told = True
            self.fold(json.loads(part))

    def fold(self, step: dict[str, object]) -> None:
        if step.get("reset"):
            self.state = {}
        changed, gone = step.get("changed", {}), step.get("gone", [])
        assert isinstance(changed, dict)
        assert isinstance(gone, list)
        for name, value in changed.items():
            assert self.state.get(name) != value, "told twice"
            self.state[name] = value
        for name in gone:
            del self.state[name]
        if isinstance(version := step.get("version"), int):
            assert version > self.version, "versions come in order, each once"
            self.version = version


class HubMachine(RuleBasedStateMachine):
    """Readers join, leave, are quick, are slow, die; services change; time passes."""

    clients = Bundle("clients")

    def __init__(self) -> None:
        super().__init__()
        self.truth = Truth()
        self.timeline = Timeline()
        self.hub = self.timeline.hub
        self.topics: dict[str, NaiveTopic] = {}
        self.present: list[Client] = []

    # ---- readers

    @rule(target=clients, question=QUESTIONS, laziness=LAZINESS)
    def join(self, question: str, laziness: int) -> Client:
        return self.joined(question, laziness, None)

    @rule(target=clients, question=QUESTIONS, laziness=LAZINESS, back=st.integers(0, 5))
    def resume(self, question: str, laziness: int, back: int) -> Client:
        """Come back with what was known some versions ago."""
        return self.joined(question, laziness, max(0, self.truth.version - back))

    def joined(self, question: str, laziness: int, known: int | None) -> Client:
        client = Client(question)
        if known is not None:
            client.state = self.truth.at(known, question)

        def make() -> NaiveTopic:
            self.topics[question] = NaiveTopic(self.truth, question, laziness)
            return self.topics[question]

        client.reader = self.hub.join(question, make, client.sink, known)
        assert self.timeline.alarm is not None
        assert self.timeline.alarm <= self.timeline.now, "who comes is told at once"
        self.present.append(client)
        return client

    @rule(client=consumes(clients))
    def leave(self, client: Client) -> None:
        client.reader.leave()
        client.is_gone = True
        self.present.remove(client)

    @rule(client=clients)
    def write(self, client: Client) -> None:
        """One reader has written what it was sent."""
        self.written(client)

    @rule()
    def all_write(self) -> None:
        for client in self.present:
            self.written(client)

    def written(self, client: Client) -> None:
        if client.sink.is_writing:
            client.sink.is_writing = False
            client.take()
            client.reader.free()

    # ---- changes and time

    @rule(service=SERVICES, number=st.integers(0, 2), value=st.none() | st.integers(0, 1))
    def change(self, service: str, number: int, value: int | None) -> None:
        """Some of these change nothing."""
        self.truth.change(f"{service}{number}", value)
        version = self.truth.version
        self.hub.changed([Change(version, version, Key("default", service, f"{number}"), None, None)])

    @rule()
    def reset(self) -> None:
        self.hub.refresh_all()

    @rule(by=st.sampled_from([0.0, STALL_S / 100, STALL_S / 2, STALL_S, 3 * STALL_S, 10.0]))
    def time_passes(self, by: float) -> None:
        self.timeline.advance(by)

    @rule()
    def one_slice(self) -> None:
        """A run that has time for one piece of work alone."""
        self.hub._work(self.timeline.now - 1.0)
        self.hub._end_round_if_over()
        self.hub._arm()

    @rule(idle=st.sampled_from([0.0, 0.0, BOOKMARK_INTERVAL_S + 0.1, 100.0]))
    def bookmark(self, idle: float) -> None:
        self.timeline.advance(idle)
        self.hub.bookmark()

    # ---- what must hold

    @rule()
    def everybody_catches_up(self) -> None:
        """Once all have written all, all know what there is; and the hub asks for no more calls."""
        for _ in range(1000):
            for client in self.present:
                self.written(client)
            if self.timeline.alarm is None and not any(client.sink.is_writing for client in self.present):
                break
            self.timeline.settle()
        else:
            raise AssertionError("the hub never rests")
        for client in self.present:
            assert client.is_told
            assert client.state == self.truth.at(self.truth.version, client.question)

    @rule(data=st.data())
    def some_are_stuck_and_the_others_know_within_a_moment(self, data: st.DataObject) -> None:
        writing = [client for client in self.present if client.sink.is_writing]
        stuck = data.draw(st.lists(st.sampled_from(writing), max_size=2, unique=True)) if writing else []
        quick = [client for client in self.present if client not in stuck]
        self.truth.change("a0", self.truth.version + 1000)
        version = self.truth.version
        self.hub.changed([Change(version, version, Key("default", "a", "0"), None, None)])
        for _ in range(200):
            for client in quick:
                self.written(client)
            self.timeline.advance(STALL_S / 20)
        for client in quick:
            self.written(client)
            assert client.state == self.truth.at(self.truth.version, client.question)

    @rule()
    def nobody_idle_goes_without_a_bookmark(self) -> None:
        self.everybody_catches_up()
        self.timeline.advance(BOOKMARK_INTERVAL_S + 0.01)
        self.hub.bookmark()
        self.timeline.settle()
        assert all(client.sink.is_writing for client in self.present)

    @invariant()
    def counts_what_is_there(self) -> None:
        statistics = self.hub.statistics()
        assert statistics.readers == len(self.present)
        assert statistics.topics == len({client.question for client in self.present})
        in_the_middle = [it for it in self.present if it.sink.is_writing or it.reader.step is not None]
        assert 0 <= self.hub._outstanding <= len(in_the_middle)

    @invariant()
    def asks_for_a_run_while_there_is_something_to_do(self) -> None:
        assert not (self.hub._has_work() or self.hub._dirty) or self.timeline.alarm is not None

    @invariant()
    def nobody_is_told_after_leaving(self) -> None:
        assert all(not client.is_gone for client in self.present)

    @invariant()
    def a_reader_is_in_one_place(self) -> None:
        """In one group, or due its first message, or the next one of a step, or one of this round, or it writes."""
        hub = self.hub
        grouped = [
            reader for subject in hub._subjects.values() for group in subject.groups.values() for reader in group
        ]
        assert all(reader.is_free for reader in grouped)
        queued = [*hub._coming, *hub._going_on, *(reader for batch in hub._batches for reader in batch.readers)]
        living = [reader for reader in queued if reader in hub._readers]
        writing = [client.reader for client in self.present if client.sink.is_writing]
        places = [id(reader) for reader in (*grouped, *living, *writing)]
        assert sorted(places) == sorted(id(client.reader) for client in self.present)

    def teardown(self) -> None:
        self.everybody_catches_up()
        for client in list(self.present):
            self.leave(client)
        assert self.hub._subjects == {}
        assert self.hub._dirty == {}
        assert not self.hub._has_work()
        assert self.hub._interested == {}


class TestHub(HubMachine.TestCase):  # type: ignore[misc,valid-type]
    settings = settings(
        max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
    )
