"""SHELL: the process that a channel lives in: gRPC's threads end with it, and are not copied by a fork."""

from __future__ import annotations

import os
import threading
import types
import weakref
from typing import Protocol

INHERITED = (
    "the channel belongs to the process that this one was forked from: make it after the fork; see docs/processes.md"
)
GREENLETS = (
    "grpc.aio needs threads, and those of this process are greenlets (gevent or eventlet has patched `threading`),"
    " which would wait for each other for ever; see docs/processes.md"
)


class Begun(Protocol):
    """What was begun in this process."""

    def inherit(self) -> None:
        """This is a child by fork: it is the parent's."""


class Forks:
    """The channels that are at work in this process. A forked one has none, and leaves alone what it inherits.

    Their threads are gone there, locks may be held by them for ever, and the connections are the parent's: two that
    write to one spoil it for both.
    """

    def __init__(self) -> None:
        self._begun: weakref.WeakSet[Begun] = weakref.WeakSet()
        self._kept: list[Begun] = []

    def begun(self, channel: Begun) -> None:
        """It is at work from now on."""
        self._begun.add(channel)

    def in_child(self) -> None:
        """This is the child. What it inherits is kept, since freeing a channel closes its connections."""
        self._kept += self._begun
        self._begun = weakref.WeakSet()
        for channel in self._kept:
            channel.inherit()


# Of the process, as is what it tells of; changed by forks alone.
FORKS = Forks()
os.register_at_fork(after_in_child=FORKS.in_child)


def has_greenlets() -> bool:
    """Whether what `threading` starts are greenlets: something written in Python stands where the interpreter's was."""
    return isinstance(threading.get_ident, types.FunctionType)
