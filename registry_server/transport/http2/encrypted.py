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
from registry_server.transport.http2.shared import READ_BYTES, peer_of, rest

log = logging.getLogger(__name__)

# More than a handshake takes.
MAX_UNSHAKEN_BYTES = 128 * 1024
# What TLS adds to a record, at the most. A record with nothing in it, such as one that asks for new keys, is as long.
RECORD_BYTES = 32
# So much may come twice within so many seconds and bring nothing: half a record, and some hundred changes of keys, each
# of which costs more than a call. Nobody of good will changes them more often than once in millions of records.
MAX_EMPTY_BYTES, EMPTY_S = 32 * 1024, 1.0


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
        self._empty_bytes, self._empty_since = 0, 0.0

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
        self._empty_bytes = 0
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
        rest(self, nbytes)
        self._incoming.write(self._buffer[:nbytes])
        self._empty_bytes += nbytes
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
        count, is_open = READ_BYTES, True
        try:
            while count == READ_BYTES and is_open and self._connection is not None:
                count, is_open = self._decrypted()
                if count:
                    self._connection.buffer_updated(count)
        except ssl.SSLError as error:
            log.debug("the connection of %s is closed: %s", self.peer, error)
            self.abort()
            return
        if is_open:
            self._flush()
            self._look_for_nothing()
        else:
            self.close()  # the client has said farewell

    def _decrypted(self) -> tuple[int, bool]:
        """How much of what came is in the buffer, of as many records as fit; and whether more may come."""
        count = 0
        try:
            while count < READ_BYTES:
                # With a buffer, it gives how many bytes it has put there, whatever its stubs say.
                more = cast("int", self._tls.read(READ_BYTES - count, self._buffer[count:]))
                if not more:
                    return count, False
                count += more
                self._empty_bytes = max(0, self._empty_bytes - more - RECORD_BYTES)
        except ssl.SSLWantReadError:
            pass
        return count, True

    def _look_for_nothing(self) -> None:
        """Hang up on who sends records without end that bring nothing."""
        if self._empty_bytes > MAX_EMPTY_BYTES:
            now = asyncio.get_running_loop().time()
            if now < self._empty_since + EMPTY_S:
                log.debug("the connection of %s is closed: it sends records with nothing in them", self.peer)
                self.abort()
            self._empty_bytes, self._empty_since = 0, now

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

    def is_reading(self) -> bool:
        """Whether what comes is read."""
        return self._plain is not None and self._plain.is_reading()

    def pause_reading(self) -> None:
        """Read nothing for now."""
        if self._plain is not None:
            self._plain.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if self._plain is not None:
            self._plain.resume_reading()

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
