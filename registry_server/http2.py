"""SHELL: one end of a connection of libnghttp2 (PyPI's `ngh2`), which makes every byte of HTTP/2: server's or client's.

An asyncio protocol, in turns of the loop: what is to be sent is noted, and written in one go at the end of the turn.
Times are counted in ticks of a second, so that a standstill of this process is one.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

import ngh2
from ngh2 import events

# So much is written at a time, if the socket takes it.
WRITE_BYTES = 64 * 1024
# The library keeps what it gave last: it is asked again after more than this, though it may have nothing.
SMALL_WRITE_BYTES = 512

log = logging.getLogger(__name__)

# What to do with an event that the library has for an end.
Note = Callable[[Any, Any], None]


class Http2End(asyncio.BaseProtocol):
    """What both ends do alike. Whoever inherits says what events mean, and when a turn of the loop ends."""

    _NOTES: ClassVar[Mapping[type[events.Event], Note]]

    def __init__(self, role: ngh2.Role, config: ngh2.Configuration) -> None:
        self._h2 = ngh2.Connection(role, config)
        self._transport: asyncio.Transport | None = None
        self._is_paused = False
        self._is_touched = False
        self._silence = 0  # for how many ticks nothing has been heard

    def open(self, transport: asyncio.BaseTransport, settings: Mapping[ngh2.Setting, int], window: int) -> None:
        """Say our settings. `window`: what may come on all streams together before it was taken."""
        self._transport = cast("asyncio.Transport", transport)
        self._h2.initiate_connection(settings)
        self._h2.set_local_window_size(window)
        self._touch()

    def pause_writing(self) -> None:
        """The socket takes no more for now."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """It does again."""
        self._is_paused = False
        self._touch()

    def abort(self) -> None:
        """Close without a word."""
        if self._transport is not None:
            self._transport.abort()

    def flush(self) -> None:
        """Write what there is to write, as much as the socket takes."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        try:
            while not self._is_paused and (data := self._h2.data_to_send(WRITE_BYTES)):
                transport.write(data)
                if len(data) < SMALL_WRITE_BYTES:
                    break
        except ngh2.NGH2Error as error:
            self._give_up(str(error))

    def take_in(self, data: bytes | memoryview) -> bool:
        """Take in what came; whether it was HTTP/2."""
        self._silence = 0
        try:
            self._h2.receive_data(data)
        except ngh2.NGH2Error as error:
            self._give_up(str(error))
            return False
        self._note_events()
        return True

    def _note_events(self) -> None:
        for event in self._h2.events():
            note = self._NOTES.get(type(event))
            if note is not None:
                note(self, event)

    def _touch(self) -> None:
        if not self._is_touched:
            self._is_touched = True
            self._wait_for_end_of_turn()

    def _do(self, act: Callable[[], None]) -> None:
        """Do what may be too late."""
        try:
            act()
        except ngh2.NGH2Error as error:
            log.debug("too late: %s", error)
        self._touch()

    def _listen(self, keepalive_s: int, timeout_s: int) -> None:
        """A second has passed: who is silent for long is asked whether it is there, and has so long to answer."""
        self._silence += 1
        if self._silence > keepalive_s + timeout_s:
            self._give_up("it is silent")
        elif self._silence == keepalive_s:
            self._do(self._h2.ping)

    def _wait_for_end_of_turn(self) -> None:
        """Have `flush` called at the end of this turn, and `_is_touched` taken back."""
        raise NotImplementedError

    def _give_up(self, why: str) -> None:
        """Close at once: the other end is of no use."""
        raise NotImplementedError
