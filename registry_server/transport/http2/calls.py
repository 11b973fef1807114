"""SHELL: one call of each kind: from the bytes that come on its stream to what is written there.

A call is told what comes and what was written, and does all else by its `Wire`. It ends once, by `stop`: because it
answered, failed, or its client went. No call keeps a task while it waits for its client.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from registry_server.errors import RequestError
from registry_server.rpc.table import (
    Broadcast,
    Caller,
    Conversation,
    Dialogue,
    Method,
    Session,
    Subscription,
    Unary,
    parse,
)
from registry_server.transport.http2.framing import (
    OK,
    FramingError,
    Head,
    Header,
    Malformed,
    Messages,
    TooLarge,
    Unsupported,
    whole,
)
from registry_server.transport.http2.shared import NEVER, Shared, trailers_of
from registry_server.transport.http2.steps import DONE, Rest, first_step
from registry_server.transport.status import Code, RpcStatus, internal, shutting_down, status_of
from registry_server.transport.streams import REFUSAL_S

Kind = TypeVar("Kind", bound=Method)

# What a caller is told who breaks the rules of framing.
CODES: dict[type[FramingError], Code] = {
    Malformed: Code.INTERNAL,
    Unsupported: Code.UNIMPLEMENTED,
}
_TOO_LATE = RpcStatus(Code.DEADLINE_EXCEEDED, "the deadline has passed", b"")
_NOT_ASKED = RpcStatus(Code.DEADLINE_EXCEEDED, "the request did not come in time", b"")
_ONE_REQUEST = RpcStatus(Code.UNIMPLEMENTED, "this method takes one request", b"")
_NOT_WHOLE = RpcStatus(Code.INTERNAL, "the last message is not whole", b"")


def broken(error: FramingError, shared: Shared, peer: str) -> RpcStatus:
    """What is told to who broke them, if it was not by too much of something, which is a limit's."""
    if isinstance(error, TooLarge):
        return shared.exceeded(error.limit, str(error), peer)
    return RpcStatus(CODES[type(error)], str(error), b"")


class Wire(Protocol):
    """The connection of a call, as the call sees it."""

    def begin(self, call: "Call[Any]", message: bytes) -> None:
        """Have `call.run` called with that message when it is its turn."""

    def greet(self, call: "Call[Any]") -> None:
        """Write that the call has begun: some clients wait for that before they say anything."""

    def answer(self, call: "Call[Any]", message: bytes) -> None:
        """Write the only message, and end well."""

    def write(self, call: "Call[Any]", message: Sequence[bytes]) -> None:
        """Write one message, framed; `call.written` follows, never at once."""

    def end(self, call: "Call[Any]", trailers: Sequence[Header]) -> None:
        """End the stream once what was written has left; calls `call.stop`."""

    def taken(self, call: "Call[Any]", count: int) -> None:
        """The client may send so many bytes more."""

    def expect(self, call: "Call[Any]", *, is_owed: bool) -> None:
        """Note whether the client owes the rest of a request, for which it has not for ever."""

    def hold(self, change: int) -> None:
        """So many more bytes of it are held here."""


