"""The four kinds of methods, and the makers of their multi-callables that every channel has."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from balancer.channels.types import Deserializer, Serializer

M = TypeVar("M")


class Kind(enum.Enum):
    """What streams in a method; the value is what a channel calls it."""

    UNARY_UNARY = "unary_unary"
    UNARY_STREAM = "unary_stream"
    STREAM_UNARY = "stream_unary"
    STREAM_STREAM = "stream_stream"

    @property
    def streams_requests(self) -> bool:
        return self in (Kind.STREAM_UNARY, Kind.STREAM_STREAM)

    @property
    def streams_responses(self) -> bool:
        return self in (Kind.UNARY_STREAM, Kind.STREAM_STREAM)


class Signature:
    """One method of a service, as generated code describes it to a channel."""

    __slots__ = ("deserializer", "kind", "path", "registered", "serializer")

    def __init__(
        self,
        kind: Kind,
        path: str,
        serializer: Serializer | None,
        deserializer: Deserializer | None,
        registered: bool | None,
    ) -> None:
        self.kind = kind
        self.path = path
        self.serializer = serializer
        self.deserializer = deserializer
        self.registered = bool(registered)


Maker: TypeAlias = "Callable[..., M]"


def _maker(kind: Kind) -> Maker[M]:
    """A channel's method that makes the multi-callables of one kind."""

    def make(
        self: Makers[M],
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> M:
        return self.method(Signature(kind, method, request_serializer, response_deserializer, _registered_method))

    make.__name__ = kind.value
    return make


class Makers(Generic[M]):
    """A channel's makers of multi-callables, all by way of one method."""

    def method(self, signature: Signature) -> M:
        """The multi-callable of a method."""
        raise NotImplementedError

    unary_unary: Maker[M] = _maker(Kind.UNARY_UNARY)
    unary_stream: Maker[M] = _maker(Kind.UNARY_STREAM)
    stream_unary: Maker[M] = _maker(Kind.STREAM_UNARY)
    stream_stream: Maker[M] = _maker(Kind.STREAM_STREAM)
