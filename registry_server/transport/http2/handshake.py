"""SHELL: clients whose TLS handshake is under way: how many there may be, for how long, and what is said of failures.

Each has its context when it comes: so files may change, and nobody who is connected notices. A handshake costs more
than a hundred calls: there are so many in a turn of the loop, and then others have theirs.
"""

import logging
import ssl
from collections import deque
from collections.abc import Callable
from functools import partial

from registry_server.transport.http2.connection import Connection
from registry_server.transport.http2.crowd import household, most_of
from registry_server.transport.http2.encrypted import Encrypted
from registry_server.transport.http2.shared import Shared, act

log = logging.getLogger(__name__)

# Steps of handshakes in a row, before others have their turn.
AT_ONCE = 4
# Who was refused may read why for so long, in seconds, unless it hangs up.
LAST_WORDS_S = 2

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

TOO_MANY = "has too many TLS handshakes under way (max_connections_per_peer): the first of them is given up"
HUNG_UP = "hung up within the TLS handshake: it may not accept this server's certificate"


class Handshakes:
    """All that are under way. `context` gives what a new one goes by, `admit` the connection of one that is done."""

    def __init__(self, shared: Shared, context: Callable[[], ssl.SSLContext], admit: Callable[[], Connection]) -> None:
        self._shared = shared
        self._context = context
        self._admit = admit
        self._under_way: dict[Encrypted, int] = {}  # each with its age in ticks
        self._households: dict[str, dict[Encrypted, None]] = {}
        self._due: deque[Encrypted] = deque()
        self._is_armed = False

    def begin(self) -> Encrypted:
        """One more. If there are too many clients, the one that has been at it for longest makes room."""
        clients = len(self._under_way) + len(self._shared.connections)
        if self._under_way and clients >= self._shared.limits.max_connections:
            self._give_up_one(next(iter(self._under_way)))
        client = Encrypted(self._context(), self._shared.buffer, self)
        self._under_way[client] = 0
        return client

    def tick(self) -> None:
        """A second has passed."""
        limits = self._shared.limits
        for client, age in list(self._under_way.items()):
            self._under_way[client] = age + 1
            if age >= (LAST_WORDS_S if client.is_refused else limits.handshake_s):
                log.debug("%s is given up: its TLS handshake has no end", client.peer)
                self._give_up_one(client)

    def give_up(self) -> None:
        """Hang up on all of them."""
        for client in list(self._under_way):
            self._give_up_one(client)

    def _give_up_one(self, client: Encrypted) -> None:
        self._forget(client)
        client.abort()

    def _forget(self, client: Encrypted) -> bool:
        """Whether it was known."""
        own = self._households.get(where := household(client.peer), {})
        own.pop(client, None)
        if not own:
            self._households.pop(where, None)
        return self._under_way.pop(client, None) is not None

    # ---- what clients tell

    def came(self, client: Encrypted) -> None:
        """It is there. Of one peer no more are under way than it may have connections: the first makes room."""
        if client not in self._under_way:  # it was given up before it had a socket
            client.abort()
            return
        own = self._households.setdefault(where := household(client.peer), {})
        own[client] = None
        if len(own) > most_of(where, self._shared.limits.max_connections_per_peer):
            self._shared.complain(client.peer, TOO_MANY)
            self._give_up_one(next(iter(own)))

    def is_due(self, client: Encrypted) -> None:
        """It has something for its handshake."""
        self._due.append(client)
        self._arm()

    def lost(self, client: Encrypted) -> None:
        """It hung up before it was let in. Who said nothing has only looked whether the port is open."""
        is_given_up = not self._forget(client)
        if client.has_spoken and not client.is_refused and not is_given_up:
            self._shared.complain(client.peer, HUNG_UP)

    def _arm(self) -> None:
        if self._due and not self._is_armed:
            self._is_armed = True
            self._shared.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._is_armed = False
        for _ in range(min(AT_ONCE, len(self._due))):
            client = self._due.popleft()
            act(client, partial(self._shake, client))
        self._arm()

    def _shake(self, client: Encrypted) -> None:
        if client not in self._under_way or client.is_refused:
            return
        try:
            is_done = client.shake()
        except ssl.SSLError as error:
            self._under_way[client] = 0
            self._shared.complain(client.peer, meaning(error))
            return
        if is_done:
            self._forget(client)
            client.let_in(self._admit())


def meaning(error: ssl.SSLError) -> str:
    """What a failed handshake says of the client."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"shows a certificate that is not accepted: {error.verify_message}"
    reason = error.reason or "unknown"
    said = reason.lower().replace("_", " ")
    return _MEANINGS.get(reason, f"does not get through the TLS handshake: {said}")
