"""How fast this machine is: bounds on processor time were measured on one machine, and are kept on all."""

import time

# What the piece of work took there, in seconds of the thread's own time.
THERE_S = 0.0016
TRIES = 5
# Who shares the processor and its caches, also from another virtual machine, is counted in the thread's own time.
NEIGHBOURS = 2.0


def here(seconds: float) -> float:
    """As many seconds of processor time as a step may take here, now, that takes so many at the most there."""
    return seconds * NEIGHBOURS * max(1.0, min(_work_s() for _ in range(TRIES)) / THERE_S)


def _work_s() -> float:
    began = time.thread_time()
    total = 0
    for number in range(50_000):
        total += number % 7
    return time.thread_time() - began
