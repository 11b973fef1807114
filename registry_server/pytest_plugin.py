"""SHELL: for users' tests: a registry in the process of the tests. pytest loads this by its entry point.

Nothing is imported before a test asks for it: an environment that merely has grpc-registry installed pays nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry_server.embedded import Clock


@pytest.fixture
def registry_clock() -> Clock:
    """The time by which leases of `registry` end and its checks look: `registry_clock.advance(30)`."""
    from registry_server.embedded import Clock

    return Clock()


@pytest.fixture
def registry(registry_clock: Clock) -> Iterator[str]:
    """The address, HOST:PORT, of a registry of the test's own, which runs in a thread until the test ends."""
    from registry_server.embedded import in_thread

    with in_thread(registry_clock) as address:
        yield address
