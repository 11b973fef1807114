"""SHELL: measures how late the event loop is and how much memory there is, for as long as the server runs."""

import asyncio
import time

from registry_server.limits.memory import memory_used
from registry_server.limits.overload import Overload
from registry_server.limits.refusals import Refusals

BEAT_S = 0.25
# Memory is looked at, and what is due is said, once in so many beats.
SELDOM = 4


async def keep_looking(overload: Overload, refusals: Refusals) -> None:
    """Tell both what they need to know, until cancelled."""
    beats = 0
    while True:
        began, busy = time.monotonic(), time.thread_time()
        await asyncio.sleep(BEAT_S)
        took = time.monotonic() - began
        overload.waited(took - BEAT_S, time.thread_time() - busy, took)
        beats += 1
        if beats % SELDOM == 0:
            refusals.look(time.monotonic())
            used = memory_used()
            if used is not None:
                overload.takes(used)
