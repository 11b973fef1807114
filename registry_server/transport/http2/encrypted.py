"""SHELL: one client over TLS: what its socket sees as a protocol, and its connection as a transport.

Python's own way to do this throws away what OpenSSL has to say to a client that it refuses, tells nobody how a
handshake failed, and does as many of them in a row as there are.
"""

import asyncio
import contextlib
import logging
import ssl
from typing import Any, Protocol, cast

from registry_server.transport.http2.connection import Connection
from registry_server.transport.http2.shared import READ_BYTES, peer_of

log = logging.getLogger(__name__)

# More than a handshake takes.
MAX_UNSHAKEN_BYTES = 128 * 1024


class Porter(Protocol):
    """Who knows all handshakes."""

    def came(self, client: "Encrypted", /) -> None:
        """It is there, and its `peer` is known."""

    def is_due(self, client: "Encrypted", /) -> None:
        """Something has come: `shake` soon."""

    def lost(self, client: "Encrypted", /) -> None:
        """It hung up before it was let in."""


class Encrypted(asyncio.Transport, asyncio.BufferedProtocol):
    """Reads into `buffer`, which all connections share: what came is taken before anybody else reads."""

    def __init__(self, context: ssl.SSLContext, buffer: memoryview, porter: Porter) -> None:
        super().__init__()
        self.peer = ""
        self.has_spoken = self.is_refused = False
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._buffer = buffer
        self._porter = porter
        self._plain: asyncio.Transport | None = None
        self._connection: Connection | None = None
        self._is_ended = False  # nothing more is written

    # ---- the handshake

    def shake(self) -> bool:
        """Go on with the handshake; whether it is done. Raises SSLError when it failed: the client is told why, and
        may hang up."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError:
            self.is_refused = True
            raise
        finally:
            self._flush()
            if self.is_refused:
                self._end_writing()
        return True

    def let_in(self, connection: Connection) -> None:
        """The handshake is done: what comes from now on is for the connection."""
        if self.is_closing():
            return
        self._connection = connection
        connection.connection_made(self)
        self._pass_on()

    # ---- what the socket tells: a protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there."""
        self._plain = cast("asyncio.Transport", transport)
        self.peer = peer_of(transport)
        self._porter.came(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to put what comes."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take in what came."""
        if self.is_refused:
            return
        self._incoming.write(self._buffer[:nbytes])
        if self._connection is not None:
            self._pass_on()
            return
        self.has_spoken = True
        if self._incoming.pending > MAX_UNSHAKEN_BYTES:
            self.abort()
        else:
            self._porter.is_due(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        if self._connection is None:
            self._porter.lost(self)
        else:
            self._connection.connection_lost(exc)
        self._plain = self._connection = None

    def pause_writing(self) -> None:
        """It takes no more for now."""
        if self._connection is not None:
            self._connection.pause_writing()

    def resume_writing(self) -> None:
        """It does again."""
        if self._connection is not None:
            self._connection.resume_writing()

    def _pass_on(self) -> None:
        """Let the connection have what has come, in pieces of the size of its buffer."""
        try:
            # With a buffer, it gives how many bytes it has put there, whatever its stubs say.
            while self._connection is not None and (count := self._tls.read(READ_BYTES, self._buffer)):
                self._connection.buffer_updated(cast("int", count))
            self.close()  # the client has said farewell, or the connection has gone meanwhile
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            log.debug("the connection of %s is closed: %s", self.peer, error)
            self.abort()

    # ---- what the connection asks for: a transport

    def write(self, data: Any) -> None:
        """Encrypt and send."""
        if self._is_ended or self.is_closing():
            return
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            log.debug("the connection of %s is closed: %s", self.peer, error)
            self.abort()
        else:
            self._flush()

    def can_write_eof(self) -> bool:
        """As a plain one can."""
        return True

    def write_eof(self) -> None:
        """Say farewell. What still comes is read."""
        with contextlib.suppress(ssl.SSLError):  # whose own farewell we do not wait for
            self._tls.unwrap()
        self._flush()
        self._end_writing()

    def close(self) -> None:
        """Say farewell and close, once all is sent."""
        if self._plain is not None and not self._plain.is_closing():
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            self._flush()
            self._plain.close()

    def abort(self) -> None:
        """Close without a word."""
        if self._plain is not None:
            self._plain.abort()

    def is_closing(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._plain is None or self._plain.is_closing()

    def get_write_buffer_size(self) -> int:
        """How many bytes wait to be sent."""
        return 0 if self._plain is None else self._plain.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Of the socket, and of TLS `ssl_object` and `peercert`, in DER."""
        if name == "ssl_object":
            return self._tls
        if name == "peercert":
            return self._tls.getpeercert(binary_form=True)
        return default if self._plain is None else self._plain.get_extra_info(name, default)

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data and self._plain is not None and not self._is_ended and not self._plain.is_closing():
            self._plain.write(data)

    def _end_writing(self) -> None:
        self._is_ended = True
        if self._plain is not None and not self._plain.is_closing():
            with contextlib.suppress(OSError):  # the client has gone
                self._plain.write_eof()
