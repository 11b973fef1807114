"""SHELL: clients whose TLS handshake is under way: how many there may be, for how long, and what is said of failures.

Each has its context when it comes: so files may change, and nobody who is connected notices. When the server stops,
it knows them all.
"""

import asyncio
import contextlib
import logging
import os
import ssl
from collections.abc import Callable
from typing import cast

from registry_server.transport.http2.connection import Connection
from registry_server.transport.http2.shared import Shared, peer_of
from registry_server.transport.shaking import BEGINNING

log = logging.getLogger(__name__)

# What OpenSSL calls it, and what it means. The rest is said in OpenSSL's own words.
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG")
_MEANINGS = {
    **dict.fromkeys(_NO_TLS, "speaks no TLS, which this port asks for"),
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "shows no certificate, and clients need one here",
    "TLSV1_ALERT_UNKNOWN_CA": "does not know the authority of this server's certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "does not accept this server's certificate: it has expired",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "does not accept this server's certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "does not accept this server's certificate: it may be for another name",
}

HUNG_UP = "hung up within the TLS handshake: it may not accept this server's certificate"

Admit = Callable[[], Connection]


class Handshakes:
    """All that are under way. `context` gives what a new one goes by, `admit` the connection of one that is done."""

    def __init__(self, shared: Shared, context: Callable[[], ssl.SSLContext], admit: Admit) -> None:
        self.shared = shared
        self.context = context
        self.admit = admit
        self._under_way: dict[Handshake, None] = {}

    def begin(self) -> "Handshake":
        """One more. If there are too many clients, the one that has been at it for longest makes room."""
        if (
            self._under_way
            and len(self._under_way) + len(self.shared.connections) >= self.shared.limits.max_connections
        ):
            next(iter(self._under_way)).give_up()
        handshake = Handshake(self)
        self._under_way[handshake] = None
        return handshake

    def is_over(self, handshake: "Handshake") -> None:
        """Forget one."""
        self._under_way.pop(handshake, None)

    def give_up(self) -> None:
        """Hang up on all of them."""
        for handshake in list(self._under_way):
            handshake.give_up()


class Handshake(asyncio.Protocol):
    """One client from its coming until it is let in. What it says before its connection stands is kept for that."""

    def __init__(self, all_of_them: Handshakes) -> None:
        self._all = all_of_them
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._early = _Early()
        # See Shaker. Who merely looks whether the port is open has not spoken. gRPC's core and asyncio hang up where
        # others say what they do not like.
        self.has_spoken = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin. Nothing is read before the handshake does it."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.pause_reading()
        self._task = self._all.shared.loop.create_task(self._shake(self._transport))
        self._task.add_done_callback(self._done)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone before it said anything."""
        self._all.is_over(self)

    def give_up(self) -> None:
        """Hang up."""
        self._all.is_over(self)
        if self._task is not None:
            self._task.cancel()
        if self._transport is not None:
            self._transport.abort()

    def say_last(self, words: bytes) -> None:
        """See Shaker. Past the transport, which is closed before it would send anything."""
        if self._transport is not None and not self._transport.get_write_buffer_size():
            with contextlib.suppress(OSError):
                os.write(self._transport.get_extra_info("socket").fileno(), words)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._all.is_over(self)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a connection is given up", exc_info=error)
            self.give_up()

    async def _shake(self, plain: asyncio.Transport) -> None:
        limits, peer = self._all.shared.limits, peer_of(plain)
        BEGINNING.set(self)
        try:
            transport = await self._all.shared.loop.start_tls(
                plain,
                self._early,
                self._all.context(),
                server_side=True,
                ssl_handshake_timeout=limits.handshake_s,
                ssl_shutdown_timeout=limits.keepalive_timeout_s,
            )
        except OSError as error:  # an SSLError is one
            plain.abort()
            if what := meaning(error, has_spoken=self.has_spoken):
                self._all.shared.complain(peer, what)
            else:
                log.debug("%s gave up its TLS handshake: %s", peer, error)
            return
        if transport is not None and not self._early.is_lost:
            connection = self._all.admit()
            transport.set_protocol(connection)
            connection.connection_made(transport)
            self._early.pass_on(connection)


class _Early(asyncio.Protocol):
    """Takes what comes in the one turn of the loop between the handshake and its connection."""

    def __init__(self) -> None:
        self.is_lost = False
        self._said = b""

    def data_received(self, data: bytes) -> None:
        self._said += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True

    def pass_on(self, connection: Connection) -> None:
        """Let the connection have it, in pieces of the size of its buffer."""
        rest = memoryview(self._said)
        while rest:
            buffer = connection.get_buffer(len(rest))
            piece, rest = rest[: len(buffer)], rest[len(buffer) :]
            buffer[: len(piece)] = piece
            connection.buffer_updated(len(piece))


def meaning(error: OSError, *, has_spoken: bool) -> str:
    """What a failed handshake says of the client; empty for one that merely went away, or took too long."""
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return HUNG_UP if has_spoken else ""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"shows a certificate that is not accepted: {error.verify_message}"
    if not isinstance(error, ssl.SSLError) or error.reason is None:
        return ""
    return _MEANINGS.get(
        error.reason, f"does not get through the TLS handshake: {error.reason.lower().replace('_', ' ')}"
    )
