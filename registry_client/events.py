"""SHELL: what became of instances: asked for, and followed as it happens."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Self

import grpc
import grpc.aio

from registry_api.registry.v1 import history_pb2 as pb
from registry_client import answers
from registry_client.errors import ClientClosed, InvalidAnswer, RegistryError, RegistryUnavailable, alone
from registry_client.event import Event, Events
from registry_client.instance import Key
from registry_client.link import may_try_anew

if TYPE_CHECKING:
    from registry_client.link import Connection, Link
    from registry_client.tasks import Tasks
    from registry_client.watcher import Means

log = logging.getLogger(__name__)

_Name = tuple[str, int, str, str, str, int, bool]

# A stream begins with an answer, if only an empty one.
FIRST_ANSWER_S = 5.0
LASTING_S = 5.0
# So many events wait for whoever iterates; then no more are read.
MOST_WAITING = 1_000
_PAGE = 1_000
# Of so many instances it is known how they were told last.
MOST_KNOWN = 10_000
_WHAT = "the watch of events"
# It is no use to ask these again.
_FINAL = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


async def listed(link: Link, question: pb.EventFilter, limit: int, timeout_s: float) -> Events:
    """The latest events that are meant, so many at the most, the oldest first. Raises RegistryError."""
    request, found = pb.HistoryListRequest(filter=question), dict[_Name, Event]()
    revision, size = None, 0
    while True:
        request.page_size = min(limit - len(found), _PAGE)
        answer = await link.call(lambda stub: stub.history.List, request, timeout_s, "list events")
        revision = answer.header.revision if revision is None else revision
        known, size = len(found), size + answer.ByteSize()
        for event in answer.events:  # the pages may be of several servers, and overlap
            found.setdefault(_name(event), Event.from_proto(event))
        if not answer.next_page_token or len(found) >= limit:
            return Events(reversed(list(found.values())[:limit]), revision)
        if len(found) == known or len(answer.next_page_token) > answers.MAX_TOKEN or size > answers.MAX_LISTED_BYTES:
            raise InvalidAnswer("the list of events has no end")
        request.page_token = answer.next_page_token


def _name(event: pb.Event) -> _Name:
    """By which it is known, whoever tells it."""
    where = (event.epoch, event.revision, event.namespace, event.service, event.id)
    return *where, event.cause, event.HasField("after")


class EventWatch:
    """An endless iterator over events as they happen: `async for event in registry.watch_events("player")`.

    It goes on at another address, or when the registry is there again, and tells no event twice. Where some are lost
    meanwhile the next one has `gap` set. Raises RegistryError for what asking again does not mend. Dropping it ends it;
    `aclose`, or `async with`, ends it at once.
    """

    def __init__(self, means: Means, tasks: Tasks, question: pb.EventFilter, from_revision: int = 0) -> None:
        self._pump = pump = _Pump(means, question, from_revision)
        self._task = tasks.start(pump.run(), "registry-events")
        self._finalizer = weakref.finalize(self, _cancel_soon, self._task)
        self._finalizer.atexit = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        pump = self._pump
        pump.place.check(_WHAT)
        while not pump.waiting:
            if pump.failure is not None:
                raise pump.failure.with_traceback(None)  # it may be raised any number of times
            pump.news.clear()
            await pump.news.wait()
        event = pump.waiting.popleft()
        pump.room.set()
        return event

    @property
    def is_current(self) -> bool:
        """Whether a registry tells of what happens just now."""
        return self._pump.is_current

    async def aclose(self) -> None:
        """End it. May be called more than once."""
        place = self._pump.place
        if place.is_over:
            return
        place.check(_WHAT)
        self._finalizer.detach()
        self._task.cancel()
        await asyncio.wait([self._task])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class _Pump:
    """What the task of an `EventWatch` needs, so that it does not hold the watch itself."""

    def __init__(self, means: Means, question: pb.EventFilter, from_revision: int) -> None:
        self.waiting: deque[Event] = deque()
        self.news, self.room = asyncio.Event(), asyncio.Event()
        self.failure: RegistryError | None = None
        self.is_current = False
        self.place = means.place
        self._means = means
        self._request = pb.HistoryWatchRequest(filter=question)
        self._epoch = ""
        self._revision = from_revision
        # Of that revision, what was told; whoever goes on from it is told it again.
        self._told: set[_Name] = set()
        # Of each instance, from which revision of it to which it was told last; 0 where it was not there.
        self._last: OrderedDict[Key, tuple[int, int]] = OrderedDict()
        self._has_gap = False

    async def run(self) -> None:
        """Follow until cancelled, or until it is of no use."""
        link, loop, attempt = self._means.links.take(), asyncio.get_running_loop(), 0
        try:
            while True:
                began, connection = loop.time(), link.current
                failure = await self._follow(link, connection)
                self.is_current = False
                if failure is not None and self._is_final(failure, connection):
                    self._end(failure)
                    return
                attempt = 0 if loop.time() - began >= LASTING_S else attempt + 1
                await asyncio.sleep(self._means.backoff.delay(max(0, attempt - 1), self._means.rng))
        except asyncio.CancelledError as error:
            raise alone(error)  # noqa: B904 - of nothing
        finally:
            self._means.links.give_back(link)
            self._end(ClientClosed("the client, or this watch of events, was closed"))

    def _is_final(self, failure: RegistryError, connection: Connection) -> bool:
        """Whether asking again is of no use. A question that was answered before is asked on: rights come back."""
        return failure.code in _FINAL and not self._epoch and not may_try_anew(connection, failure)

    def _end(self, failure: RegistryError) -> None:
        self.failure = self.failure or alone(failure)
        self.news.set()

    async def _follow(self, link: Link, connection: Connection) -> RegistryError | None:
        """Read one stream to its end; why it ended, None if it is to be asked anew."""
        try:
            if await self._read(link, connection):
                return None
            failure: RegistryError = RegistryUnavailable(f"{connection.address} ended the stream")
        except TimeoutError:
            failure = RegistryUnavailable(f"{connection.address} does not answer")
        except grpc.aio.AioRpcError as error:
            failure = await link.judge(connection, error, "watch events")
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            failure = RegistryUnavailable(f"{connection.address}: the connection was closed")
        except RegistryError as error:
            failure = error
        link.failed(connection, failure)
        return failure

    async def _read(self, link: Link, connection: Connection) -> bool:
        """Whether it is another order of changes, whose revisions are not those that were asked for. Raises
        TimeoutError for a stream that does not begin, AioRpcError for one that breaks."""
        self._request.from_revision = self._revision
        call = connection.stub.history.Watch(self._request, metadata=await connection.dialer.metadata())
        try:
            async with asyncio.timeout(FIRST_ANSWER_S) as patience:
                while isinstance(answer := await call.read(), pb.HistoryWatchResponse):
                    patience.reschedule(None)
                    if self._is_another_order(answer.header.epoch):
                        return True
                    self.is_current = True
                    await self._take(answer)
        finally:
            await link.end(call)
        return False

    def _is_another_order(self, epoch: str) -> bool:
        """The registry began anew: all that it remembers is news."""
        is_another = bool(self._epoch) and epoch != self._epoch
        self._epoch = epoch
        if is_another:
            self._revision = 1
            self._has_gap = True  # what became of the former order in the end, nobody knows
            self._told.clear()
            self._last.clear()
        return is_another

    async def _take(self, answer: pb.HistoryWatchResponse) -> None:
        self._has_gap = self._has_gap or answer.lost
        for message in answer.events:
            if self._is_known(message):
                continue
            await self._put(Event.from_proto(message, gap=self._has_gap))
            self._has_gap = False
        if not self._revision:
            self._revision = answer.header.revision + 1
        elif not answer.events:  # there is nothing more up to that one: who goes on need not ask for what is long ago
            self._advance(answer.header.revision)

    def _is_known(self, message: pb.Event) -> bool:
        """Whether it was told before; from now on it was. A server that was cut off tells later, and at a revision of
        its own, what others told when it was."""
        name, key = _name(message), Key(message.namespace, message.service, message.id)
        is_again = message.revision == self._revision and name in self._told
        step = message.before.revision, message.after.revision
        if is_again or (message.late and self._last.get(key) == step):
            return True
        self._advance(message.revision)
        self._told.add(name)
        self._last[key] = step
        self._last.move_to_end(key)
        if len(self._last) > MOST_KNOWN:
            self._last.popitem(last=False)
        return False

    def _advance(self, revision: int) -> None:
        if revision > self._revision:
            self._revision = revision
            self._told.clear()

    async def _put(self, event: Event) -> None:
        while len(self.waiting) >= MOST_WAITING:
            self.room.clear()
            await self.room.wait()
        self.waiting.append(event)
        self.news.set()


def _cancel_soon(task: asyncio.Task[None]) -> None:
    loop = task.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(task.cancel)
