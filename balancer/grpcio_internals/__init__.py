"""SHELL: the one place that touches private names of grpcio: those in `NAMES`, each with a public way beside it.

A channel for threads tells its state by a thread of its own that looks five times a second, or when the core inside it
is asked, which takes half a microsecond and no thread. Where a grpcio has the name no more, or the channel is not
grpcio's own, the public way serves; so it does for an old grpcio, whose core goes on with a connection only while some
thread waits for it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = (("grpc.Channel", "_channel"), ("grpc._cython.cygrpc.Channel", "check_connectivity_state"))
"""Where each stands, and what it is called."""

_STATES = {state.value[0]: state for state in grpc.ChannelConnectivity}
_GOES_ON_BY_ITSELF = (1, 80)
_WRAPPERS = 16
"""Channels may stand in channels, as interceptors have it."""
LAST_LOOK_S = 0.45


def look_of(channel: grpc.Channel) -> Callable[[bool], grpc.ChannelConnectivity]:
    """A function that tells the channel's state as it is now; given True, it has an idle channel connect."""
    core: object = channel
    for _ in range(_WRAPPERS if _version() >= _GOES_ON_BY_ITSELF else 0):
        check = getattr(core, "check_connectivity_state", None)
        if check is not None:
            return lambda connect: _STATES[check(connect)]
        core = getattr(core, "_channel", None)
    return _Told(channel)


def _version() -> tuple[int, ...]:
    """Of grpcio; without what is no number."""
    return tuple(int(part) for part in grpc.__version__.split(".")[:2] if part.isdecimal())


async def ended(look: Callable[[bool], grpc.ChannelConnectivity]) -> None:
    """To be awaited before the channel that `look` looks at is closed."""
    if isinstance(look, _Told):
        look.end()
        await asyncio.sleep(LAST_LOOK_S)


class _Told:
    """The public way: a subscription, for as long as the channel lives."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._state = grpc.ChannelConnectivity.IDLE
        self._is_subscribed = False
        self._was_told = False

    def _tell(self, state: grpc.ChannelConnectivity) -> None:
        """What is told first is how it was before it was to connect."""
        if self._was_told or state is not grpc.ChannelConnectivity.IDLE:
            self._state = state
        self._was_told = True

    def end(self) -> None:
        """Nobody asks any more. grpcio's thread notices within `LAST_LOOK_S`, and must not find the channel closed."""
        self._channel.unsubscribe(self._tell)

    def __call__(self, connect: bool) -> grpc.ChannelConnectivity:
        begins = connect and self._state is grpc.ChannelConnectivity.IDLE
        if begins:  # grpcio's thread takes up to 0.2 s to notice, and an idle channel is one that need not be kept
            self._state = grpc.ChannelConnectivity.CONNECTING
        if not self._is_subscribed:
            self._is_subscribed = True
            self._channel.subscribe(self._tell, try_to_connect=begins)
        elif begins:
            self._channel.subscribe(_nothing, try_to_connect=True)
            self._channel.unsubscribe(_nothing)
        return self._state


def _nothing(_state: grpc.ChannelConnectivity) -> None:
    """Is told of the state, to no end."""
