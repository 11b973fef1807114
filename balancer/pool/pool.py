"""CORE: which endpoints are to have a connection, and which of them may be picked.

A pool is told what happened (`apply`, `on_state`, `on_health`, `tick`) by one owner and answers with `Moves`; the
shell connects and closes. Picks come from an immutable `Picker`, swapped whole, from any thread.

    moves = pool.apply(Resolved((Endpoint("10.0.0.5:8001"),)), now)
    for node in moves.open: ...      # connect; report what becomes of it with pool.on_state(node, state, now)
    for node in moves.close: ...     # let its calls end, then close
    if moves.swapped: picker = pool.picker

    match picker.pick(ANY, now):
        case Node() as node: ...    # node.load.started(now); call; node.load.finished(now, rtt_s, ok)
        case Open(nodes): ...       # connect these, then wait as for Wait
        case Wait(): ...            # until the next picker
        case Fail(reason): ...      # UNAVAILABLE, or wait until the next picker when the call is wait-for-ready
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, assert_never

from balancer.endpoints import Absent, Failed, Pending, Resolved
from balancer.load import LoadBook
from balancer.policies.base import (
    Connect,
    ConnectivityState,
    Node,
    Revisable,
    connect_of,
    policy_name,
)
from balancer.pool.connecting import connecting
from balancer.pool.idling import Idling
from balancer.pool.options import PoolOptions
from balancer.pool.outlier import Detector
from balancer.pool.picker import Choosing, Fail, Limited, Open, Pick, Picker, Wait
from balancer.pool.roster import Roster
from balancer.pool.scales import Scales
from balancer.pool.seats import Seats, Standing
from balancer.pool.statistics import PoolNumbers, PoolStatistics, node_statistics
from balancer.pool.subset import Membership, Subset, none_usable
from balancer.pool.verdicts import Circle, Why, endpoint_why, verdict

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from random import Random

    from balancer.endpoints import Endpoint, Resolution
    from balancer.policies.base import Chooser, Policy
    from balancer.pool.outlier import OutlierOptions


@dataclass(frozen=True, slots=True)
class Moves:
    """What the shell is to do. `open` and `close` never name the same node."""

    open: tuple[Node, ...] = ()
    """Connect. Reconnecting after a failure is the connection's own business."""
    close: tuple[Node, ...] = ()
    """Close the connection once its calls have ended (drain). A node may be opened again later unless SHUTDOWN."""
    swapped: bool = False
    """`Pool.picker` is another one than when it was last asked for."""


