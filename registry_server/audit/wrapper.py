"""SHELL: a table of methods whose writes are all told of, and how each ended."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

from google.protobuf import descriptor_pool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from registry_server.audit import lines
from registry_server.errors import RequestError
from registry_server.rpc.table import Caller, Method, Table, Unary

# Of the methods that need more than `read`, these change what lasts. A renewal does not.
WRITES = frozenset({"Register", "Update", "Deregister", "Put", "Delete"})
# So much is said of why a write was refused.
MAX_REASON = 1_000


class Scribe(Protocol):
    """Writes lines down."""

    def write(self, line: bytes, /) -> None:
        """Take a line, at once."""


class Audit(NamedTuple):
    """Who is told, in seconds of which wall clock, and what an error is called: by the name of its gRPC status."""

    scribe: Scribe
    now: Callable[[], float]
    name_of: Callable[[RequestError], str]


def audited(table: Table, audit: Audit) -> Table:
    """The same table, whose writes are told of."""
    return table.changed(lambda path, method: _audited(path, method, audit))


def is_write(name: str, method: Method) -> bool:
    """Whether a method is one that is told of."""
    return isinstance(method, Unary) and name in WRITES and method.needs.right not in (None, "read")


def _audited(path: str, method: Method, audit: Audit) -> Method:
    if not isinstance(method, Unary) or not is_write(path.rpartition("/")[2], method):
        return method
    return replace(method, call=_Audited(path.removeprefix("/"), method, audit).call)


class _Audited:
    """One method that writes; `what` is it by its full name."""

    def __init__(self, what: str, method: Unary[Any], audit: Audit) -> None:
        self._what = what
        self._call = method.call
        self._audit = audit
        found = descriptor_pool.Default().FindMethodByName(what.replace("/", "."))
        self._answers: type[Message] = GetMessageClass(found.output_type)

    async def call(self, request: Message, caller: Caller) -> bytes:
        """The method itself. Raises what that raises."""
        try:
            encoded = await self._call(request, caller)
        except asyncio.CancelledError:
            self._tell(request, caller, None, "CANCELLED", "nobody waited for the answer; it may have been done")
            raise
        except RequestError as error:
            self._tell(request, caller, None, self._audit.name_of(error), str(error))
            raise
        except Exception:
            self._tell(request, caller, None, "INTERNAL", "unexpected; it may have been done")
            raise
        self._tell(request, caller, self._answers.FromString(encoded), "OK", "")
        return encoded

    def _tell(self, request: Message, caller: Caller, answer: Message | None, outcome: str, reason: str) -> None:
        said: dict[str, object] = {"who": caller.identity, "from": caller.peer, "what": self._what}
        said |= lines.subject(request, answer)
        said |= {"revision": lines.revision(answer), "outcome": outcome}
        if reason:
            said["reason"] = reason[:MAX_REASON]
        self._audit.scribe.write(lines.line(self._audit.now(), said))
