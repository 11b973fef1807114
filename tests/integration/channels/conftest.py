"""Back ends for the channel tests."""

from collections.abc import Iterator

import pytest

from tests.support.interop import interop_server


@pytest.fixture(scope="session")
def interop_port() -> Iterator[int]:
    """The port of one grpc-go interop server."""
    with interop_server() as port:
        yield port


@pytest.fixture(scope="session")
def interop_target(interop_port: int) -> Iterator[str]:
    """A balanced target of two back ends: the one of `interop_port` and another like it."""
    with interop_server() as other:
        yield f"static://127.0.0.1:{interop_port},127.0.0.1:{other}"
