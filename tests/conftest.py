"""Fixtures for every test, and the guards: no leaks, no skips under CI, logs shown on failure."""

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.guards import (
    guard_tasks,
    guard_threads_and_channels,
    open_channels,
    pytest_collection_modifyitems,
    pytest_make_collect_report,
    pytest_runtest_makereport,
)
from tests.support.noise import no_news_of_other_loops
from tests.support.servers import RegistryServer

__all__ = [
    "guard_tasks",
    "guard_threads_and_channels",
    "no_news_of_other_loops",
    "open_channels",
    "pytest_collection_modifyitems",
    "pytest_make_collect_report",
    "pytest_runtest_makereport",
]

# What a test measures it says itself; on a busy machine any example may take its time.
settings.register_profile("no deadlines", deadline=None)
settings.load_profile("no deadlines")

ServerFactory = Callable[..., RegistryServer]


def heed_signals() -> None:
    """What starts the tests may have them ignore signals, as a shell does Ctrl-C in the background and `nohup` SIGHUP,
    or hold them back, and so would every program that they start."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD, signal.SIGUSR1):
        if signal.getsignal(each) is signal.SIG_IGN:
            signal.signal(each, signal.default_int_handler if each is signal.SIGINT else signal.SIG_DFL)


if threading.current_thread() is threading.main_thread():
    heed_signals()


@pytest.fixture
def server_factory(tmp_path: Path) -> Iterator[ServerFactory]:
    """Makes registry servers, not started yet, with logs in `tmp_path`; all of them are gone when the test ends."""
    servers: list[RegistryServer] = []

    def make(**options: object) -> RegistryServer:
        options.setdefault("name", f"registry-server-{len(servers) + 1}")
        servers.append(RegistryServer(tmp_path, **options))  # type: ignore[arg-type]
        return servers[-1]

    yield make
    for server in servers:
        server.close()


@pytest.fixture
def registry_server(server_factory: ServerFactory) -> RegistryServer:
    """One registry server on the embedded store, ready."""
    return server_factory(name="registry-server").start()
