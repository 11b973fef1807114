"""CORE: counts the calls of a table: by method, by code, by how long they took; and the streams that are open."""

from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from registry_server.errors import RequestError
from registry_server.metrics.times import Times
from registry_server.rpc.table import (
    Attended,
    AttendedDialogue,
    Broadcast,
    Caller,
    Conversation,
    Dialogue,
    Method,
    Outlet,
    Session,
    Subscription,
    Table,
    Unary,
)

OK = "OK"
INTERNAL = "INTERNAL"
CANCELLED = "CANCELLED"

_Answer = Callable[[Any, Caller], Coroutine[Any, Any, bytes]]


class Counted:
    """What was asked of one method. A message of a Conversation counts as a call."""

    __slots__ = ("begun", "failed", "is_stream", "open", "times")

    def __init__(self, *, is_stream: bool) -> None:
        self.failed: Counter[str] = Counter()
        self.begun = 0
        self.times = Times()
        self.is_stream = is_stream
        self.open = 0

    @property
    def codes(self) -> Counter[str]:
        """How many ended how; of streams, how many began. Those that went well are all others: nothing is counted twice
        where there are very many."""
        went_well = self.begun if self.is_stream else self.times.total - self.failed.total()
        return self.failed + Counter({OK: went_well})

    def left(self) -> None:
        """One of its streams is over."""
        self.open -= 1


class Calls:
    """All methods by path. `clock` gives monotonic seconds, `code_of` the name of gRPC's code for an error. `counts`:
    whether anybody wants to know; what is asked costs nothing more if not."""

    def __init__(
        self, clock: Callable[[], float], code_of: Callable[[RequestError], str], *, counts: bool = True
    ) -> None:
        self._counts = counts
        self._clock = clock
        self._code_of = code_of
        self.methods: dict[str, Counted] = {}

    def counted(self, table: Table) -> Table:
        """The same methods, which are counted."""
        return table.changed(self._method) if self._counts else table

    def _method(self, path: str, method: Method) -> Method:
        counted = self.methods[path] = Counted(is_stream=isinstance(method, Broadcast | Session))
        match method:
            case Unary(call=call):
                return replace(method, call=self._answering(counted, call))
            case Conversation(answer=answer):
                return replace(method, answer=self._answering(counted, answer))
            case Broadcast():
                return replace(method, join=self._joining(counted, method))
            case Session():
                return replace(method, open=self._opening(counted, method))

    def _answering(self, counted: Counted, answer: _Answer) -> _Answer:
        clock, failed, add, code_of = self._clock, counted.failed, counted.times.add, self._code

        async def timed(request: Any, caller: Caller) -> bytes:
            began = clock()
            try:
                answered = await answer(request, caller)
            except BaseException as error:
                failed[code_of(error)] += 1
                add(clock() - began)
                raise
            add(clock() - began)
            return answered

        return timed

    def _code(self, error: BaseException) -> str:
        if isinstance(error, RequestError):
            return self._code_of(error)
        return INTERNAL if isinstance(error, Exception) else CANCELLED

    def _joining(self, counted: Counted, method: Broadcast[Any]) -> Callable[[Any, Caller, Outlet], Subscription]:
        def joined(request: Any, caller: Caller, outlet: Outlet) -> Subscription:
            return Attended(self._began(counted, lambda: method.join(request, caller, outlet)), counted.left)

        return joined

    def _opening(self, counted: Counted, method: Session[Any]) -> Callable[[Caller, Outlet], Dialogue[Any]]:
        def opened(caller: Caller, outlet: Outlet) -> Dialogue[Any]:
            return AttendedDialogue(self._began(counted, lambda: method.open(caller, outlet)), counted.left)

        return opened

    def _began(self, counted: Counted, begin: Callable[[], Any]) -> Any:
        try:
            begun = begin()
        except BaseException as error:
            counted.failed[self._code(error)] += 1
            raise
        counted.begun += 1
        counted.open += 1
        return begun
