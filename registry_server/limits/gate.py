"""The limits of every call, on every transport alike: a function from one table of methods to another.

What is refused here costs little, and is counted by the limit that was reached; so is what the methods refuse
themselves.
"""

import dataclasses
import random
from collections.abc import Callable, Coroutine, Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from registry_server.errors import Contended, LimitExceeded, Unavailable, too_many_long
from registry_server.limits.accounts import Account, Accounts
from registry_server.limits.overload import Overload, Work
from registry_server.limits.peers import peer_of
from registry_server.limits.quotas import Quotas
from registry_server.limits.refusals import Refusals
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
from registry_server.turns import Turns

# Who is refused for overload is asked to stay away for so long, in seconds.
PAUSE_S = (1.0, 3.0)
MANY = 1_000
# Renewals, and who leaves, have an account of their own beside that of their peer: whatever else that asks, no lease is
# to run out for it.
RENEWING = " renewing"

# Neither refused nor counted: who asks whether the server lives must not take a busy one for dead.
NEVER_REFUSED = ("/grpc.health.v1.Health/Check",)
# What is asked by methods of these names; all others read.
WORK = {
    "KeepAlive": Work.RENEWAL,
    "Deregister": Work.RENEWAL,
    "Register": Work.WRITE,
    "Update": Work.WRITE,
    "Put": Work.WRITE,
    "Delete": Work.WRITE,
}

# Which requests may take many steps, by the names of methods: of very many leases, or telling of very many services. (A
# List may wait for a revision before it looks through very much, and takes its turn afterwards: rpc/registry.py.)
LONG: dict[str, Callable[[Any], bool]] = {
    "KeepAlive": lambda request: len(request.lease_ids) > MANY,
    "ListServices": lambda request: request.page_size > MANY,
}

# What stands in some filters and is none.
_NO_FILTER = frozenset(("namespace", "all_namespaces", "service", "since"))

Begun = TypeVar("Begun")
Answer = Callable[[Any, Caller], Coroutine[Any, Any, bytes]]


class Gate:
    """What is under way at one server, and what was refused. `now` is monotonic, in seconds."""

    def __init__(
        self, quotas: Quotas, refusals: Refusals, overload: Overload, now: Callable[[], float], rng: random.Random
    ) -> None:
        self.accounts = Accounts(quotas, now)
        self.refusals = refusals
        self.overload = overload
        self._now = now
        self._rng = rng
        self._turns = Turns()

    def limited(self, table: Table) -> Table:
        """The same methods, each within its limits."""
        return table.changed(self._method)

    def account(self, caller: Caller, work: Work) -> Account:
        """The account of a caller who may go on. Raises LimitExceeded, or Unavailable when there is too much to do."""
        if self.overload.level and self.overload.refuses(work):
            self.refusals.note("overload", self.overload.reason, caller.peer, self._now())
            raise Unavailable(f"{self.overload.reason}; try again later", self._rng.uniform(*PAUSE_S))
        peer = peer_of(caller.peer)
        account = self.accounts.of(peer if work is not Work.RENEWAL else peer + RENEWING)
        try:
            account.ask()
        except LimitExceeded as error:
            self.note(error, caller)
            raise
        return account

    def note(self, error: LimitExceeded, caller: Caller) -> None:
        """Count what a caller is refused."""
        self.refusals.note(error.subject, error.reason, caller.identity or caller.peer, self._now())

    @contextmanager
    def within(self, caller: Caller, work: Work) -> Iterator[None]:
        """The limits of one request that comes by another door than gRPC. Raises as `account`."""
        account = self.account(caller, work)
        account.requests += 1
        try:
            yield
        except LimitExceeded as error:
            self.note(error, caller)
            raise
        finally:
            account.requests -= 1

    # ---- within

    def _method(self, path: str, method: Method) -> Method:
        name = path.rpartition("/")[2]
        if path in NEVER_REFUSED:
            return method
        match method:
            case Unary():
                call = self._answering(self._in_turn(name, method.call), WORK.get(name, Work.READ))
                return dataclasses.replace(method, call=call)
            case Conversation():
                answer = self._answering(self._in_turn(name, method.answer), WORK.get(name, Work.READ))
                return dataclasses.replace(method, answer=answer)
            case Broadcast():
                return dataclasses.replace(method, join=self._joining(method))
            case Session():
                return dataclasses.replace(method, open=self._opening(method))

    def _answering(self, answer: Answer, work: Work) -> Answer:
        async def limited(request: Any, caller: Caller) -> bytes:
            account = self.account(caller, work)
            account.requests += 1
            try:
                return await answer(request, caller)
            except LimitExceeded as error:
                self.note(error, caller)
                raise
            finally:
                account.requests -= 1

        return limited

    def _in_turn(self, name: str, answer: Answer) -> Answer:
        """What may take many steps takes them one request after the other, of one peer: all other peers have a turn
        between two steps, and would wait for one of each request."""
        takes_long = LONG.get(name)
        if takes_long is None:
            return answer

        async def in_turn(request: Any, caller: Caller) -> bytes:
            if not takes_long(request):
                return await answer(request, caller)
            try:
                async with self._turns.of([(name, peer_of(caller.peer))]):
                    return await answer(request, caller)
            except Contended:
                raise too_many_long() from None

        return in_turn

    def _joining(self, method: Broadcast[Any]) -> Callable[[Any, Caller, Outlet], Subscription]:
        def limited(request: Any, caller: Caller, outlet: Outlet) -> Subscription:
            left = self._watching(caller, _question(request))
            return Attended(self._begun(left, caller, lambda: method.join(request, caller, outlet)), left)

        return limited

    def _opening(self, method: Session[Any]) -> Callable[[Caller, Outlet], Dialogue[Any]]:
        def limited(caller: Caller, outlet: Outlet) -> Dialogue[Any]:
            left = self._watching(caller, None)
            dialogue = self._begun(left, caller, lambda: method.open(caller, outlet))
            return AttendedDialogue(dialogue, left, self._receiving(dialogue, caller))

        return limited

    def _begun(self, left: Callable[[], None], caller: Caller, begin: Callable[[], Begun]) -> Begun:
        """A stream, unless it is refused within: then it has `left` already."""
        try:
            return begin()
        except BaseException as error:
            left()
            if isinstance(error, LimitExceeded):
                self.note(error, caller)
            raise

    def _receiving(self, dialogue: Dialogue[Any], caller: Caller) -> Callable[[Any], Coroutine[Any, Any, None]]:
        """What is said on a stream counts as requests."""

        async def received(request: Any) -> None:
            self.account(caller, Work.TALK)
            try:
                await dialogue.received(request)
            except LimitExceeded as error:
                self.note(error, caller)
                raise

        return received

    def _watching(self, caller: Caller, question: Hashable | None) -> Callable[[], None]:
        """A place among the watches; what is given is to be called once, when it is free again."""
        account = self.account(caller, Work.STREAM)
        try:
            self.accounts.watch(account, question)
        except LimitExceeded as error:
            self.note(error, caller)
            raise
        return partial(self.accounts.leave, account, question)


def _question(request: Any) -> Hashable | None:
    """The filter of a watch, if it has one that says anything: our client sends one always. Of what, and since when, is
    none: whoever asks for many services has one filter."""
    if not hasattr(request, "filter"):
        return None
    question = type(request.filter).FromString(request.filter.SerializeToString())
    for name in _NO_FILTER.intersection(question.DESCRIPTOR.fields_by_name):
        question.ClearField(name)
    return question.SerializeToString(deterministic=True) or None
