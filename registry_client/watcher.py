"""SHELL: a watch that never ends by itself: streams, reconnects, the cache on disk, and the iterator users see."""

from __future__ import annotations

import asyncio
import logging
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import grpc
import grpc.aio

from registry_api.registry.v1 import registry_pb2 as pb
from registry_client.counts import Followed, named
from registry_client.errors import (
    ClientClosed,
    InvalidArgument,
    PermissionDenied,
    RegistryError,
    RegistryUnavailable,
    Unauthenticated,
    alone,
)
from registry_client.link import may_try_anew
from registry_client.steps import Asked, WatchLimits
from registry_client.view import SILENCE_S, Folded, View, ViewFold

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from registry_client.backoff import Backoff
    from registry_client.cache import Disk, Saved, ViewFile
    from registry_client.link import Connection, Link
    from registry_client.place import Place
    from registry_client.pulse import Pulse

log = logging.getLogger(__name__)

FIRST_ANSWER_S = 2.0  # how long a cold start waits for the registry before it shows what is on disk
FIRST_RESPONSE_S = 5.0  # a stream begins with a full set, at once
STEP_S = 60.0  # a step is as small as its parts together, and they come one after the other
BEHIND_S = 10.0  # how long a replica that lags is stayed with, if there are others
LASTING_S = 5.0  # a stream that ends sooner was no use, whatever it answered
DISK_S = 1.0  # how long the first stream waits for what is on disk
WATCHES = 100  # on one connection; some servers and proxies take no more streams
SAVE_EVERY_S = 5.0
REFRESH_EVERY_S = 300.0  # a saved view that is still the same is so much older than it says, at most
LATE_S = 0.3  # a timer that comes later than that speaks of a loop that was busy
GRACE_S = 1.0  # what the loop is given then to read what has come meanwhile
ASK_ANEW_EVERY_S = 1.0
SPREAD_S = 0.5  # over which clients that have the same reason to ask at the same time are spread
COSTLY = 10.0  # how many times longer the pauses are for a registry whose answers are refused one after the other
COMPLAIN_EVERY_S = 60.0
COMPLAINTS = 20  # in that time
BURST, BURST_S = 100, 0.1  # so many answers in no less than that
_FINAL = (InvalidArgument, PermissionDenied, Unauthenticated)
PAUSE_AT_MOST_S = 30.0  # for one that says itself when to come back


class Complaints:
    """What is wrong with the answers of a registry: each kind is told once a minute at most, for all watches."""

    def __init__(self) -> None:
        self._told_at_s: dict[str, float] = {}

    def tell(self, kind: str, text: str, now: float) -> None:
        """Log it, unless its kind was told a moment ago. `now` is in seconds."""
        self._told_at_s = {it: at for it, at in self._told_at_s.items() if now - at < COMPLAIN_EVERY_S}
        if kind not in self._told_at_s and len(self._told_at_s) < COMPLAINTS:
            self._told_at_s[kind] = now
            log.warning("%s", text)


class Links:
    """The connections of all watches of one client. A registry takes so many streams on each, and lets others wait."""

    def __init__(self, make: Callable[[], Link]) -> None:
        self._make = make
        self._watches: dict[Link, int] = {}

    def take(self) -> Link:
        """One that has room for another watch."""
        link = next((link for link, watches in self._watches.items() if watches < WATCHES), None) or self._make()
        self._watches[link] = self._watches.get(link, 0) + 1
        return link

    def give_back(self, link: Link) -> None:
        """A watch has ended."""
        self._watches[link] -= 1

    @property
    def connections(self) -> int:
        """How many they have."""
        return sum(link.connections for link in list(self._watches))

    async def aclose(self) -> None:
        """Close them all."""
        await asyncio.gather(*(link.aclose() for link in self._watches))


@dataclass(frozen=True, slots=True)
class Means:
    """What all watches of one client share."""

    links: Links
    backoff: Backoff
    rng: Random
    pulse: Pulse
    disk: Disk
    place: Place
    limits: WatchLimits = field(default_factory=WatchLimits)
    complaints: Complaints = field(default_factory=Complaints)
    followed: set[Following] = field(default_factory=set)  # all that run