class Call(Generic[Kind]):
    """What is the same for all kinds."""

    __slots__ = (
        "_caller",
        "_has_begun",
        "_messages",
        "_method",
        "_shared",
        "_task",
        "_timer",
        "_untaken",
        "_until",
        "_wire",
        "answers_in",
        "has_answered",
        "held",
        "is_half_closed",
        "is_over",
        "stream_id",
    )
    takes_one = True

    def __init__(self, wire: Wire, shared: Shared, stream_id: int, method: Kind, head: Head, caller: Caller) -> None:
        self.stream_id = stream_id
        self.answers_in = head.answers_in
        self.held = 0  # bytes that its client sent and that are kept
        # What the connection keeps: whether the head of the answer is written, whether the client has ended its side.
        self.has_answered = False
        self.is_half_closed = False
        self.is_over = False
        self._wire = wire
        self._shared = shared
        self._method = method
        self._caller = caller
        self._messages = Messages(shared.limits.max_message_bytes, head.encoding)
        self._has_begun = False  # has taken its one message
        self._untaken = 0
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._until = None if head.timeout_s is None else shared.loop.time() + head.timeout_s

    # ---- what happens to it

    def begin(self) -> None:
        """Its headers have come, and the connection knows it."""
        if self.takes_one:
            self._wire.expect(self, is_owed=True)

    def data(self, data: bytes, *, is_last: bool) -> None:
        """A piece of its client's messages has come."""
        self._untaken += len(data)
        self._messages.feed(data)
        if is_last:
            self.half_close()
        elif self._messages.is_ready:
            self._go_on()
        else:
            self._let_more_come()
        self._count_held()

    def half_close(self) -> None:
        """Its client has said all it has to say."""
        self.is_half_closed = True
        if len(self._messages) and not self._messages.is_ready:
            self.fail(_NOT_WHOLE)
        else:
            self._go_on()

    def written(self) -> None:
        """What it wrote has left."""

    def end(self) -> None:
        """The server stops."""
        self.fail(shutting_down())

    def late(self) -> None:
        """The client has not said in time what it asks."""
        self.fail(_NOT_ASKED)

    def shed(self) -> None:
        """Too much is held, and this call holds more than others."""
        self.fail(self._shared.exceeded("max_held_bytes", "too much waits to become whole messages", self._caller.peer))

    def watch_deadline(self) -> None:
        """Start the timer of the deadline, if there is one to wait for."""
        if self._until is not None and not self.is_over and self._timer is None:
            self._timer = self._shared.loop.call_at(self._until, self.fail, _TOO_LATE)

    def stop(self) -> None:
        """It is over: nothing of it is left here."""
        self.is_over = True
        if self._task is not None:
            self._task.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._wire.expect(self, is_owed=False)
        self._let_more_come()
        if self.held:
            held, self.held = self.held, 0
            self._wire.hold(-held)

    def fail(self, status: RpcStatus) -> None:
        """End it with that status."""
        if not self.is_over:
            self._wire.end(self, trailers_of(status))

    def refuse(self, error: RequestError, /) -> None:
        """See table.Refusable."""
        self.fail(status_of(error))

    # ---- within

    def _go_on(self) -> None:
        """There is a message, or there will be none."""
        raise NotImplementedError

    def _take(self) -> bytes | None:
        """The next message; None if it is none, which ends the call."""
        try:
            message = self._messages.take()
        except FramingError as error:
            self.fail(broken(error, self._shared, self._caller.peer))
            return None
        if not self._messages.is_ready:
            self._let_more_come()
        self._count_held()
        return message

    def _take_only(self) -> bytes | None:
        """The one message of a call that has one; None where there is another number, which ends the call."""
        message = None
        if self._messages.is_ready and not self._has_begun:
            self._has_begun = True
            message = self._take()
        if not self.is_over and (not self._has_begun or len(self._messages)):
            self.fail(_ONE_REQUEST)
            return None
        return message

    def _let_more_come(self) -> None:
        """No message waits here: the client may send on."""
        if self._untaken:
            untaken, self._untaken = self._untaken, 0
            self._wire.taken(self, untaken)

    def _count_held(self) -> None:
        held = len(self._messages)
        if held == self.held or self.is_over:
            return
        change, self.held = held - self.held, held
        if not self.takes_one:
            self._wire.expect(self, is_owed=held > 0 and not self._messages.is_ready)
        self._wire.hold(change)

    def run(self, message: bytes) -> None:
        """Begin with a message."""
        self._task = self._shared.loop.create_task(self._carry_out(message))

    async def _carry_out(self, message: bytes) -> None:
        """Run the method, and go on with what it gives. It does not outlive the call."""
        try:
            answer = await self._work(message)
        except asyncio.CancelledError:
            self._task = None
            self.fail(internal())  # unless it is over, and was cancelled for that
            raise
        except Exception as error:
            self._task = None
            self.fail(status_of(error))
        else:
            self._task = None
            if not self.is_over:
                self._carried_out(answer)

    async def _work(self, message: bytes) -> bytes | None:
        """The method."""
        raise NotImplementedError

    def _carried_out(self, answer: bytes | None) -> None:
        """It is over, and gave that."""
        raise NotImplementedError