class Pool:
    """The nodes of one target. All but `Picker.pick` and the loads belongs to one owner at a time.

    Raises ValueError, naming the option, for options that make no sense.
    """

    def __init__(self, policy: Policy, *, options: PoolOptions | None = None, rng: Random, now: float) -> None:
        self._policy = policy
        self._options = options = options or PoolOptions()
        self._rng = rng
        outlier = options.outlier
        self._book = LoadBook(options.load, alarm_at=outlier.consecutive_failures if outlier else None)
        self._detector = Detector(outlier, now) if outlier else None
        self._roster = Roster(self._book)
        self._connecting = connecting(policy, options, self._roster)
        self._membership = _membership(policy, options)
        self._seats = Seats(options.panic_threshold)
        self._scales = Scales(options.slow_start, self._seats, now)
        self._idling = Idling(self._book, options.idle_timeout_s, now, one_by_one=self._connecting.picks_idle)
        self._open: dict[Node, None] = {}
        self._asleep = False
        """Nothing is called, so nothing is connected."""
        self._now = now
        self._resolved = False
        self._connections_failed = 0
        self.ejections = 0
        """Up to now."""
        self._lack: Wait | Fail = Wait()
        self._last_failed: Node | None = None
        self._chooser: Chooser | None = None
        self._fixed: Pick | None = self._lack
        self._picker = self._spoken = Picker(self._lack)

    # What happened

    def apply(self, resolution: Resolution, now: float) -> Moves:
        """Takes over what the resolver says. Survivors keep their nodes; an identical set asks for nothing."""
        self._now = now
        match resolution:
            case Pending():
                return Moves()
            case Resolved(endpoints, lack=lack):
                return self._take_over(endpoints, lack, now)
            case Absent(reason):
                return self._take_over((), reason, now)
            case Failed(error):
                if not self._resolved:  # stale beats empty
                    self._lack = Fail(error)
                return self._moves()
            case _:
                assert_never(resolution)

    def choose_by(self, policy: Policy, now: float) -> Moves:
        """Another policy picks from now on. Nodes keep their loads, and the connections that the policy wants."""
        self._now = now
        self._policy, self._chooser = policy, None
        self._connecting = connecting(policy, self._options, self._roster)
        self._idling.one_by_one = self._connecting.picks_idle
        self._asleep = self._asleep and not self._connecting.picks_idle
        before = self._membership.members
        self._membership = _membership(policy, self._options)
        self._membership.update(self._roster, ())
        members = self._membership.members
        left = [node for node in before if node not in members]
        for node in left:
            self._leave(node)
        for node in members:
            self._judge(node, now)
        self._connecting.listed(tuple(members), members)
        wanted = [node for node in self._wanted_of(members) if node not in self._open]
        return replace(self._moves(wanted, left), swapped=True)

    def go_by(self, outlier: OutlierOptions | None, most_calls: int | None, now: float) -> Moves:
        """What outlier detection goes by, and how many calls there may be, from now on. Who is ejected by other rules
        than before comes back."""
        self._now = now
        limited, self._book.most = self._book.most is not None, most_calls
        if limited is not (most_calls is not None) and self._chooser is not None:
            self._put(self._choosing(self._chooser, tuple(self._seats.usable)))
        back: list[Node] = []
        if outlier != (self._detector.options if self._detector is not None else None):
            self._book.alarm_at, self._book.alarmed = outlier.consecutive_failures if outlier else None, False
            self._detector = Detector(outlier, now) if outlier else None
            back = [node for node in self._membership.members if node.ejected_since is not None]
        for node in back:
            node.ejected_since = None
        return replace(self._judged(back, now), swapped=True)

    def on_state(self, node: Node, state: ConnectivityState, now: float, error: str = "") -> Moves:
        """A node's connection changed. `error` tells why, for TRANSIENT_FAILURE.

        News of a node that is not used any more is ignored, and so is SHUTDOWN: the pool itself decides what closes.
        """
        self._now = now
        if node not in self._membership.members or state is ConnectivityState.SHUTDOWN:
            return Moves()
        if state is ConnectivityState.IDLE:
            return self._on_idle(node, now)
        opened = self._woken(now)
        self._open[node] = None
        if node.state is ConnectivityState.READY and state is not node.state:
            node.serving = True  # the next connection's health is not known yet
        self._connections_failed += state is ConnectivityState.TRANSIENT_FAILURE is not node.state
        node.state = state
        if state is ConnectivityState.READY:
            node.failing, node.error, node.ready_since = False, "", now
        elif state is ConnectivityState.TRANSIENT_FAILURE:
            node.failing, node.error = True, error
            self._last_failed = node
        self._judge(node, now)
        return self._moves(opened)

    def on_health(self, node: Node, serving: bool, now: float) -> Moves:
        """The back end's own health service spoke (gRFC A17)."""
        node.serving = serving
        return self._judged((node,), now)

    def set_weight(self, node: Node, weight: float | None, now: float) -> Moves:
        """The back end reported its capacity (ORCA, gRFC A58); None = back to the configured weight.

        Raises ValueError unless `weight` is finite and above 0.
        """
        if weight is not None and not 0 < weight < inf:
            raise ValueError(f"weight: must be finite and above 0, is {weight}")
        node.reported_weight = weight
        self._scales.weigh(node)
        return self._moves()

    def tick(self, now: float) -> Moves:
        """Does what time brings: ejections begin and end, slow start grows, idle connections close, the next address is
        tried."""
        self._now = now
        for node in self._ejections(now):
            self._judge(node, now)
        self._scales.grow(now)
        return self._moves(self._wanted(), close=self._idle(now))

    def next_tick(self, now: float) -> float | None:
        """When `tick` next has something to do, on the clock of `now`; None = not before something else happens."""
        due = [self._scales.next_step()]
        if self._detector is not None:
            due.append(now if self._book.alarmed else self._detector.next_tick())
        if self._open:
            due.append(self._idling.next_look(now))
        due.append(self._connecting.next_look)
        return min((when for when in due if when is not None), default=None)

    # What follows from it

    @property
    def picker(self) -> Picker:
        """The current picker."""
        if self._fixed is None and (self._seats.dirty or self._chooser is None):
            self._choose_anew()
        return self._picker

    @property
    def state(self) -> ConnectivityState:
        """The target's aggregate state by gRPC's rules."""
        if len(self._seats):
            return self._seats.state()
        waiting = isinstance(self._lack, Wait)
        return ConnectivityState.CONNECTING if waiting else ConnectivityState.TRANSIENT_FAILURE

    @property
    def last_used(self) -> float | None:
        """`now` of the last call's begin; None before the first."""
        return self._book.last_used

    @property
    def in_flight(self) -> int:
        """How many calls are under way."""
        return self._book.in_flight

    @property
    def members(self) -> Collection[Node]:
        """The nodes in use: all routable ones, or a subset."""
        return self._membership.members.keys()

    def node(self, endpoint: Endpoint) -> Node | None:
        """The node of an endpoint with this address and id."""
        return self._roster.get(endpoint)

    def statistics(self, now: float) -> PoolStatistics:
        """A snapshot of everything there is to know, all nodes included."""
        return PoolStatistics(
            policy=policy_name(self._policy),
            state=self.state,
            nodes=tuple(node_statistics(node, now) for node in self._roster),
            members=len(self._seats),
            usable=len(self._seats.usable),
            panic=self._seats.panic,
            last_pick=self._picker.explain() or self._spoken.explain(),
        )

    def why(self, now: float) -> Why:
        """Why each endpoint gets calls or none. May be asked for in any thread."""
        detector, members = self._detector, self._membership
        lazy, connections = self._connecting.picks_idle, self._options.connections
        circle = Circle(self._seats, self.members, members.size, self._asleep, lazy, connections)
        until = dict(detector.ends()) if detector is not None else {}
        told = tuple(endpoint_why(node, circle, until.get(node), now) for node in self._roster)
        usable = any(it.usable for it in told)
        return Why(usable, verdict(told, "" if usable else self._lacking()), told)

    def _lacking(self) -> str:
        """Why there is nobody to call."""
        match self._answer():
            case Fail(reason):
                return reason
            case Open():
                return "nothing was called for long; the next call connects"
            case _:
                return "they are being connected to" if self._resolved else "it is not known yet which there are"

    def numbers(self) -> PoolNumbers:
        """The same in a few numbers, which cost the same for any number of nodes. May be asked for in any thread."""
        book = self._book
        return PoolNumbers(
            states=self._seats.states(),
            connections=len(self._open),
            connection_failures=self._connections_failed,
            attempts=book.started,
            finished=book.finished,
            failed=book.failed,
            in_flight=book.in_flight,
            ejected=0 if self._detector is None else self._detector.ejected,
            ejections=self.ejections,
        )

    # Members

    def _take_over(self, endpoints: tuple[Endpoint, ...], lack: str, now: float) -> Moves:
        self._resolved = True
        delta = self._roster.update(endpoints)
        created = list(delta.created)
        if self._options.shuffle and self._connecting.shuffles:
            self._rng.shuffle(created)
        joined, left = self._membership.update((*created, *delta.changed), delta.gone)
        if not self._membership.members:
            self._lack = Fail(lack or none_usable(node.endpoint for node in self._roster))
        for node in left:
            self._leave(node)
        for node in delta.gone:
            self._forget(node)
        for node in joined:
            self._join(node, now)
        for node in delta.changed:
            self._scales.weigh(node)
            self._seats.reweigh(node)  # another zone or metadata matters to some policies, too
        self._connecting.listed(created, self._membership.members)
        close = dict.fromkeys((*left, *delta.gone)) if self._options.connections else ()
        return self._moves(self._wanted_of(joined), close)

    def _join(self, node: Node, now: float) -> None:
        if not self._options.connections:
            node.state = ConnectivityState.READY
        self._judge(node, now)

    def _leave(self, node: Node) -> None:
        self._seats.remove(node)
        self._scales.drop(node)
        if self._options.connections:
            self._disconnected(node)

    def _forget(self, node: Node) -> None:
        # Without connections a thread may go on with what it picked a moment ago.
        if self._options.connections:
            node.state = ConnectivityState.SHUTDOWN
        if self._detector is not None:
            self._detector.forget(node)

    def _disconnected(self, node: Node) -> None:
        """As if it had never been connected."""
        self._open.pop(node, None)
        node.state = ConnectivityState.IDLE
        node.failing, node.error, node.serving = False, "", True

    # Who may be picked

    def _judged(self, nodes: Iterable[Node], now: float) -> Moves:
        for node in nodes:
            self._judge(node, now)
        return self._moves()

    def _judge(self, node: Node, now: float) -> None:
        if node not in self._membership.members:
            return
        standing = self._standing(node)
        if standing is Standing.USABLE and self._seats.standing(node) is not standing:
            self._scales.begin(node, now)
        self._seats.put(node, standing)

    def _standing(self, node: Node) -> Standing:
        if node.failing:
            return Standing.DOWN
        if not self._connecting.picks_idle and node.state is not ConnectivityState.READY:
            return Standing.WAITING
        if node.ejected_since is not None or not node.serving:
            return Standing.SICK
        return Standing.USABLE

    def _ejections(self, now: float) -> list[Node]:
        if self._detector is None:
            return []
        alarmed, self._book.alarmed = self._book.alarmed, False
        touched = self._detector.tick(self._membership.members, alarmed, now, self._rng)
        self.ejections += len({node for node in touched if node.ejected_since is not None})
        return touched

    # Connections

    def _on_idle(self, node: Node, now: float) -> Moves:
        """The connection ended without an error: asked for again at once unless a pick is to ask for it."""
        if self._asleep:
            return Moves()
        failing, was_open = node.failing, node in self._open
        node.state = ConnectivityState.IDLE
        self._judge(node, now)
        if self._connecting.lets_go and not failing and was_open:
            del self._open[node]
            moves = self._moves()
            return moves if node in moves.open else replace(moves, close=(*moves.close, node))
        return self._moves((node,) if failing else self._connecting.wanted((node,)))

    def _wanted_of(self, nodes: Collection[Node]) -> Collection[Node]:
        return () if self._asleep else self._connecting.wanted(nodes)

    def _woken(self, now: float) -> Iterable[Node]:
        """After the whole pool was idle, the first sign of life brings back all connections the policy wants."""
        if not self._asleep:
            return ()
        self._asleep = False
        self._idling.woken(now)
        return self._connecting.wanted(self._membership.members)

    def _idle(self, now: float) -> list[Node]:
        idle = self._idling.idle(self._open, now)
        self._asleep |= bool(idle) and not self._connecting.picks_idle
        for node in idle:
            self._disconnected(node)
            self._judge(node, now)
        return idle

    def _wanted(self) -> tuple[Node, ...]:
        """A node that a call without a key would have gone to; no more than one is being connected for such calls."""
        wanted, self._book.wanted = self._book.wanted, None
        connecting = any(node.state is ConnectivityState.CONNECTING for node in self._open)
        if not isinstance(wanted, Node) or connecting or wanted not in self._membership.members:
            return ()
        return (wanted,) if wanted.state is ConnectivityState.IDLE else ()

    # The answer

    def _moves(self, opened: Iterable[Node] = (), close: Iterable[Node] = ()) -> Moves:
        self._seats.settle()
        opened, closed = tuple(opened), tuple(close)
        more, others = self._connecting.settle(self._seats.usable, self._open, self._now, asleep=self._asleep)
        for node in others:
            self._disconnected(node)
            self._seats.put(node, self._standing(node))
        opened, closed = (*opened, *more), (*closed, *others)
        self._open.update(dict.fromkeys(opened))
        return Moves(opened, closed, self._swap())

    def _swap(self) -> bool:
        """Whether another picker is called for; one with something to choose from is made when it is asked for."""
        if self._seats.usable:
            swapped = self._fixed is not None or self._seats.dirty
            self._fixed = None
            return swapped
        answer = self._answer()
        if self._fixed == answer:
            return False
        self._seats.take_change()
        self._fixed, self._chooser = answer, None
        self._put(Picker(answer))
        return True

    def _answer(self) -> Pick:
        members = self._membership.members
        if not members:
            return self._lack
        if self._asleep:
            return Open(tuple(self._connecting.first_needed(members)))
        if self._seats.state() is not ConnectivityState.TRANSIENT_FAILURE:
            return Wait()
        if not self._seats.down:
            return Fail("all endpoints are ejected or not serving")
        down = self._seats.down
        last = self._last_failed if self._last_failed is not None and self._last_failed in down else next(iter(down))
        reason = f"failed to connect to all addresses; last error: {last.endpoint.address}: {last.error}"
        return Fail(reason, last)

    def _choose_anew(self) -> None:
        nodes, change = self._seats.node_set(), self._seats.take_change()
        before: object = self._chooser
        if isinstance(before, Revisable):
            chooser = before.revised(nodes, change)
        else:
            chooser = self._policy.chooser(nodes, self._rng)
        self._chooser = chooser
        self._put(self._choosing(chooser, nodes.usable))

    def _choosing(self, chooser: Chooser, nodes: tuple[Node, ...]) -> Picker:
        return Choosing(chooser, nodes) if self._book.most is None else Limited(chooser, nodes, self._book)

    def _put(self, picker: Picker) -> None:
        if self._picker.explain():
            self._spoken = self._picker
        self._picker = picker


def _membership(policy: Policy, options: PoolOptions) -> Membership:
    connect, size = connect_of(policy), options.subset_size
    if connect is Connect.FIRST or (connect is not Connect.ALL and options.subset_of_connected):
        size = None
    subset = Subset(size, options.subset_salt, getattr(policy, "group_of", None)) if size is not None else None
    return Membership(subset, last_resort=options.panic_threshold > 0)
