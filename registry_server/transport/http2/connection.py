"""SHELL: one client: the server's end of one connection of libnghttp2.

All of the transport that knows the library is here. What it has to say is handed to the calls (calls.py) as it comes;
what they write is written once a turn of the loop.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import ngh2
from ngh2 import events

from registry_server.errors import LimitExceeded, Unavailable
from registry_server.http2 import Http2End, Note
from registry_server.rpc.table import Caller, Credentials
from registry_server.transport.http2.calls import KINDS, Call, broken
from registry_server.transport.http2.framing import (
    HEADS,
    IDENTITY,
    OK,
    FramingError,
    Head,
    Header,
    NotGrpc,
    ended_at_once,
    framed,
    read_head,
)
from registry_server.transport.http2.shared import GONE, Shared, names_of, peer_of, refusal, rest, trailers_of
from registry_server.transport.limits import Limits
from registry_server.transport.status import Code, RpcStatus, shutting_down, status_of

log = logging.getLogger(__name__)

# What a client may send on one stream before it was taken; on all of them together so much for each.
STREAM_WINDOW = 64 * 1024
# A call that holds no more is never given up for those that hold too much.
SMALL_BYTES = 16 * 1024
# Headers that are too large end their call; those that are so many times too large end the connection.
HARD = 4
# Who is refused all calls may ask for so long, in seconds; who has to make room is asked to stay away for so long.
REFUSED_S = 5
DISMISSED_S = 2.0
# All connections together may have so many times the unread answers of one.
ALL_UNREAD = 4
_UNREAD = "too many answers on this connection wait to be read"
# How a client begins that speaks TLS: with a record of a handshake.
_HELLO = b"\x16\x03"
# ... but our own client, which looks whether it is spoken when it is hung up on.
_LOOKS = b"grpc-registry-look"
_SPEAKS_TLS = "speaks TLS, which this port does not (--tls-cert)"
_MUTE = "hung up when it had seen the certificate, which may be for another name than the one that it called"
_LEAVING = RpcStatus(Code.UNAVAILABLE, "this connection ends; come back by another", b"")


def configuration(limits: Limits) -> ngh2.Configuration:
    """How the library guards a connection."""
    return ngh2.Configuration(
        auto_window_update=False,
        max_inbound_header_list_size=HARD * limits.max_header_bytes,
        stream_reset_rate_limit=(limits.max_resets, limits.max_resets_per_s),
    )


class Connection(Http2End, asyncio.BufferedProtocol):
    """A calls.Wire, and a shared.Peer."""

    def __init__(self, shared: Shared, config: ngh2.Configuration) -> None:
        super().__init__(ngh2.Role.SERVER, config)
        self._streams: dict[int, Call[Any] | None] = {}  # what is open; None once the call is over
        self.held = 0
        self._shared = shared
        self._caller = Caller("")
        # Who shows what, of the calls of late: mostly all of them show the same.
        self._showing: tuple[bytes | None, Caller] = (None, self._caller)
        self._is_closed = False  # the last words are written
        self._is_retiring = False
        # Calls that wrote and are told when it has left; streams that we ended and the client has not; calls whose
        # client owes the rest of a request, by the tick since when.
        self._writing: list[Call[Any]] = []
        self._lingering: set[int] = set()
        # Calls that wait for their turn, and how many have begun in this one.
        self._waiting: deque[tuple[Call[Any], bytes]] = deque()
        self._begun = 0
        self._owing: dict[Call[Any], int] = {}
        # In ticks: how old it is, how long there was no call, how long it has been leaving.
        self._age = self._idleness = 0
        self._left_at: int | None = None
        self._has_introduced_itself = False
        self._idle_frames = 0
        # Bytes of answers that the client has not taken, and for how many ticks it has taken none of them.
        self.unread = self.stuck_s = 0
        self._refusal: RpcStatus | None = None

    # ---- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say our settings."""
        limits = self._shared.limits
        peer = peer_of(transport, self._shared.next_number())
        self._caller = Caller(peer, credentials=Credentials(names=names_of(transport)))
        self._showing = (None, self._caller)
        settings = {
            ngh2.Setting.MAX_CONCURRENT_STREAMS: limits.max_streams,
            ngh2.Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            ngh2.Setting.MAX_HEADER_LIST_SIZE: limits.max_header_bytes,
        }
        self.open(transport, settings, STREAM_WINDOW * limits.max_streams)
        self._shared.came(self, peer)
        if peer == GONE:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """All calls are over."""
        if self._has_turned_away():
            self._shared.complain(self._caller.peer, _MUTE)
        self._transport = None
        self._shared.gone(self)
        self._count_unread(0)
        for call in self._calls():
            call.stop()
        self._streams.clear()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to put what comes."""
        return self._shared.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take in what came."""
        if self._is_closed:
            return
        rest(self._transport, nbytes)
        came = self._shared.buffer[:nbytes]
        if not self.take_in(came):
            if not self._has_introduced_itself and came[:2] == _HELLO and _LOOKS not in bytes(came):
                self._shared.complain(self._caller.peer, _SPEAKS_TLS)
            return
        if self._idle_frames > self._shared.limits.max_idle_frames:
            self._terminate(ngh2.ErrorCode.ENHANCE_YOUR_CALM)
        self._touch()

    # ---- a turn of the loop

    def settle(self) -> None:
        """Tell the calls what has left."""
        self._is_touched = False
        self._note_events()
        self._begun = 0
        if self._lingering:
            self._reset_lingering()
        unread = self._h2.queued_body_size()
        if unread != self.unread and not self._is_closed:
            self._count_unread(unread)
        if self._writing and not self._is_paused:
            self._tell_written(unread)
        if self._is_retiring and not self._streams:
            self.close()

    def _wait_for_end_of_turn(self) -> None:
        self._shared.touch(self)

    def _count_unread(self, unread: int) -> None:
        change, self.unread = unread - self.unread, unread
        if change < 0:
            self.stuck_s = 0
        self._shared.count_unread(change)

    def _tell_written(self, unread: int) -> None:
        """Tell the calls of which nothing waits in the library; mostly nothing waits at all."""
        writing, self._writing = self._writing, []
        for call in writing:
            if unread and self._h2.queued_body_size(call.stream_id):
                self._writing.append(call)
            elif not call.is_over:
                call.written()

    # ---- what calls do: a Wire

    def begin(self, call: Call[Any], message: bytes) -> None:
        """See Wire."""
        shared = self._shared
        if self._begun < shared.limits.max_begun and shared.pacing.room > 0 and not self._waiting:
            self._run(call, message)
        else:
            self._waiting.append((call, message))
            shared.wait_for_turn(self)

    def begin_next(self) -> bool:
        """See Peer."""
        while self._waiting:
            call, message = self._waiting.popleft()
            if not call.is_over:
                self._run(call, message)
                break
        return bool(self._waiting)

    def _run(self, call: Call[Any], message: bytes) -> None:
        self._begun += 1
        self._shared.pacing.room -= 1
        call.run(message)

    def greet(self, call: Call[Any]) -> None:
        """See Wire."""
        call.has_answered = True
        self._do(partial(self._h2.send_response, call.stream_id, HEADS[call.answers_in]))

    def answer(self, call: Call[Any], message: bytes) -> None:
        """See Wire."""
        if self._is_unread():
            self.end(call, trailers_of(self._shared.exceeded("max_unread_bytes", _UNREAD, self._caller.peer)))
            return
        stream, h2 = call.stream_id, self._h2
        self._streams[stream] = None
        try:
            h2.send_response(stream, HEADS[call.answers_in])
            h2.send_data(stream, framed(message, call.answers_in))
            h2.send_trailers(stream, OK)
        except ngh2.NGH2Error as error:
            log.debug("an answer to nobody: %s", error)
        if not call.is_half_closed:
            self._lingering.add(stream)
        call.stop()
        self._touch()

    def write(self, call: Call[Any], message: Sequence[bytes]) -> None:
        """See Wire."""
        stream, h2 = call.stream_id, self._h2
        try:
            if not call.has_answered:
                call.has_answered = True
                h2.send_response(stream, HEADS[call.answers_in])
            for chunk in message:
                h2.send_data(stream, chunk)
        except ngh2.NGH2Error as error:
            log.debug("a message to nobody: %s", error)
            return
        self._idle_frames = 0
        self._writing.append(call)
        self._touch()

    def end(self, call: Call[Any], trailers: Sequence[Header]) -> None:
        """See Wire."""
        self._streams[call.stream_id] = None
        try:
            if call.has_answered:
                self._h2.send_trailers(call.stream_id, trailers)
            else:
                self._h2.send_response(call.stream_id, (*HEADS[IDENTITY], *trailers), end_stream=True)
        except ngh2.NGH2Error as error:
            log.debug("a status for nobody: %s", error)
        if not call.is_half_closed:
            self._lingering.add(call.stream_id)
        call.stop()
        self._touch()

    def taken(self, call: Call[Any], count: int) -> None:
        """See Wire."""
        self._take(call.stream_id, count)

    def expect(self, call: Call[Any], *, is_owed: bool) -> None:
        """See Wire."""
        if is_owed:
            self._owing.setdefault(call, self._age)
        else:
            self._owing.pop(call, None)

    def hold(self, change: int) -> None:
        """See Wire."""
        self.held += change
        self._shared.hold(change)

    def shed(self) -> None:
        """Give up the calls that hold most, of half messages."""
        for call in [call for call in self._calls() if call.held > SMALL_BYTES]:
            call.shed()

    # ---- what the library tells

    def _note_request(self, event: events.RequestReceived) -> None:
        stream = event.stream_id
        try:
            head = read_head(event.headers, self._shared.limits.max_header_bytes)
        except NotGrpc as error:
            self._refuse(event, ended_at_once(Code.INVALID_ARGUMENT, str(error), http_status=error.http_status))
            return
        except FramingError as error:
            self._refuse(event, refusal(broken(error, self._shared, self._caller.peer)))
            return
        method = self._shared.methods.get(head.path)
        if method is None:
            self._refuse(event, refusal(RpcStatus(Code.UNIMPLEMENTED, "there is no such method", b"")))
        elif self._shared.streams.is_stopping:
            self._refuse(event, refusal(shutting_down()))
        elif self._refusal is not None:
            self._refuse(event, refusal(self._refusal))
            self.leave()
        else:
            caller = self._who(head)
            self._idle_frames = 0
            call = self._streams[stream] = KINDS[type(method)](self, self._shared, stream, method, head, caller)
            call.begin()
            if event.end_stream and not call.is_over:
                call.half_close()

    def _who(self, head: Head) -> Caller:
        shown, caller = self._showing
        if head.authorization != shown:
            caller = self._caller
            if head.authorization is not None:
                shows = caller.credentials.with_authorization(head.authorization.decode("latin-1"))
                caller = caller._replace(credentials=shows)
            self._showing = (head.authorization, caller)
        if head.traced is not None:
            parent, state = head.traced
            caller = caller._replace(traceparent=parent.decode("latin-1"), tracestate=state.decode("latin-1"))
        return caller if head.timeout_s is None else caller._replace(deadline_s=head.timeout_s)

    def _refuse(self, event: events.RequestReceived, headers: Sequence[Header]) -> None:
        try:
            self._h2.send_response(event.stream_id, headers, end_stream=True)
        except ngh2.StreamUnavailableError:
            return
        self._streams[event.stream_id] = None
        if not event.end_stream:
            self._lingering.add(event.stream_id)

    def _note_data(self, event: events.DataReceived) -> None:
        stream, data, is_last = event.stream_id, event.data, event.end_stream
        call = self._streams.get(stream)
        if call is not None:
            call.data(data, is_last=is_last)
        else:
            self._take(stream, len(data))
            if is_last:
                self._lingering.discard(stream)
        if not data and not is_last:
            self._idle_frames += 1

    def _note_trailers(self, event: events.TrailersReceived) -> None:
        call = self._streams.get(event.stream_id)
        if call is not None:
            call.half_close()
        self._lingering.discard(event.stream_id)

    def _note_closed(self, event: events.StreamClosed) -> None:
        call = self._streams.pop(event.stream_id, None)
        if call is not None:
            call.stop()
        self._lingering.discard(event.stream_id)

    def _note_settings(self, event: events.SettingsReceived) -> None:
        self._has_introduced_itself = True
        self._idle_frames += 1

    def _note_ping(self, event: events.PingReceived) -> None:
        self._idle_frames += 1

    def _note_end(self, event: events.ConnectionClosed) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close()

    _NOTES: ClassVar[Mapping[type[events.Event], Note]] = {
        events.RequestReceived: _note_request,
        events.DataReceived: _note_data,
        events.TrailersReceived: _note_trailers,
        events.StreamClosed: _note_closed,
        events.SettingsReceived: _note_settings,
        events.PingReceived: _note_ping,
        events.ConnectionClosed: _note_end,
    }

    # ---- its life

    def tick(self) -> None:
        """A second has passed."""
        limits = self._shared.limits
        self._age += 1
        self._idleness = 0 if self._streams else self._idleness + 1
        self._idle_frames = 0
        self.stuck_s = self.stuck_s + 1 if self.unread else 0
        self._listen(limits.keepalive_s, limits.keepalive_timeout_s)
        if self._is_closed and self._silence > limits.keepalive_timeout_s:
            self._give_up("it does not hang up")
        elif not self._has_introduced_itself and self._age > limits.handshake_s:
            self._give_up("it does not say what it is")
        if self._left_at is not None:
            self._go_on_leaving(self._age - self._left_at)
        elif 0 < limits.max_idle_s < self._idleness or 0 < limits.max_age_s < self._age:
            self.leave()
        elif self._refusal is not None and self._age > REFUSED_S:
            self.close()
        while self._owing and self._age - next(iter(self._owing.values())) > limits.request_s:
            next(iter(self._owing)).late()

    @property
    def is_busy(self) -> bool:
        """Whether it has a call."""
        return bool(self._streams)

    @property
    def idleness(self) -> int:
        """For how long there was no call, in seconds."""
        return self._idleness

    def leave(self) -> None:
        """Send the client away: it comes back by another connection, and its calls here may end as they like."""
        if self._left_at is None:
            self._left_at = self._age
            self._do(self._h2.send_shutdown_notice)

    def retire(self) -> None:
        """Close when the last call is over."""
        self._is_retiring = True
        self._touch()

    def end_calls(self) -> None:
        """The server stops: end the calls that are left, and close."""
        for call in self._calls():
            call.end()
        self.close()

    def refuse(self, limit: str, why: str) -> None:
        """See Peer."""
        self._refusal = status_of(LimitExceeded(limit, why))

    def dismiss(self, limit: str) -> None:
        """See Peer."""
        crowded = status_of(Unavailable(f"this server has to make room ({limit}); come back later", DISMISSED_S))
        for call in self._calls():
            call.fail(crowded)
        self.flush()  # before the last frame of all, behind which nothing is written
        transport, self._is_closed = self._transport, True
        self._count_unread(0)
        self._do(partial(self._h2.terminate_connection, ngh2.ErrorCode.NO_ERROR))
        self.flush()
        if transport is not None and not transport.get_write_buffer_size() and transport.can_write_eof():
            transport.close()
        else:
            self.abort()

    def close(self) -> None:
        """Say farewell and close when that is written."""
        self._terminate(ngh2.ErrorCode.NO_ERROR)

    def __str__(self) -> str:
        return self._caller.peer

    # ---- within

    def _calls(self) -> list[Call[Any]]:
        return [call for call in self._streams.values() if call is not None]

    def _go_on_leaving(self, for_s: int) -> None:
        if for_s == 1:  # what was under way to us when the client was told has come
            self._do(self._h2.send_goaway)
            self.retire()
        elif for_s > self._shared.limits.leaving_s:
            for call in self._calls():
                call.fail(_LEAVING)

    def _has_turned_away(self) -> bool:
        """Whether the client hung up between TLS and HTTP/2: gRPC looks only then at the name in the certificate."""
        is_mute = not (self._has_introduced_itself or self._is_closed) and self._age <= self._shared.limits.handshake_s
        return is_mute and self._transport is not None and self._transport.get_extra_info("ssl_object") is not None

    def _terminate(self, code: ngh2.ErrorCode) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._shared.going(self)
            self._do(partial(self._h2.terminate_connection, code))
            self.flush()
            self._hang_up()

    def _hang_up(self) -> None:
        """Nothing more is written. What still comes is read until the client hangs up, too: closing with something
        unread would take from it what it has not read yet."""
        transport = self._transport
        if transport is not None and not transport.is_closing():
            if not transport.can_write_eof():
                transport.close()
                return
            try:
                transport.write_eof()
            except OSError:  # the client has gone
                transport.abort()

    def _give_up(self, why: str) -> None:
        log.debug("the connection of %s is closed: %s", self._caller.peer, why)
        self.abort()

    def _take(self, stream: int, count: int) -> None:
        try:
            self._h2.acknowledge_received_data(count, stream)
        except ngh2.NGH2Error as error:
            log.debug("too late: %s", error)

    def _reset_lingering(self) -> None:
        """End the clients' side of streams that are over, once the end of ours has left."""
        over = [] if self._is_paused else [it for it in self._lingering if not self._h2.queued_body_size(it)]
        for stream in over:
            self._lingering.discard(stream)
            self._do(partial(self._h2.reset_stream, stream, ngh2.ErrorCode.NO_ERROR))

    def _is_unread(self) -> bool:
        """Whether more waits to be read than may."""
        unread, limit = self._h2.queued_body_size(), self._shared.limits.max_unread_bytes
        return unread > limit or (unread > STREAM_WINDOW and self._shared.unread > ALL_UNREAD * limit)
