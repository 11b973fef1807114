"""The contract suite runs once for every store in RUNNERS."""

from collections.abc import AsyncIterator

import pytest

from tests.support.stores import RUNNERS, Backends, Runner, Running, backends, running

__all__ = ["backends"]


@pytest.fixture(params=RUNNERS, ids=str)
def runner(request: pytest.FixtureRequest) -> Runner:
    """One kind of store."""
    chosen: Runner = request.param
    return chosen


@pytest.fixture
async def run(runner: Runner, backends: Backends) -> AsyncIterator[Running]:
    """A store of that kind, empty and running."""
    async with running(runner.open(backends)) as started:
        yield started