@dataclass(slots=True)
class Stream:
    """One stream from its request to its end. Times are those of the pulse, in seconds."""

    connection: Connection
    begun_at_s: float
    heard_at_s: float | None = None
    step_begun_at_s: float | None = None
    answered_at_s: float | None = None  # the first answer that was of use
    behind_since_s: float | None = None
    heard: int = 0  # how many answers
    burst_at_s: float = 0.0  # when the last hundred of them was full
    patience: asyncio.Timeout | None = None
    verdict: str = ""  # why it was given up
    asks_anew: bool = False  # it was given up to ask the same question again
    refused: bool = False  # its answer is not to be used
    retry_after_s: float = 0.0

    def deadline(self) -> float:
        """When it is to be given up, if nothing comes before."""
        if self.heard_at_s is None:
            return self.begun_at_s + FIRST_RESPONSE_S
        silence_s = self.heard_at_s + SILENCE_S
        return min(
            silence_s,
            silence_s if self.step_begun_at_s is None else self.step_begun_at_s + STEP_S,
            silence_s if self.behind_since_s is None else self.behind_since_s + BEHIND_S,
        )

    def give_up(self, verdict: str, *, asks_anew: bool = False) -> None:
        """End the reading of it, from outside of the task that reads."""
        if self.patience is not None and not self.verdict:
            self.verdict, self.asks_anew = verdict, asks_anew
            self.patience.reschedule(asyncio.get_running_loop().time())

    async def pace(self, now: float) -> None:
        """Take no more than a thousand answers a second. A registry says as much in fewer, if it is one."""
        self.heard += 1
        if self.heard % BURST == 0:
            rest_s = max(0.0, self.burst_at_s + BURST_S - now)
            self.burst_at_s = now + rest_s
            if rest_s:
                await asyncio.sleep(rest_s)

    def has_lasted(self, now: float) -> bool:
        """Whether it was of use for a while."""
        return self.answered_at_s is not None and not self.refused and now - self.answered_at_s >= LASTING_S


