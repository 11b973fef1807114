"""SHELL: one method of a service on a balanced channel: what all of its calls have in common."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, cast

from balancer.calls.plan import PLAIN

if TYPE_CHECKING:
    from collections.abc import Callable

    from balancer.calls.replay import Kept
    from balancer.channels.engine import Engine
    from balancer.channels.kinds import Signature
    from balancer.channels.types import Arguments

N = TypeVar("N")
"""A plain channel's multi-callable."""


class Carrier(Protocol):
    """The connection to one endpoint, as far as a method needs it: what carries its calls."""

    closed: bool

    @property
    def channel(self) -> object:
        """A plain channel for first attempts."""

    @property
    def retries(self) -> object:
        """One for attempts that others went before."""


class BalancedMethod(Generic[N]):
    """What the service config says of the method, and its multi-callable on each connection."""

    def __init__(self, engine: Engine, signature: Signature) -> None:
        self.plan = PLAIN
        self.path = signature.path
        self.replay_limit: int | None = None
        """Bytes of requests to keep for another attempt; None: nothing tries again."""
        self.engine = engine
        self._signature = signature
        self._revision = -1
        self._firsts: dict[Carrier, N] = {}
        """For first attempts; and those for attempts that others went before."""
        self._laters: dict[Carrier, N] = {}
        self._lock = threading.RLock()
        self._replan()

    def _replan(self) -> None:
        """Takes over what the service config says of this method."""
        self._revision = self.engine.revision
        self._firsts, self._laters = {}, {}
        self.plan = plan = self.engine.plan(self._signature)
        self.replay_limit = None if plan.retrying is None else self.engine.settings.replay_limit

    def planned(self, arguments: Arguments) -> Arguments:
        """A call's arguments as the service config has them."""
        if self._revision != self.engine.revision:
            self._replan()
        return arguments if self.plan is PLAIN else (self.plan.timeout(arguments[0]), *arguments[1:])

    def at(self, connection: Carrier, again: bool) -> N:
        """This method's multi-callable on a connection; `again`: for attempts that others went before. Kept here: a
        connection outlives many stubs."""
        natives = self._laters if again else self._firsts
        return natives.get(connection) or self._made(connection, again)

    def _made(self, connection: Carrier, again: bool) -> N:
        signature = self._signature
        channel = connection.retries if again else connection.channel
        make = cast("Callable[..., N]", getattr(channel, signature.kind.value))
        with self._lock:
            natives = self._laters if again else self._firsts
            native = natives.get(connection)
            if native is None:
                native = make(
                    signature.path, self._serializer, signature.deserializer, _registered_method=signature.registered
                )
                for gone in [other for other in natives if other.closed]:
                    del natives[gone]
                natives[connection] = native
            return native

    @property
    def _serializer(self) -> Callable[..., object] | None:
        return self._signature.serializer

    def _encoded(self, kept: Kept) -> object:
        return kept.encoded(self._signature.serializer)