class UnaryCall(Call[Unary[Any]]):
    """One request, one answer."""

    __slots__ = ()

    def data(self, data: bytes, *, is_last: bool) -> None:
        """See Call. Nearly always it is the whole request: then nothing is kept, and half of the way is spared."""
        message = whole(data, self._messages.max_bytes) if is_last and not self.held and not self._has_begun else None
        if message is None:
            super().data(data, is_last=is_last)
            return
        self.is_half_closed = self._has_begun = True
        self._wire.taken(self, len(data))
        self._begin(message)

    def _go_on(self) -> None:
        if (message := self._take_only()) is not None:
            self._begin(message)

    def _begin(self, message: bytes) -> None:
        self._wire.expect(self, is_owed=False)
        self._wire.begin(self, message)

    def run(self, message: bytes) -> None:
        """See Call."""
        super().run(message)
        if self._until is not None:
            self._shared.begun(self)

    async def _work(self, message: bytes) -> bytes:
        return await self._method.call(parse(self._method.request, message), self._caller)

    def _carried_out(self, answer: bytes | None) -> None:
        self._wire.answer(self, answer or b"")


class OpenCall(Call[Kind]):
    """One that lives until one of both sides ends it."""

    __slots__ = ("_refusing",)

    def begin(self) -> None:
        """See Call."""
        self._refusing: tuple[RpcStatus, asyncio.TimerHandle] | None = None
        super().begin()

    def _keep(self) -> None:
        if not self.is_over:
            self._shared.streams.add(self)
            self.watch_deadline()

    def _refuse_at_once(self, error: Exception) -> None:
        """End a stream that may not begin, but not before its client has said something, or waits for us to: while one
        of grpc.aio writes its first message, it takes an end for an error of its own."""
        status = status_of(error)
        self._refusing = (status, self._shared.loop.call_later(REFUSAL_S, self.fail, status))

    def _is_refused(self) -> bool:
        """Whether it was to be refused, and is now."""
        if self._refusing is not None:
            self.fail(self._refusing[0])
        return self._refusing is not None

    def stop(self) -> None:
        """It is no open stream any more."""
        super().stop()
        self._shared.streams.discard(self)
        if self._refusing is not None:
            self._refusing[1].cancel()


class SinkCall(OpenCall[Kind]):
    """One that is sent messages by others: a table.Outlet."""

    __slots__ = ("_is_writing", "_subscription")

    def begin(self) -> None:
        """See Call."""
        self._is_writing = False
        self._subscription: Subscription | None = None
        super().begin()

    def send(self, chunks: Sequence[bytes]) -> None:
        """See hub.Sink."""
        self._is_writing = True
        self._wire.write(self, self._shared.framed(chunks, self.answers_in))

    def _subscribed(self, subscription: Subscription) -> None:
        if self.is_over:  # it was refused meanwhile
            subscription.leave()
        else:
            self._subscription = subscription

    def written(self) -> None:
        """The others may hand out more."""
        self._is_writing = False
        if self._subscription is not None:
            self._subscription.free()

    def stop(self) -> None:
        """It is sent nothing more."""
        super().stop()
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.leave()


class BroadcastCall(SinkCall[Broadcast[Any]]):
    """One request, and what the hub hands out. It takes its turn as a unary one does: to join may take a while, and who
    resets it before that has cost nobody anything."""

    __slots__ = ()

    def _go_on(self) -> None:
        if (message := self._take_only()) is not None:
            self._wire.expect(self, is_owed=False)
            self._wire.begin(self, message)

    def run(self, message: bytes) -> None:
        """See Call."""
        self._shared.loop.call_soon(self._join, message)  # as a task begins

    def _join(self, message: bytes) -> None:
        if self.is_over:
            return
        if self._shared.streams.is_stopping:
            self.end()
            return
        try:
            request = parse(self._method.request, message)
            self._subscribed(self._method.join(request, self._caller, self))
        except Exception as error:
            self.fail(status_of(error))
        else:
            self._keep()