class Following:
    """One question followed over streams and addresses. `run` is its task; readers wait on `wait_new`."""

    def __init__(self, means: Means, question: pb.WatchRequest, file: ViewFile | None) -> None:
        self._means = means
        self._question = question
        self._file = file
        self._link: Link  # while it runs
        self._begun_at_s = 0.0
        self._fold = ViewFold(Asked(question.namespace, frozenset(question.services)), means.limits)
        self._new = asyncio.Event()
        self._failure: BaseException | None = None
        self._stream: Stream | None = None
        self._trouble = ""
        self._ready = False  # a registry has answered, or will not soon
        self._show_at_s = float("inf")  # when what is on disk is shown, if no registry has answered
        self._was_stale = False
        self._timer: asyncio.TimerHandle | None = None
        self._postponed = False
        self._lost_s = means.pulse.read()[1]
        self._spread_s = means.rng.random() * SPREAD_S
        self._asked_anew_at_s = float("-inf")
        self._saved_at_s = float("-inf")
        self._unsaved = False

    def told(self) -> Followed:
        """For metrics. May be asked for in any thread."""
        now, _ = self._means.pulse.read()
        age_s = self._fold.stale_for(now) if self._fold.has_view else now - self._begun_at_s
        return Followed(named(tuple(self._question.services)), age_s or 0.0)

    # ---- what readers ask

    async def wait_new(self) -> View:
        """The newest view, once there is one that was not taken yet. Raises RegistryError if the watch was refused."""
        self.check_place()
        await self._new.wait()
        if self._failure is not None:
            raise self._failure.with_traceback(None)  # it may be raised any number of times
        self._new.clear()
        return self._fold.take(self._now())

    def check_place(self) -> None:
        """Raises Misuse in another event loop than that of the client, and in a forked process."""
        self._means.place.check("the watch")

    @property
    def is_over(self) -> bool:
        """True when the loop of the client has ended, and in a forked process: nothing is left to be ended."""
        return self._means.place.is_over

    def peek(self) -> View | None:
        """The view as it is now, if there is one to show."""
        return self._fold.peek(self._now()) if self._ready and self._fold.has_view else None

    @property
    def trouble(self) -> str:
        """Why no registry tells of changes just now; empty while one does."""
        stream = self._stream
        if stream is not None and stream.answered_at_s is not None:
            return ""
        waited_s = 0.0 if stream is None else self._now() - stream.begun_at_s
        if stream is not None and not self._trouble and waited_s >= 1.0:
            return f"{stream.connection.address} has not answered for {waited_s:.0f} s"
        return self._trouble

    def _now(self) -> float:
        """The time of the pulse. The fold is told how much of the time of others it leaves out."""
        now, lost_s = self._means.pulse.read()
        if lost_s > self._lost_s:
            self._fold.on_standstill(lost_s - self._lost_s)
            self._lost_s = lost_s
        return now

    # ---- the task

    async def run(self) -> None:
        """Follow the registry until cancelled. Ends by itself only when the registry refuses the question."""
        self._means.pulse.hold()
        self._begun_at_s = self._means.pulse.read()[0]
        self._means.followed.add(self)
        self._link = self._means.links.take()
        restoring = asyncio.ensure_future(self._restore())
        try:
            await asyncio.wait([restoring], timeout=DISK_S)
            self._show_at_s = self._now() + FIRST_ANSWER_S
            self._arm()
            await self._follow_on_and_on()
        except asyncio.CancelledError as error:
            self._fail(ClientClosed("the watch was closed"))
            raise alone(error)  # noqa: B904 - of nothing
        except RegistryError as error:
            self._fail(alone(error))
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            restoring.cancel()
            self._disarm()
            self._save_at_end()
            self._means.links.give_back(self._link)
            self._means.followed.discard(self)
            self._means.pulse.release()

    async def _follow_on_and_on(self) -> None:
        attempt = refusals = unanswered = 0
        while True:
            stream = await self._follow(self._link.current)
            now = self._now()
            self._fold.on_disconnect(now)
            if stream.asks_anew:
                continue
            unanswered = unanswered + 1 if stream.answered_at_s is None else 0
            if unanswered >= len(self._link.addresses):
                self._show_stale()
            refusals = refusals + stream.refused
            if stream.has_lasted(now):
                attempt = refusals = 0
            await asyncio.sleep(max(self._pause_s(attempt, refusals), min(stream.retry_after_s, PAUSE_AT_MOST_S)))
            attempt += 1

    def _pause_s(self, attempt: int, refusals: int) -> float:
        """Before the next stream. What had to be refused may have cost a lot, but a single mishap is mended at once."""
        backoff = self._means.backoff
        if refusals > 1:
            return backoff.longer(COSTLY).delay(refusals - 2, self._means.rng)
        return backoff.delay(attempt, self._means.rng)

    async def _follow(self, connection: Connection) -> Stream:
        """Read one stream to its end. Raises RegistryError if asking again is no use."""
        stream = Stream(connection, self._now())
        try:
            await self._read(stream)
        except TimeoutError:
            self._failed(stream, RegistryUnavailable(f"{connection.address} {stream.verdict}"))
        except grpc.aio.AioRpcError as error:
            self._judge(await self._link.judge(stream.connection, error, "watch"), stream)
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            self._failed(stream, RegistryUnavailable(f"{connection.address}: the connection was closed"))
        except RegistryUnavailable as error:  # there is no token to ask with
            self._failed(stream, error)
        except RegistryError:
            raise
        except Exception as error:
            log.exception("a mistake in this client: the watch of %s starts anew", connection.address)
            self._failed(stream, RegistryUnavailable(f"{connection.address}: {error}"))
        return stream

    async def _read(self, stream: Stream) -> None:
        """Raises TimeoutError when it was given up, AioRpcError when it broke."""
        request = pb.WatchRequest()
        request.CopyFrom(self._question)
        request.resume_token = self._fold.token
        with_it = await stream.connection.dialer.metadata()
        self._fold.on_connect()
        self._link.counts.streams += 1
        call = stream.connection.stub.Watch(request, metadata=with_it)
        try:
            async with asyncio.timeout(None) as stream.patience:
                self._stream = stream
                self._link.asking(stream.connection)
                self._arm()
                while self._take(await call.read(), stream):
                    await stream.pace(self._now())
        finally:
            self._stream = stream.patience = None
            await self._link.end(call)

    def _failed(self, stream: Stream, failure: RegistryError) -> None:
        if not stream.asks_anew:
            text, address = str(failure), stream.connection.address
            self._trouble = text if address in text else f"{address}: {text}"
            self._link.failed(stream.connection, failure)

    def _judge(self, failure: RegistryError, stream: Stream) -> None:
        """Decide whether a broken stream is worth another try. A question that was answered before always is."""
        if isinstance(failure, InvalidArgument) and self._fold.token:
            self._fold.token = ""  # not a token of this registry
        elif isinstance(failure, _FINAL) and not self._fold.has_view and not may_try_anew(stream.connection, failure):
            raise failure
        if isinstance(failure, RegistryUnavailable):
            stream.retry_after_s = failure.retry_after_s or 0.0
        self._failed(stream, failure)

    def _take(self, response: object, stream: Stream) -> bool:
        """Fold one response in. False when the stream is of no more use."""
        if response is grpc.aio.EOF:
            self._failed(stream, RegistryUnavailable(f"{stream.connection.address} ended the watch"))
            return False
        now = self._now()
        reason = "its answer cannot be read"
        if isinstance(response, pb.WatchResponse):
            folded, reason = self._fold.on_response(response, now), self._fold.reason
            if folded is not Folded.REFUSED:
                self._took(folded, response.header, stream, now)
                return True
        stream.refused = True
        self._means.complaints.tell(reason, f"{stream.connection.address} is not followed: {reason}", now)
        self._failed(stream, RegistryUnavailable(f"{stream.connection.address} is not followed: {reason}"))
        return False

    def _took(self, folded: Folded, header: pb.ResponseHeader, stream: Stream, now: float) -> None:
        stream.heard_at_s = now
        if folded is Folded.PART:
            stream.step_begun_at_s = stream.step_begun_at_s or now
            return
        stream.step_begun_at_s = None
        stream.answered_at_s = stream.answered_at_s or now
        self._trouble = ""
        self._link.answered(stream.connection, header)
        has_others = len(self._link.addresses) > 1
        stream.behind_since_s = (stream.behind_since_s or now) if self._fold.is_behind and has_others else None
        self._show(changed=folded is Folded.CHANGED)
        self._save(now)
        self._tell_useless(stream, now)
        if self._link.has_returned_from(stream.connection):
            stream.give_up("is left for the preferred registry", asks_anew=True)
        self._arm()

    def _tell_useless(self, stream: Stream, now: float) -> None:
        if useless := self._fold.useless:
            some = ascii(str(min(useless))[:200])
            text = f"{stream.connection.address} has instances that cannot be called, such as {some}: left out"
            self._means.complaints.tell("useless", text, now)

    # ---- showing

    def _show(self, *, changed: bool) -> None:
        """Wake the readers when there is something to see: another set, the first set, or staleness that flipped."""
        stale = self._fold.stale_for(self._now()) is not None
        first, self._ready = not self._ready, True
        if changed or first or stale != self._was_stale:
            self._new.set()
        self._was_stale = stale
        self._unsaved |= changed or first

    def _show_stale(self) -> None:
        """The registry is out of reach: what is known is shown as old. If nothing is known, readers go on waiting."""
        self._fold.on_away()
        if self._fold.has_view:
            self._show(changed=False)

    def _fail(self, failure: BaseException) -> None:
        self._failure = failure
        self._new.set()

    # ---- time

    def _arm(self) -> None:
        """Set the timer for the first thing that time alone does, unless it is set for an earlier one."""
        if self._postponed:
            return
        loop = asyncio.get_running_loop()
        due_at = loop.time() + max(0.0, self._next_at() - self._now())
        if self._timer is None or due_at < self._timer.when() or self._timer.when() <= loop.time():
            self._disarm()
            self._timer = loop.call_at(due_at, self._tick, due_at)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _next_at(self) -> float:
        """When to look again, by the pulse."""
        stream, due_at = self._stream, self._ask_anew_at()
        times = [self._now() + SILENCE_S, due_at]
        if stream is not None and not stream.verdict:
            times.append(stream.deadline())
        if not self._ready and self._fold.has_view:
            times.append(self._show_at_s)
        return min(times)

    def _ask_anew_at(self) -> float:
        """When to ask what has become of those that an ended epoch had, if there are any."""
        due_at = self._fold.next_due()
        if due_at is None or self._stream is None or self._stream.verdict:
            return float("inf")
        return max(due_at + self._spread_s, self._asked_anew_at_s + ASK_ANEW_EVERY_S)

    def _tick(self, due_at: float) -> None:
        """Look what time has done. A late timer tells of a loop that was busy, and not of what has come meanwhile: the
        loop is given a second to read that, before the clock decides anything.
        """
        loop = asyncio.get_running_loop()
        self._postponed = not self._postponed and loop.time() - due_at > LATE_S
        self._timer = None
        if self._postponed:
            due_at = loop.time() + GRACE_S
            self._timer = loop.call_at(due_at, self._tick, due_at)
            return
        try:
            self._look(self._now())
        finally:
            self._arm()

    def _look(self, now: float) -> None:
        stream = self._stream
        if stream is not None and stream.deadline() <= now:
            stream.give_up("does not answer" if stream.behind_since_s is None else "lags behind what is known already")
        if self._ask_anew_at() <= now and stream is not None and self._fold.is_due(now):
            self._asked_anew_at_s = now
            stream.give_up("is asked anew", asks_anew=True)
        if self._fold.has_view and (self._ready or self._show_at_s <= now):
            self._show(changed=False)

    # ---- on disk

    async def _restore(self) -> None:
        """Begin with what an earlier process saw last, unless a registry has answered by the time it is found."""
        saved: Saved | None = None
        if self._file is not None:
            saved = await self._means.disk.read(self._file)
        if saved is None or self._fold.has_view:
            return
        # While a stream is under way, it was asked for a full set already.
        token = "" if self._stream is not None else saved.token
        self._fold.restore(saved.view, token, saved.age_s, self._now())
        self._arm()

    def _save(self, now: float) -> None:
        """Have the view written down, every few seconds at most, once all in it is what the current epoch says."""
        every_s = SAVE_EVERY_S if self._unsaved else REFRESH_EVERY_S
        if self._file is None or not self._fold.is_settled or now - self._saved_at_s < every_s:
            return
        self._saved_at_s, self._unsaved = now, False
        self._means.disk.write(self._file, self._fold.peek(now), self._fold.token, self._fold.age(now))

    def _save_at_end(self) -> None:
        """The last view, and how old it is by now."""
        if self._file is not None and self._fold.is_settled:
            now = self._now()
            self._means.disk.write(self._file, self._fold.peek(now), self._fold.token, self._fold.age(now))


