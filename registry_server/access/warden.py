"""SHELL: asks every caller who it is, and whether it may: two functions from a table of methods to another one.

`identified` says who calls, and stands outside; `allowed` asks for the rights, and stands inside: what comes between
them is told who was refused. Streams that are open are known, and are asked again when what was granted changes.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from registry_server.access.identities import Access, Identities
from registry_server.errors import RequestError, Unauthenticated, Unavailable
from registry_server.rights import EVERY
from registry_server.rpc.table import (
    Attended,
    AttendedDialogue,
    Broadcast,
    Caller,
    Conversation,
    Credentials,
    Dialogue,
    Method,
    Needs,
    Outlet,
    Refusable,
    Session,
    Subscription,
    Table,
    Unary,
)

log = logging.getLogger(__name__)

# So many streams are asked again in a row, before others have their turn.
STREAMS_AT_ONCE = 200
# Streams that would show something else now end a few at once and the others one by one, so that not all their clients
# come back at the same time: so many a second, and all of them within so many seconds.
ENDS_AT_ONCE = 10
ENDS_PER_S = 1_000
MAX_SPREAD_S = 5.0
# How often the log tells of those who were turned away, in seconds.
TELL_S = 60.0

_CHANGED = "what you may see has changed: ask again"

Answering = Callable[[Any, Caller], Coroutine[Any, Any, bytes]]
Opened = TypeVar("Opened")


class Warden:
    """Who may do what, as of now. `clock` gives seconds since 1970, `monotonic` seconds that nobody sets, `key` is
    random and secret."""

    def __init__(self, access: Access, key: bytes, clock: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._key = key
        self._clock = clock
        self._identities = Identities(access, key)
        self._open: dict[_Open, None] = {}
        self._strangers = _Strangers(monotonic)

    def identified(self, table: Table) -> Table:
        """The methods of a table, called by somebody who is known."""
        return table.changed(lambda _, method: _identified(method, self.known))

    def allowed(self, table: Table) -> Table:
        """The methods of a table, called by somebody who may."""
        return table.changed(self._allowed)

    def grant(self, access: Access) -> None:
        """From now on these are known, and may do that. To be followed by `review`."""
        self._identities = Identities(access, self._key)

    def until(self, credentials: Credentials) -> float:
        """When what somebody shows ends, in seconds since 1970; infinite if it does not. Raises Unauthenticated."""
        return self._identities.of(credentials, self._clock()).until_s

    @property
    def is_due(self) -> bool:
        """Whether there is a stream of somebody whose token has ended."""
        now = self._clock()
        return any(it.until_s <= now for it in self._open)

    async def review(self) -> None:
        """Ask all streams again, some at a time: those end that may not go on, and, one after the other, those that
        would show something else now."""
        moved: list[_Open] = []
        for number, stream in enumerate(list(self._open), 1):
            if stream in self._open and self._ask_again(stream):
                moved.append(stream)
            if number % STREAMS_AT_ONCE == 0:
                await asyncio.sleep(0)
        self._end_by_and_by([it for it in moved if it in self._open and it.leaving is None])

    def _end_by_and_by(self, streams: "Sequence[_Open]") -> None:
        loop, error = asyncio.get_running_loop(), Unavailable(_CHANGED, 0.0)
        for stream in streams[:ENDS_AT_ONCE]:
            _end(stream, error)
        gap_s = min(1 / ENDS_PER_S, MAX_SPREAD_S / len(streams)) if streams else 0.0
        for number, stream in enumerate(streams[ENDS_AT_ONCE:], 1):
            stream.leaving = loop.call_later(number * gap_s, _end, stream, error)

    def tell(self) -> None:
        """Say in the log who was turned away, if it is time for it."""
        self._strangers.tell()

    def known(self, caller: Caller) -> Caller:
        """The caller, with who that is. Raises Unauthenticated."""
        try:
            it = self._identities.of(caller.credentials, self._clock())
        except Unauthenticated as error:
            self._strangers.note(caller.peer, str(error))
            raise
        return caller._replace(identity=it.identity, rights=it.rights)

    # ---- within

    def _ask_again(self, stream: "_Open") -> bool:
        """Whether it would show something else now. It ends, if it may not go on."""
        caller = stream.caller
        try:
            it = self._identities.of(caller.credentials, self._clock())
            stream.until_s = it.until_s
            if (it.identity, it.rights) == (caller.identity, caller.rights):
                return False
            stream.caller = caller._replace(identity=it.identity, rights=it.rights)
            stream.needs.check_names(stream.caller, stream.names)
        except RequestError as error:
            _end(stream, error)
            return False
        return stream.shows_some

    def _allowed(self, _path: str, method: Method) -> Method:
        needs = method.needs
        match method:
            case Unary(call=call):
                return replace(method, call=_asking(needs, call))
            case Conversation(answer=answer, opened=opened):
                return replace(method, answer=_asking(needs, answer), opened=self._opening(needs, opened))
            case Broadcast(join=join):
                return replace(method, join=self._joining(needs, join))
            case Session(open=open_):
                return replace(method, open=self._beginning(needs, open_))

    def _opening(
        self, needs: Needs, opened: Callable[[Caller, Refusable], Callable[[], None]] | None
    ) -> Callable[[Caller, Refusable], Callable[[], None]]:
        def told(caller: Caller, end: Refusable) -> Callable[[], None]:
            stream = _Open(end, caller, needs)
            leave = self._entering(stream, lambda: opened(caller, end) if opened else _nothing)

            def left() -> None:
                self._left(stream)
                leave()

            return left

        return told

    def _joining(
        self, needs: Needs, join: Callable[[Any, Caller, Outlet], Subscription]
    ) -> Callable[[Any, Caller, Outlet], Subscription]:
        def joined(request: Any, caller: Caller, outlet: Outlet) -> Subscription:
            stream = _Open(outlet, caller, needs, request)
            inner = self._entering(stream, lambda: join(request, caller, outlet))
            stream.shows_some = needs.is_some and any(EVERY in name for name in stream.names)
            return Attended(inner, lambda: self._left(stream))

        return joined

    def _beginning(
        self, needs: Needs, begin: Callable[[Caller, Outlet], Dialogue[Any]]
    ) -> Callable[[Caller, Outlet], Dialogue[Any]]:
        def begun(caller: Caller, outlet: Outlet) -> Dialogue[Any]:
            stream = _Open(outlet, caller, needs)
            inner = self._entering(stream, lambda: begin(caller, outlet))
            stream.shows_some = True
            return AttendedDialogue(inner, lambda: self._left(stream))

        return begun

    def _entering(self, stream: "_Open", begin: Callable[[], Opened]) -> Opened:
        """Begin a stream that may be, and know it from then on."""
        stream.needs.check_names(stream.caller, stream.names)
        stream.until_s = self.until(stream.caller.credentials)
        opened = begin()
        self._open[stream] = None
        return opened

    def _left(self, stream: "_Open") -> None:
        self._open.pop(stream, None)
        if stream.leaving is not None:
            stream.leaving.cancel()


class _Open:
    """A stream. `names` are what it needs a right to, in place of its request, which may be large; `shows_some` of one
    that shows what its caller may see, and so would show something else to another; `leaving`: when that is so, and its
    end is near."""

    __slots__ = ("caller", "end", "leaving", "names", "needs", "shows_some", "until_s")

    def __init__(self, end: Refusable, caller: Caller, needs: Needs, request: object = None) -> None:
        self.end = end
        self.caller = caller
        self.needs = needs
        self.names = () if needs.right is None else tuple(needs.of(request))
        self.shows_some = False
        self.until_s = 0.0
        self.leaving: asyncio.TimerHandle | None = None


def _end(stream: _Open, error: RequestError) -> None:
    """What goes wrong with one stream takes nothing from the others."""
    try:
        stream.end.refuse(error)
    except Exception:
        log.exception("a mistake of this server in ending a stream")


class _Strangers:
    """Who was turned away. There may be very many of them: the log tells of them in one line a minute."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._count = 0
        self._last = ("", "")
        self._at: float | None = None

    def note(self, peer: str, why: str) -> None:
        self._count += 1
        self._last = (peer, why)
        self.tell()

    def tell(self) -> None:
        now = self._clock()
        if self._count and (self._at is None or now >= self._at):
            log.warning("turned away: %s, at last %s; %d of late", *reversed(self._last), self._count)
            self._count, self._at = 0, now + TELL_S


def _identified(method: Method, known: Callable[[Caller], Caller]) -> Method:
    def asking(answer: Answering) -> Answering:
        async def asked(request: Any, caller: Caller) -> bytes:
            return await answer(request, known(caller))

        return asked

    match method:
        case Unary(call=call):
            return replace(method, call=asking(call))
        case Conversation(answer=answer, opened=opened):
            told = (lambda caller, end: opened(known(caller), end)) if opened else None
            return replace(method, answer=asking(answer), opened=told)
        case Broadcast(join=join):
            return replace(method, join=lambda request, caller, outlet: join(request, known(caller), outlet))
        case Session(open=begin):
            return replace(method, open=lambda caller, outlet: begin(known(caller), outlet))


def _asking(needs: Needs, answer: Answering) -> Answering:
    async def asked(request: Any, caller: Caller) -> bytes:
        needs.check(caller, request)
        return await answer(request, caller)

    return asked


def _nothing() -> None:
    """There is nothing to leave."""
