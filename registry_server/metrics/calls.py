"""CORE: counts the calls of a table: by method, by code, by how long they took; and the streams that are open."""

from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from registry_server.errors import RequestError
from registry_server.metrics.times import Times
from registry_server.rpc.table import (
    Broadcast,
    Caller,
    Conversation,
    Dialogue,
    Method,
    Outlet,
    Service,
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

    __slots__ = ("codes", "is_stream", "open", "times")

    def __init__(self, *, is_stream: bool) -> None:
        self.codes: Counter[str] = Counter()
        self.times = Times()
        self.is_stream = is_stream
        self.open = 0


class Calls:
    """All methods by path. `clock` gives monotonic seconds, `code_of` the name of gRPC's code for an error."""

    def __init__(self, clock: Callable[[], float], code_of: Callable[[RequestError], str]) -> None:
        self._clock = clock
        self._code_of = code_of
        self.methods: dict[str, Counted] = {}

    def counted(self, table: Table) -> Table:
        """The same methods, which are counted."""
        return Table(*map(self._service, table.services))

    def _service(self, service: Service) -> Service:
        methods = {name: self._method(f"/{service.name}/{name}", it) for name, it in service.methods.items()}
        return service._replace(methods=methods)

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
        clock, codes, add, code_of = self._clock, counted.codes, counted.times.add, self._code

        async def timed(request: Any, caller: Caller) -> bytes:
            began = clock()
            try:
                answered = await answer(request, caller)
            except BaseException as error:
                codes[code_of(error)] += 1
                add(clock() - began)
                raise
            codes[OK] += 1
            add(clock() - began)
            return answered

        return timed

    def _code(self, error: BaseException) -> str:
        if isinstance(error, RequestError):
            return self._code_of(error)
        return INTERNAL if isinstance(error, Exception) else CANCELLED

    def _joining(self, counted: Counted, method: Broadcast[Any]) -> Callable[[Any, Caller, Outlet], Subscription]:
        def joined(request: Any, caller: Caller, outlet: Outlet) -> Subscription:
            return _Stream(counted, self._began(counted, lambda: method.join(request, caller, outlet)))

        return joined

    def _opening(self, counted: Counted, method: Session[Any]) -> Callable[[Caller, Outlet], Dialogue[Any]]:
        def opened(caller: Caller, outlet: Outlet) -> Dialogue[Any]:
            return _Talk(counted, self._began(counted, lambda: method.open(caller, outlet)))

        return opened

    def _began(self, counted: Counted, begin: Callable[[], Any]) -> Any:
        try:
            begun = begin()
        except BaseException as error:
            counted.codes[self._code(error)] += 1
            raise
        counted.codes[OK] += 1
        counted.open += 1
        return begun


class _Stream:
    """One that counts as open until it is left: once, however often that is said."""

    __slots__ = ("_counted", "_inner", "free")

    def __init__(self, counted: Counted, inner: Subscription) -> None:
        self.free = inner.free
        self._inner = inner
        self._counted: Counted | None = counted

    def leave(self) -> None:
        if self._counted is not None:
            self._counted.open -= 1
            self._counted = None
        self._inner.leave()


class _Talk(_Stream):
    __slots__ = ("received",)

    def __init__(self, counted: Counted, inner: Dialogue[Any]) -> None:
        super().__init__(counted, inner)
        self.received = inner.received
