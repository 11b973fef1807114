"""The engine of a channel for threads: its private loop, its connections, and the calls that wait.

Picks are made in any thread, everything else happens in the private loop, where no code of a user's ever runs but the
resolver and the policy: calls that go on do so in threads of their own (`workers`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING, Protocol

from balancer.channels.connectivity import IDLING
from balancer.channels.driver import NO_CONNECTION
from balancer.channels.engine import Engine, asleep_s, ready, wanted
from balancer.channels.process import FORKS
from balancer.channels.tally import NO_SAMPLE
from balancer.channels.traces import CANCELLED, Tracing
from balancer.numbers import FORGOTTEN
from balancer.policies.base import ANY, ConnectivityState, Node
from balancer.pool.picker import Open, Wait
from balancer.pulse import REST_S
from balancer.threads.connection import Connection
from balancer.threads.native import CLOSED, code_of
from balancer.threads.subscribers import Connectivity
from balancer.threads.workers import Workers, check_interpreter

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from balancer.channels.options import Settings
    from balancer.channels.traces import CallSpans
    from balancer.policies.base import PickInfo
    from balancer.pool.picker import Pick, Picker
    from balancer.threads.dial import ThreadsDialler

log = logging.getLogger(__name__)

_LAST_WORDS_S = 0.02
"""A resolver may use grpc.aio. What gRPC's core has yet to tell of its cancelled calls must not find the loop gone."""
_CLOSE_S = 5.0
"""So long at most `close` waits: it may interrupt the very thread that the private loop waits for."""
_AGAIN_S = 0.1
"""After this it is tried anew to have a thread where the system gave none."""
_LOOK_FIRST_S = 0.001
_LOOK_LAST_S = 0.05
_LOOK_RARELY_S = 0.5
_REST_AFTER_S = 2.0
"""All connections are asked for their states: soon after something happened, then less and less often. When nothing was
called for a while and all are ready, nobody asks any more until the next call, which then looks before it leaps."""


class Waiter(Protocol):
    """A call that goes on later."""

    over: bool

    def woke(self) -> None:
        """The time it was parked for has come."""

    def new_picker(self) -> None:
        """There is another picker."""


