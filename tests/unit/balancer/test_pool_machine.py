"""The pool beside a naive model that works everything out anew after each step."""

from dataclasses import replace
from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from balancer.endpoints import Absent, Endpoint, Failed, Resolved
from balancer.policies import policy
from balancer.policies.base import ANY, ConnectivityState, Node, PickInfo
from balancer.pool.options import PoolOptions
from balancer.pool.picker import Fail, Open, Wait
from balancer.pool.pool import Moves, Pool

IDLE, CONNECTING, READY, FAILURE, SHUTDOWN = ConnectivityState
ENDPOINTS = st.lists(
    st.builds(
        Endpoint,
        address=st.integers(0, 7).map(lambda n: f"h{n}:1"),
        id=st.sampled_from(["", "x"]),
        weight=st.integers(0, 3),
        routable=st.sampled_from([True, True, False]),
    ),
    max_size=8,
    unique_by=lambda endpoint: (endpoint.address, endpoint.id),
)


class PoolMachine(RuleBasedStateMachine):
    """The model knows, by address and id: the endpoint, the state of its connection, whether its last attempt failed,
    whether it serves. What follows from that is worked out from the definitions in `invariant`s."""

    name = "round_robin"
    threshold = 0.5

    @initialize(seed=st.integers(0, 99))
    def start(self, seed: int) -> None:
        options = PoolOptions(panic_threshold=self.threshold, idle_timeout_s=None)
        self.pool = Pool(policy(self.name), options=options, rng=Random(seed), now=0.0)
        self.now = 0.0
        self.picker = self.pool.picker
        self.known: dict[tuple[str, str], Endpoint] = {}
        self.states: dict[tuple[str, str], ConnectivityState] = {}
        self.failed: set[tuple[str, str]] = set()
        self.ill: set[tuple[str, str]] = set()
        self.open: set[Node] = set()
        self.lack: Wait | Fail = Wait()

    def follow(self, plan: Moves) -> None:
        assert not set(plan.open) & set(plan.close)
        before = self.picker
        self.picker = self.pool.picker
        assert plan.swapped == (before is not self.picker)
        self.open |= set(plan.open)
        self.open -= set(plan.close)

    # What happens

    @rule(endpoints=ENDPOINTS)
    def resolve(self, endpoints: list[Endpoint]) -> None:
        self.lack = Fail("the target has no endpoints")
        self.take(tuple(endpoints), Resolved(tuple(endpoints)))

    @rule()
    def resolve_again(self) -> None:
        """Equal endpoints in new objects, in another order."""
        if isinstance(self.lack, Fail) and self.lack.reason == "the target has no endpoints":
            same = tuple(replace(endpoint) for endpoint in reversed(self.known.values()))
            assert self.pool.apply(Resolved(same), self.now) == Moves()

    @rule()
    def vanish(self) -> None:
        self.lack = Fail("no such service")
        self.take((), Absent("no such service"))

    @rule()
    def fail(self) -> None:
        if isinstance(self.lack, Wait):
            self.lack = Fail("no answer")
        self.follow(self.pool.apply(Failed("no answer"), self.now))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), state=st.sampled_from([IDLE, CONNECTING, READY, FAILURE]))
    def connection(self, data: st.DataObject, state: ConnectivityState) -> None:
        node = data.draw(st.sampled_from(sorted(self.open, key=lambda node: (node.endpoint.address, node.endpoint.id))))
        key = (node.endpoint.address, node.endpoint.id)
        if self.states[key] is READY and state is not READY and state is not IDLE:
            self.ill.discard(key)
        self.states[key] = state
        if state is FAILURE:
            self.failed.add(key)
        elif state is READY:
            self.failed.discard(key)
        self.follow(self.pool.on_state(node, state, self.now, "refused"))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), serving=st.booleans())
    def health(self, data: st.DataObject, serving: bool) -> None:
        node = data.draw(st.sampled_from(sorted(self.open, key=lambda node: (node.endpoint.address, node.endpoint.id))))
        key = (node.endpoint.address, node.endpoint.id)
        (self.ill.discard if serving else self.ill.add)(key)
        self.follow(self.pool.on_health(node, serving, self.now))

    @rule(step=st.floats(0, 100))
    def time(self, step: float) -> None:
        self.now += step
        self.follow(self.pool.tick(self.now))

    def take(self, endpoints: tuple[Endpoint, ...], resolution: Resolved | Absent) -> None:
        before = self.members()
        self.known = {(endpoint.address, endpoint.id): endpoint for endpoint in endpoints}
        for key in before - self.members() | (before - self.known.keys()):
            self.failed.discard(key)
            self.ill.discard(key)
            self.states.pop(key, None)
        for key in self.members() - before:
            self.states[key] = IDLE
        self.follow(self.pool.apply(resolution, self.now))

    # What must hold

    def members(self) -> set[tuple[str, str]]:
        weighty = {key: endpoint for key, endpoint in self.known.items() if endpoint.weight}
        routable = {key for key, endpoint in weighty.items() if endpoint.routable}
        return routable or (set(weighty) if self.threshold else set())

    def usable(self) -> set[tuple[str, str]]:
        reachable = {key for key in self.members() if self.states[key] is READY}
        well = reachable - self.ill
        unwell = (reachable & self.ill) | (self.members() & self.failed)
        hopeful = self.members() - unwell
        return reachable if len(hopeful) < self.threshold * len(self.members()) else well

    @invariant()
    def members_are_connected(self) -> None:
        if not hasattr(self, "pool"):
            return
        assert {(node.endpoint.address, node.endpoint.id) for node in self.open} == self.members()
        assert {(node.endpoint.address, node.endpoint.id) for node in self.pool.members} == self.members()

    @invariant()
    def picks_are_right(self) -> None:
        if not hasattr(self, "pool"):
            return
        usable = self.usable()
        answers = [self.picker.pick(ANY, self.now) for _ in range(2 * len(usable) + 1)]
        picked = {(a.endpoint.address, a.endpoint.id) for a in answers if isinstance(a, Node)}
        if usable:
            assert all(isinstance(answer, Node) for answer in answers)
            assert picked <= usable
            if self.name == "round_robin":
                assert picked == usable
        else:
            assert [type(answer) for answer in answers] == [self.answer()]

    def answer(self) -> type:
        if not self.members():
            return type(self.lack)
        hopeful = self.members() - self.failed - {key for key in self.members() if self.states[key] is READY}
        return Wait if hopeful else Fail

    @invariant()
    def excluded_nodes_are_avoided(self) -> None:
        if not hasattr(self, "pool") or len(self.usable()) < 2:
            return
        first = self.picker.pick(ANY, self.now)
        assert isinstance(first, Node)
        assert self.picker.pick(PickInfo(exclude=(first,)), self.now) is not first

    @invariant()
    def state_is_that_of_the_best(self) -> None:
        if not hasattr(self, "pool"):
            return
        if self.usable():
            assert self.pool.state is READY
            return
        if not self.members():
            assert self.pool.state is (CONNECTING if isinstance(self.lack, Wait) else FAILURE)
            return
        hopeful = {self.states[key] for key in self.members() - self.failed} - {READY}
        assert self.pool.state is next((state for state in (CONNECTING, IDLE) if state in hopeful), FAILURE)

    @invariant()
    def nothing_asks_for_a_connection_it_has(self) -> None:
        if hasattr(self, "pool"):
            assert not isinstance(self.picker.pick(ANY, self.now), Open)


class WeightedMachine(PoolMachine):
    name = "weighted_round_robin"


class HealthCountsMachine(PoolMachine):
    """Without panic the sick are never used."""

    threshold = 0.0
    name = "least_connections"


for machine in (PoolMachine, WeightedMachine, HealthCountsMachine):
    machine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)

TestPool = PoolMachine.TestCase
TestWeightedPool = WeightedMachine.TestCase
TestPoolWithoutPanic = HealthCountsMachine.TestCase
