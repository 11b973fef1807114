"""What gRPC's core says in one test about another is no test's doing, and is not written down.

The queue of grpc.aio that all loops of a process share hands what ended to the loop that asked, also when that loop is
closed since: then asyncio logs "Event loop is closed", in whichever loop has just looked into the queue. Tests that
compare what they log or write to stderr would fail by it. That programs end without such a word is for
tests/integration/channels/test_quiet_ends.py to say, with processes of their own.
"""

import asyncio
import logging
from collections.abc import Iterator

import pytest

QUEUE = "PollerCompletionQueue._handle_events"


def is_of_another_loop(record: logging.LogRecord) -> bool:
    """Whether it tells of a callback of that queue that failed, because a loop is closed or took the news first."""
    error = record.exc_info[1] if record.exc_info else None
    is_closed = type(error) is RuntimeError and str(error) == "Event loop is closed"
    return QUEUE in record.getMessage() and (is_closed or isinstance(error, BlockingIOError))


def is_of_a_test(record: logging.LogRecord) -> bool:
    """The filter: everything else."""
    return not is_of_another_loop(record)


@pytest.fixture(scope="session", autouse=True)
def no_news_of_other_loops() -> Iterator[None]:
    """Leaves it out of asyncio's log for as long as there are tests."""
    logger = logging.getLogger(asyncio.__name__)
    logger.addFilter(is_of_a_test)
    yield
    logger.removeFilter(is_of_a_test)