class Watch:
    """An endless iterator over the views of a watch: `async for view in registry.watch("player")`.

    The first view comes once the registry has said what there is; at a cold start without a registry it is the one
    from disk, marked stale. Then one comes whenever the set changes, a new epoch begins, or staleness begins or ends.
    Who is slow gets the newest view, whose `changes` cover all that was skipped. It ends with RegistryError only when
    the registry refuses the question. Dropping the iterator ends the watch; `aclose`, or `async with`, ends it at once.
    """

    def __init__(self, following: Following, task: asyncio.Task[None]) -> None:
        self._following = following
        self._task = task
        # A loop that is left by `break` drops its iterator, and nobody can say so but the collector.
        self._finalizer = weakref.finalize(self, _cancel_soon, task)
        self._finalizer.atexit = False

    @property
    def view(self) -> View | None:
        """The latest view as it is now, without changes; None before there is one."""
        return self._following.peek()

    @property
    def trouble(self) -> str:
        """Why no registry tells of changes just now; empty while one does, and in the first second."""
        return self._following.trouble

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> View:
        return await self._following.wait_new()

    async def aclose(self) -> None:
        """End the watch. May be called more than once."""
        if self._following.is_over:
            return
        self._following.check_place()
        self._finalizer.detach()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _cancel_soon(task: asyncio.Task[Any]) -> None:
    loop = task.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(task.cancel)
