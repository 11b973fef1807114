"""CORE: what a client may cost, by name: here before anybody looks at what it asks, where every transport keeps to what
it can; in `Quotas` what it may have, whatever the transport."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Self

from registry_server.limits.quotas import MAX_QUOTA, Quotas


@dataclass(frozen=True, slots=True)
class Limits(Quotas):
    """Safe for a server that anybody can reach, and out of the way of everybody else."""

    # A stream that is over counts among these until the server is done with it, so resetting streams brings no more.
    max_streams: int = 256
    max_message_bytes: int = 1024 * 1024
    max_header_bytes: int = 16 * 1024
    # Of all peers; never more than nine tenths of the files that the system lets this process have.
    max_connections: int = 20_000
    # Of all messages that have begun to come and are not whole, or wait for their turn; of all connections.
    max_held_bytes: int = 64 * 1024 * 1024
    # Answers of one connection that its client does not take; beyond it new calls are refused.
    max_unread_bytes: int = 16 * 1024 * 1024
    # Streams reset by their client: so many at once, and so many a second. Who hedges resets often.
    max_resets: int = 10_000
    max_resets_per_s: int = 1_000
    # Frames that ask for nothing (pings, settings, data without data) between two that do, a second.
    max_idle_frames: int = 1_000
    # Calls of one connection that are begun in a row, before others have their turn.
    max_begun: int = 32

    # In seconds: how long a connection may take to say what it is, and a call to say what it asks; after how long a
    # silence a ping is sent, and how long its answer may take; how long a connection may be without a call, and how
    # old it may become, 0 for as long as it likes.
    handshake_s: int = 10
    request_s: int = 60
    keepalive_s: int = 20
    keepalive_timeout_s: int = 5
    max_idle_s: int = 0
    max_age_s: int = 0
    # How long the calls of a connection that has to go may still take.
    leaving_s: int = 30

    @classmethod
    def named(cls, values: Mapping[str, object]) -> Self:
        """Limits of these names, the rest as usual. Raises ValueError, which begins with the name."""
        for name, value in values.items():
            if wrong := cls.wrong(name, value):
                raise ValueError(f"{name[:64]}: {wrong}")
        return cls(**{name: int(str(value)) for name, value in values.items()})

    @classmethod
    def wrong(cls, name: str, value: object) -> str:
        """What is wrong with a limit of that name; empty for nothing."""
        known = [field.name for field in fields(cls)]
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}"
            return f"no such limit; {hint}"
        least = 0 if name in MAY_BE_NONE else 1
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MAX_LIMIT:
            return f"must be a whole number from {least} to {MAX_LIMIT}"
        return ""


MAY_BE_NONE = ("max_idle_s", "max_age_s", "max_connections_per_peer", "max_memory_mib")
MAX_LIMIT = MAX_QUOTA
