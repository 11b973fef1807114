"""SHELL: the clock by which ages are told."""

import time


def steady() -> float:
    """Seconds of a clock that nobody sets, and that goes on while the machine is suspended, where there is one."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)