class ThreadsEngine(Engine):
    """What a channel's methods and calls share."""

    def __init__(self, settings: Settings, dialler: ThreadsDialler, rng: Random) -> None:
        super().__init__(settings, rng, Tracing(code_of))
        self.connectivity = Connectivity()
        self.workers = Workers("balancer-call", self._a_moment_later)
        self.generation = 0
        """Grows with each picker."""
        self.resting = False
        """Nobody looks at the connections: whoever calls has to."""
        self._dialler = dialler
        # Reentrant: a signal handler, or what the garbage collector ends, may close the channel in the middle of all.
        self._lock = threading.RLock()
        self._is_starting = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stopping = asyncio.Event()
        self._open: dict[Connection, None] = {}
        self._leaving: dict[Connection, None] = {}
        """Connections that end once their calls have."""
        self._closing: set[asyncio.Task[None]] = set()
        self._stirred = 0.0
        """When something last happened to look at."""
        self._look_after_s = _LOOK_FIRST_S
        self._look_timer: asyncio.TimerHandle | None = None
        self._is_wanted = False
        self._is_inherited = False
        self._parked: dict[int, tuple[weakref.ref[Waiter], asyncio.TimerHandle | None, bool]] = {}
        self._held: dict[Waiter, None] = {}

    def start(self) -> None:
        check_interpreter()
        with self._lock:
            if self._is_starting:
                raise RuntimeError("this thread is just opening the channel: who interrupts that cannot call on it")
            if self._thread is not None or self.closed:
                return
            self._is_starting = True
            try:
                self._start(asyncio.new_event_loop())
            finally:
                self._is_starting = False

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """All of it or, where no thread is to be had, or an interrupt comes, nothing; the lock is held."""
        try:
            driver = self.new_driver(self, loop)
            picker = driver.pool.picker
            thread = threading.Thread(target=self._run, name="balancer-channel", daemon=True)
            FORKS.begun(self)
            thread.start()
        except BaseException:
            loop.close()
            raise
        if self.closed:  # meanwhile, by a signal handler
            loop.close()
        else:
            self._loop, self.driver, self.picker, self._thread = loop, driver, picker, thread

    def _run(self) -> None:
        with self._lock:
            if self._thread is not threading.current_thread():  # it did not come to that
                return
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        driver = self.driver
        assert driver is not None  # noqa: S101 - `start` made it
        if not self.closed:
            driver.start()
            await self._stopping.wait()
        for task in driver.stop():
            await asyncio.wait({task})
        if self._look_timer is not None:
            self._look_timer.cancel()
        await asyncio.gather(*(connection.aclose() for connection in (*self._open, *self._leaving)))
        if self._closing:
            await asyncio.wait(self._closing)
        self._wake_all()
        await asyncio.sleep(_LAST_WORDS_S)

    def close(self) -> None:
        """Cancels what is under way and ends the private loop. Idempotent; from any thread.

        It waits until the loop is gone, a moment at most; for nothing as the interpreter ends, no lock either, as a
        thread that is gone may hold it for ever, and in a process that was forked meanwhile: that is the parent's.
        """
        if sys.is_finalizing() or self._is_inherited:
            self.stop()
            return
        with self._lock:
            self.refuse(CLOSED)
            self.state = ConnectivityState.SHUTDOWN
            self.generation += 1
        self.connectivity.unsubscribe_all()
        self.workers.close()
        if self._thread is not None and self._thread is not threading.current_thread():
            self.soon(self._stopping.set)
            self._thread.join(_CLOSE_S)

    def stop(self) -> None:
        """As `close`, but waits for nothing: for the garbage collector."""
        if not self.closed:
            self.refuse(CLOSED)
        if self._thread is not None:
            self.soon(self._stopping.set)

    # From any thread

    def soon(self, function: Callable[[], object]) -> None:
        """Calls it in the private loop; not at all once that is gone, nor before it is there."""
        if self._thread is None and self.closed:
            return
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            if not self.closed:
                raise

    def pick(self, info: PickInfo) -> Pick:
        """A pick for a call without an attempt. Raises ValueError when the channel is closed."""
        pick = self.note(ready(self.picker.pick(info, time.monotonic())))
        if isinstance(pick, Node):
            return pick if not self.resting or self.stir(pick.connection) else Wait()
        if isinstance(pick, Open) and self.driver is not None:
            driver, nodes = self.driver, wanted(pick)
            self.soon(lambda: driver.connect(nodes))
        return pick

    def _a_moment_later(self, function: Callable[[], object]) -> None:
        self.soon(lambda: self._loop.call_later(_AGAIN_S, function))

    def check_open(self) -> None:
        """Raises ValueError once the channel is closed, as grpcio does."""
        if self.closed:
            raise self.too_late()

    def too_late(self) -> ValueError:
        return ValueError(self.refusal)

    def inherit(self) -> None:
        super().inherit()
        self._is_inherited, self._thread = True, None

    def connect(self) -> None:
        """The channel is wanted connected, though no call waits."""
        self._is_wanted = True
        if not isinstance(self.pick(ANY), Open):
            self.soon(self._connect_one)

    def look_at_loads(self) -> None:
        if self.driver is not None:
            self.soon(self.driver.tick)

    def stir(self, connection: Connection) -> bool:
        """A call comes while nobody looks at the connections: False when its own is not ready."""
        self.resting = False
        if connection.is_ready:
            self.soon(self._look_soon)
            return True
        self.soon(lambda: self._look_at(connection.node, NO_CONNECTION))  # and there is another picker in any case
        return False

    def look(self) -> None:
        """Somebody wants to be told of every change: the connections are looked at from now on."""
        if self._thread is not None:
            self.soon(self._look_soon)

    def connection_failed(self, node: Node, details: str) -> None:
        """A call found no connection although the pool took it for ready."""
        self.soon(lambda: self._look_at(node, details))

    def one_left(self) -> None:
        self.soon(self._look_soon)

    def park(self, call: Waiter, until: float | None, seen: int | None) -> None:
        """Tells a call when that time has come, and, `seen` given, when there is a picker after that generation."""
        owner = weakref.ref(call)
        self.soon(lambda: self._park(owner, until, seen))
        if self.closed:  # since it asked; the loop may be gone, and wakes nobody any more
            self._tell(owner, picker=True)

    def unpark(self, call: Waiter) -> None:
        """A call is over."""
        self._held.pop(call, None)
        key = id(call)
        if key in self._parked:
            self.soon(lambda: self._take(key))

    def forgotten(self, spans: CallSpans | None) -> None:
        """A call that waited is held by nobody any more. For the garbage collector: it takes no lock."""
        if self.counts is not None or spans is not None:
            with contextlib.suppress(RuntimeError):
                self.soon(lambda: self.workers.run(partial(self._forget, spans)))

    def _forget(self, spans: CallSpans | None) -> None:
        if self.counts is not None:
            self.counts.ended(FORGOTTEN, NO_SAMPLE)
        if spans is not None:
            spans.over(CANCELLED)

    def hold(self, call: Waiter) -> None:
        """Somebody is to be told of its end: it lives until then."""
        self._held[call] = None
        if call.over:
            self._held.pop(call, None)

    # In the private loop

    def _park(self, owner: weakref.ref[Waiter], until: float | None, seen: int | None) -> None:
        call = owner()
        if call is None or call.over:
            return
        key = id(call)
        self._take(key)
        if seen is not None and seen != self.generation:
            self._tell(owner, picker=True)
            return
        delay_s = None if until is None else max(0.0, until - time.monotonic())
        timer = None if delay_s is None else self._loop.call_later(delay_s, self._expire, key)
        self._parked[key] = owner, timer, seen is not None

    def _take(self, key: int) -> weakref.ref[Waiter] | None:
        owner, timer, _ = self._parked.pop(key, (None, None, False))
        if timer is not None:
            timer.cancel()
        return owner

    def _expire(self, key: int) -> None:
        owner = self._take(key)
        if owner is not None:
            self._tell(owner, picker=False)

    def _wake_all(self) -> None:
        for key, (_, _, for_picker) in list(self._parked.items()):
            owner = self._take(key) if for_picker or self.closed else None
            if owner is not None:
                self._tell(owner, picker=True)

    def _tell(self, owner: weakref.ref[Waiter], *, picker: bool) -> None:
        def tell() -> None:
            call = owner()
            if call is not None:
                (call.new_picker if picker else call.woke)()

        self.workers.run(tell)

    def _connect_one(self) -> None:
        if self.driver is not None and self.state in IDLING:
            self.driver.connect(self.one_idle())

    def _look_at(self, node: Node, details: str) -> None:
        connection = node.connection
        if connection is not None and not connection.closed:
            connection.connect()
            self._look_at_one(connection, details)
            self._look_soon()
        if self.driver is not None:
            # Whatever became of the node meanwhile: the calls it refused look again.
            self.install(self.driver.pool.picker, self.driver.pool.state)

    def _look_at_one(self, connection: Connection, details: str = NO_CONNECTION) -> bool:
        state = connection.look()
        node = connection.node
        if state is not None and self.driver is not None and node.connection is connection:
            self.driver.report(node, state, details)
        return state is not None

    def _look(self) -> None:
        """Asks all connections for their states, and closes those whose calls have ended."""
        self._look_timer = None
        try:
            changed = [self._look_at_one(connection) for connection in list(self._open)]
            for connection in list(self._leaving):
                if not connection.node.load.in_flight:
                    del self._leaving[connection]
                    self._close(connection)
            self._look_after_s = _LOOK_FIRST_S if any(changed) else min(self._most_s(), self._look_after_s * 1.5)
        except Exception:
            log.exception("looking at the connections failed; it goes on")
        self._look_later()

    def _most_s(self) -> float:
        """No longer than this from one look to the next."""
        used = None if self.driver is None else self.driver.pool.last_used
        busy_until = max(used or 0.0, self._stirred) + _REST_AFTER_S
        return _LOOK_LAST_S if time.monotonic() < busy_until else _LOOK_RARELY_S

    def _look_soon(self) -> None:
        self._stirred = time.monotonic()
        self._look_after_s = _LOOK_FIRST_S
        self._look_later()

    def _look_later(self) -> None:
        if self._look_timer is not None:
            self._look_timer.cancel()
        self.resting = self._may_rest()
        if not self.resting and (self._open or self._leaving):
            self._beat(self._look_after_s, self._look)
        elif self.driver is not None and self.driver.pool.in_flight:
            self._beat(REST_S, self._look_later)
        else:
            self._look_timer = None
            self.pulse.beat(time.monotonic(), asleep_s())

    def _beat(self, after_s: float, then: Callable[[], None]) -> None:
        now = time.monotonic()
        self.pulse.beat(now, asleep_s(), now + after_s)
        self._look_timer = self._loop.call_later(after_s, then)

    def _may_rest(self) -> bool:
        if self._look_after_s < _LOOK_RARELY_S or self._leaving or self.connectivity.has_subscribers:
            return False
        return all(connection.is_settled for connection in self._open)

    def _close(self, connection: Connection) -> None:
        task = self._loop.create_task(connection.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    # balancer.channels.driver.Connections

    def open_node(self, node: Node) -> None:
        if node.connection is not None:
            node.connection.connect()
        else:
            node.connection = Connection(self, node, self.way_to(node), self._dialler)
            self._open[node.connection] = None
        self._look_soon()

    def close_node(self, node: Node) -> None:
        connection, node.connection = node.connection, None
        if connection is not None:
            connection.draining = True
            del self._open[connection]
            self._leaving[connection] = None
            self._look_soon()

    def install(self, picker: Picker, state: ConnectivityState) -> None:
        with self._lock:
            if self.closed:
                return
            self.picker, self.state = picker, state
            self.generation += 1
        self.connectivity.update(state)
        self._wake_all()
        if self._is_wanted:
            self._is_wanted = state is not ConnectivityState.READY
            self._loop.call_soon(self._connect_one)