class ConversationCall(OpenCall[Conversation[Any]]):
    """One answer to each request, one after the other: the next request is taken when the last answer has left."""

    __slots__ = ("_is_writing", "_leave")
    takes_one = False

    def begin(self) -> None:
        """See Call."""
        super().begin()
        self._is_writing = False
        self._leave: Callable[[], None] | None = None
        self._keep()
        self._wire.greet(self)
        if self._method.opened is not None:
            try:
                leave = self._method.opened(self._caller, self)
            except Exception as error:
                self._refuse_at_once(error)
            else:
                self._told_of(leave)

    def _told_of(self, leave: Callable[[], None]) -> None:
        if self.is_over:  # it was refused meanwhile
            leave()
        else:
            self._leave = leave

    def _go_on(self) -> None:
        if self._task is not None or self._is_writing or self.is_over or self._is_refused():
            return
        if self._messages.is_ready:
            if (message := self._take()) is not None:
                self.run(message)
        elif self.is_half_closed:
            self._wire.end(self, OK)

    async def _work(self, message: bytes) -> bytes:
        return await self._method.answer(parse(self._method.request, message), self._caller)

    def _carried_out(self, answer: bytes | None) -> None:
        self._is_writing = True
        self._wire.write(self, self._shared.framed((answer or b"",), self.answers_in))

    def written(self) -> None:
        """On with the next."""
        self._is_writing = False
        self._go_on()

    def stop(self) -> None:
        """Whoever was told of it is told that it is over."""
        super().stop()
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()


class SessionCall(SinkCall[Session[Any]]):
    """Both sides speak by themselves. The next request is taken when the last one was taken in."""

    __slots__ = ("_dialogue", "_turn")
    takes_one = False

    def begin(self) -> None:
        """See Call."""
        self._dialogue: Dialogue[Any] | None = None
        self._turn = NEVER
        super().begin()
        self._keep()
        self._wire.greet(self)
        try:
            dialogue = self._method.open(self._caller, self)
            self._subscribed(dialogue)
        except Exception as error:
            self._refuse_at_once(error)
        else:
            self._dialogue = None if self.is_over else dialogue

    def data(self, data: bytes, *, is_last: bool) -> None:
        """See Call. Nearly always it is one whole request, for which nobody waits: such as an acknowledgement, of which
        very many may come together. The first of a turn is taken in at once; for what comes behind it others wait."""
        is_free = self._dialogue is not None and self._task is None and not (self.held or is_last)
        message = whole(data, self._messages.max_bytes) if is_free and self._turn != self._shared.turn else None
        if message is None:
            super().data(data, is_last=is_last)
            return
        self._turn = self._shared.turn
        self._wire.taken(self, len(data))
        work = self._carry_out(message)
        if (waits_for := first_step(work)) is not DONE:
            self._task = self._shared.loop.create_task(Rest(work, waits_for))
            if self.is_over:  # it was refused meanwhile
                self._task.cancel()

    def _go_on(self) -> None:
        if self._task is not None or self.is_over or self._is_refused() or self._dialogue is None:
            return
        if self._messages.is_ready:
            if (message := self._take()) is not None:
                self.run(message)
        elif self.is_half_closed:
            self._dialogue.leave()
            if not self._is_writing:
                self._wire.end(self, OK)

    async def _work(self, message: bytes) -> None:
        if self._dialogue is not None:
            await self._dialogue.received(parse(self._method.request, message))

    def _carried_out(self, answer: bytes | None) -> None:
        self._go_on()

    def written(self) -> None:
        """See SinkCall."""
        super().written()
        if self.is_half_closed:
            self._go_on()

    def stop(self) -> None:
        """The dialogue ends."""
        super().stop()
        self._dialogue = None


KINDS: dict[type[Any], type[Call[Any]]] = {
    Unary: UnaryCall,
    Conversation: ConversationCall,
    Broadcast: BroadcastCall,
    Session: SessionCall,
}
