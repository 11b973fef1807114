"""SHELL: Python's TLS as a server needs it: it says why it ends a handshake, and tells who has begun one.

asyncio throws away what OpenSSL has to say to a client that it refuses, so that the client learns nothing. What makes
the objects of a handshake is called by asyncio in the context of whoever asked for it: so they find their way back.
"""

import ssl
from contextvars import ContextVar
from typing import Protocol


class Shaker(Protocol):
    """A client whose handshake is under way."""

    has_spoken: bool

    def say_last(self, words: bytes, /) -> None:
        """Send that, now: the connection is about to be closed."""


# Whose handshake is about to begin.
BEGINNING: ContextVar[Shaker] = ContextVar("BEGINNING")


class _Object(ssl.SSLObject):
    outgoing: ssl.MemoryBIO
    _of: Shaker | None = None

    def do_handshake(self) -> None:
        """Called once at the beginning, and then whenever something has come."""
        if self._of is None:
            self._of = BEGINNING.get()
        else:
            self._of.has_spoken = True
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError:
            self._of.say_last(self.outgoing.read())
            raise


class ShakingContext(ssl.SSLContext):
    """For handshakes that are begun while BEGINNING is set."""

    sslobject_class = _Object

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """As for all contexts; what it is to send can be read from the object."""
        made = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        if isinstance(made, _Object):
            made.outgoing = outgoing
        return made
