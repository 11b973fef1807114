"""CORE: who a client is to its registry, and what it may do there."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry_api.registry.v1 import access_pb2 as pb


@dataclass(frozen=True, slots=True)
class WhoAmI:
    """Who somebody is to a registry. `asks`: whether it asks anybody; if not, everybody may do everything.

    `grants` are as they are written: `register default/player`. `expires` is when the token ends, None for never;
    `peer` is where the client calls from, `names` are those in the certificate that it showed.
    """

    identity: str
    grants: Sequence[str]
    asks: bool
    expires: datetime | None
    peer: str
    names: Sequence[str]

    @classmethod
    def from_proto(cls, message: pb.WhoAmIResponse) -> Self:
        """What the registry says. A time that is none is none."""
        expires = None
        if message.HasField("expires"):
            try:
                expires = message.expires.ToDatetime(UTC)
            except (ValueError, OverflowError):
                expires = None
        names = tuple(message.names)
        return cls(message.identity, tuple(message.grants), message.asks, expires, message.peer, names)
