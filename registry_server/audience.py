"""CORE: who has a stream open: a function from a table of methods to another one, which notes who comes and goes."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import Message

from registry_server.hub import Reader
from registry_server.rpc.table import (
    AttendedDialogue,
    Broadcast,
    Caller,
    Conversation,
    Dialogue,
    Method,
    Outlet,
    Refusable,
    Session,
    Subscription,
    Table,
)

# A question that is larger is not remembered: there may be very many streams, each of them with a message of its own.
MAX_REQUEST_BYTES = 4096

Opened = TypeVar("Opened")


class Question(NamedTuple):
    """What a stream was opened with. Encoded, as it takes a tenth of the memory so."""

    parse: Callable[[bytes], Message]
    encoded: bytes

    @classmethod
    def of(cls, request: Message) -> "Question | None":
        """None for one that is too large to be remembered."""
        is_short = request.ByteSize() <= MAX_REQUEST_BYTES
        return _shared_question(request.FromString, request.SerializeToString()) if is_short else None


@lru_cache(maxsize=256)
def _shared_question(parse: Callable[[bytes], Message], encoded: bytes) -> Question:
    """Equal ones are one object: mostly, very many streams ask the same."""
    return Question(parse, encoded)


class Attendant:
    """A stream that is open: of which method (by its path), whose, since when (seconds since 1970), and what it was
    opened with, if that was one request. For one that is told of things it stands as its Subscription."""

    __slots__ = ("_audience", "_stream", "caller", "free", "opened_at", "path", "question")

    def __init__(
        self,
        path: str,
        caller: Caller,
        opened_at: float,
        audience: "dict[Attendant, None]",
        question: Question | None = None,
    ) -> None:
        self.path = path
        self.caller = caller
        self.opened_at = opened_at
        self.free: Callable[[], None] = _nothing
        self._stream: Subscription | None = None
        self._audience = audience
        self.question = question

    @property
    def request(self) -> Message | None:
        """What it was opened with, parsed anew each time; None where that is not known, or was no single request."""
        return None if self.question is None else self.question.parse(self.question.encoded)

    @property
    def reader(self) -> Reader | None:
        """What the hub knows of it, where the hub tells it anything."""
        return self._stream if isinstance(self._stream, Reader) else None

    def stand_for(self, stream: Subscription) -> None:
        """From now on it is the Subscription that this one is."""
        self.free = stream.free
        self._stream = stream

    def left(self) -> None:
        """It is over."""
        self._audience.pop(self, None)

    def leave(self) -> None:
        """See Subscription."""
        self.left()
        if self._stream is not None:
            self._stream.leave()


class Audience:
    """All of them. `clock` gives seconds since 1970."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._open: dict[Attendant, None] = {}

    def __len__(self) -> int:
        """How many there are."""
        return len(self._open)

    def open(self) -> Iterator[Attendant]:
        """Those that are open now, the oldest first; to be gone through at once, or copied."""
        return iter(self._open)

    def attended(self, table: Table) -> Table:
        """The same methods. To stand inside of what says who a caller is."""
        return table.changed(self._method)

    def _method(self, path: str, method: Method) -> Method:
        match method:
            case Conversation(opened=opened):
                return replace(method, opened=self._opening(path, opened or _unheard))
            case Broadcast(join=join):
                return replace(method, join=self._joining(path, join))
            case Session(open=begin):
                return replace(method, open=self._beginning(path, begin))
        return method

    def _opening(
        self, path: str, opened: Callable[[Caller, Refusable], Callable[[], None]]
    ) -> Callable[[Caller, Refusable], Callable[[], None]]:
        def told(caller: Caller, end: Refusable) -> Callable[[], None]:
            attendant = self._attendant(path, caller)
            leave = self._came(attendant, opened(caller, end))

            def left() -> None:
                attendant.left()
                leave()

            return left

        return told

    def _joining(
        self, path: str, join: Callable[[Any, Caller, Outlet], Subscription]
    ) -> Callable[[Any, Caller, Outlet], Subscription]:
        def joined(request: Any, caller: Caller, outlet: Outlet) -> Subscription:
            attendant = self._attendant(path, caller, Question.of(request))
            attendant.stand_for(self._came(attendant, join(request, caller, outlet)))
            return attendant

        return joined

    def _beginning(
        self, path: str, begin: Callable[[Caller, Outlet], Dialogue[Any]]
    ) -> Callable[[Caller, Outlet], Dialogue[Any]]:
        def begun(caller: Caller, outlet: Outlet) -> Dialogue[Any]:
            attendant = self._attendant(path, caller)
            inner = self._came(attendant, begin(caller, outlet))
            return AttendedDialogue(inner, attendant.left)

        return begun

    def _attendant(self, path: str, caller: Caller, question: Question | None = None) -> Attendant:
        return Attendant(path, caller, self._clock(), self._open, question)

    def _came(self, attendant: Attendant, opened: Opened) -> Opened:
        """One that could be opened is there."""
        self._open[attendant] = None
        return opened


def _unheard(caller: Caller, end: Refusable) -> Callable[[], None]:
    """Nobody else wants to hear of a stream."""
    return _nothing


def _nothing() -> None:
    """There is nothing to leave."""
