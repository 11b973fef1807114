"""SHELL: runs one resolver and one pool in an event loop, for either kind of channel.

The driver is the pool's one owner. What the pool decides is carried out by a `Connections`: the asyncio channel and the
channel for threads each bring their own. All methods belong to the loop the driver was started in.
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import Protocol

from balancer.endpoints import Absent, Failed, Resolution, Resolved
from balancer.policies.base import ConnectivityState, Node, Policy
from balancer.pool.outlier import OutlierOptions
from balancer.pool.picker import Picker
from balancer.pool.pool import Moves, Pool
from balancer.pulse import Pulse
from balancer.resolvers import Resolver

log = logging.getLogger(__name__)

NO_CONNECTION = "connection failed"
"""All that grpcio tells of why."""

_RESTART_BASE_S = 1.0
_RESTART_CAP_S = 60.0
_WORSE = (ConnectivityState.IDLE, ConnectivityState.TRANSIENT_FAILURE)


class Connections(Protocol):
    """The half that acts: what a channel does for its driver. Nothing here blocks, raises, or calls back at once."""

    def open_node(self, node: Node) -> None:
        """Connect, if it is not: `node.connection` is this half's own. What becomes of it goes to `Driver.report`."""

    def close_node(self, node: Node) -> None:
        """Let the node's calls end, then close its connection."""

    def install(self, picker: Picker, state: ConnectivityState) -> None:
        """The picker or the channel's state is another one: calls that wait try again."""

    def configured(self, resolution: Resolved) -> None:
        """A set of endpoints came; its service config may be another one."""


class Driver:
    """Feeds the pool with what happens and carries out what it decides."""

    def __init__(
        self,
        resolver: Resolver,
        pool: Pool,
        connections: Connections,
        loop: asyncio.AbstractEventLoop,
        pulse: Pulse,
    ) -> None:
        self.pool = pool
        self._loop = loop
        self._resolver = resolver
        self._connections = connections
        self._pulse = pulse
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._state = pool.state
        self._unconfirmed_since: float | None = time.monotonic()
        self.trouble = ""
        """Why the endpoints could not be confirmed last; empty when they were."""

    def start(self) -> None:
        """Begins to resolve. Once."""
        self._task = self._loop.create_task(self._resolve(), name="balancer-resolver")

    def stop(self) -> set[asyncio.Task[None]]:
        """Ends the resolver; the pool hears of nothing more. Gives the task to wait for. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        task, self._task = self._task, None
        if task is None:
            return set()
        task.cancel()
        return {task}

    def age_s(self, now: float) -> float:
        """For how many seconds nobody has confirmed that the endpoints are those that there are; 0 while somebody
        does."""
        since = self._unconfirmed_since
        return 0.0 if since is None else max(0.0, now - since)

    def connect(self, nodes: Iterable[Node]) -> None:
        """A pick needs one of these nodes."""
        for node in nodes:
            self._connections.open_node(node)

    def choose_by(self, policy: Policy) -> None:
        """Another policy picks from now on."""
        if self._task is not None:
            self._carry_out(self.pool.choose_by(policy, time.monotonic()))

    def go_by(self, outlier: OutlierOptions | None, most_calls: int | None) -> None:
        """What calls may do to a node, and how many there may be, from now on."""
        if self._task is not None:
            self._carry_out(self.pool.go_by(outlier, most_calls, time.monotonic()))

    def report(self, node: Node, state: ConnectivityState, error: str = "") -> None:
        """A node's connection changed."""
        if self._task is None:
            return
        changed = node.state is not state
        worse = state in _WORSE and node.state not in _WORSE
        self._carry_out(self.pool.on_state(node, state, time.monotonic(), error), wake=changed)
        if worse:
            self._resolver.resolve_now()

    def report_health(self, node: Node, *, serving: bool) -> None:
        """A node's own health service spoke."""
        if self._task is not None:
            self._carry_out(self.pool.on_health(node, serving, time.monotonic()))

    def report_weight(self, node: Node, weight: float | None) -> None:
        """A node reported what it can take."""
        if self._task is not None:
            self._carry_out(self.pool.set_weight(node, weight, time.monotonic()))

    def tick(self) -> None:
        """Lets the pool look at its loads now."""
        if self._task is not None:
            self._carry_out(self.pool.tick(time.monotonic()))

    async def _resolve(self) -> None:
        failures = 0
        while True:
            try:
                await self._resolver.run(self._push)
            except Exception as error:
                log.exception("the resolver failed; it is run again")
                self._push(Failed(f"resolver failed: {error}"))
            else:
                return
            await asyncio.sleep(min(_RESTART_CAP_S, _RESTART_BASE_S * 2.0 ** min(failures, 10)))
            failures += 1

    def _push(self, resolution: Resolution) -> None:
        now = time.monotonic()
        self.trouble = resolution.error if isinstance(resolution, Failed) else ""
        match resolution:
            case Resolved(stale_for_s=stale_s):
                self._unconfirmed_since = None if stale_s is None else now - stale_s
                self._connections.configured(resolution)
            case Absent():
                self._unconfirmed_since = None
            case Failed():
                self._unconfirmed_since = now if self._unconfirmed_since is None else self._unconfirmed_since
        self._carry_out(self.pool.apply(resolution, now))

    def _carry_out(self, moves: Moves, *, wake: bool = False) -> None:
        for node in moves.close:
            self._connections.close_node(node)
        for node in moves.open:
            self._connections.open_node(node)
        # A lazily connected node that becomes ready changes no picker, and yet calls wait for it.
        if moves.swapped or wake or self.pool.state is not self._state:
            self._state = self.pool.state
            self._connections.install(self.pool.picker, self._state)
        self._schedule()

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = time.monotonic()
        when = self.pool.next_tick(now)
        if when is not None:
            due = max(now, when)
            self._timer = self._loop.call_later(due - now, self._ring, due)

    def _ring(self, due: float) -> None:
        self._pulse.rang(due, time.monotonic())
        self.tick()
