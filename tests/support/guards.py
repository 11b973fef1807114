"""What no test may leave behind, and no run under CI leave out. `tests/conftest.py` switches all of it on.

- Leaks: asyncio tasks, threads and gRPC channels that a test opened must be gone, or go within a moment, when it ends.
- Skips: with the environment variable CI set, a skip is a failure.
- Second chances: what fails is run once more, and what runs real processes on real clocks once more after that, since a
  busy machine may hold any of them up. What was run more than once is listed at the end: it is to be looked at.
- Failures show the logs of the processes that took part: of every fixture value with a `log_text`, and of every `*.log`
  in the test's `tmp_path`.
"""

import asyncio
import gc
import importlib
import inspect
import os
import re
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.source import ROOT

GRACE_S = 2.0
LOG_TAIL_CHARS = 6000
# Threads that belong to machinery that outlives a test: the completion queues of grpc.aio and of synchronous channels,
# xdist, and the loop's own executor, which the runner ends with the loop.
KNOWN_THREADS = re.compile(r"_poll_wrapper|channel_spin|execnet|^asyncio_\d+ ")
TESTS = ROOT / "tests"
FIXTURE = "guard_tasks"
TIMED = {
    "integration",
    "contract",
    "faults",
    "stateful",
}  # folders of tests that real processes and clocks take part in


# ---- skips


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    outcome = yield
    report = outcome.get_result()
    _refuse_skip(report)
    if report.failed:
        report.sections.extend(_logs(item))


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, None]:
    outcome = yield
    _refuse_skip(outcome.get_result())


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and CI allows no skips: {report.longrepr}"


# ---- logs


def _logs(item: pytest.Item) -> Iterator[tuple[str, str]]:
    for name, value in getattr(item, "funcargs", {}).items():
        if isinstance(text := getattr(value, "log_text", None), str):
            yield f"log of {name}", text[-LOG_TAIL_CHARS:]
        if name == "tmp_path" and isinstance(value, Path):
            yield from _log_files(value)


def _log_files(directory: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(directory.rglob("*.log")):
        yield f"log {path.name}", path.read_text(errors="replace")[-LOG_TAIL_CHARS:]


# ---- leaks


@pytest.fixture
async def guard_tasks() -> AsyncIterator[None]:
    """Fails a coroutine test that leaves tasks in its loop. `pytest_collection_modifyitems` puts it first."""
    before = asyncio.all_tasks()
    yield
    # The task that runs these lines is not the one that ran the lines above.
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=GRACE_S)
    if left:
        pytest.fail(f"leaves asyncio tasks: {sorted(map(repr, left))}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(TESTS) and item.get_closest_marker("flaky") is None:
            item.add_marker(pytest.mark.flaky(reruns=2 if item.path.relative_to(TESTS).parts[0] in TIMED else 1))
        if isinstance(item, pytest.Function) and _is_coroutine(item) and FIXTURE not in item.fixturenames:
            item.fixturenames.insert(0, FIXTURE)


def _is_coroutine(item: pytest.Function) -> bool:
    # Hypothesis wraps the coroutine function in a plain one; such a test gets no loop of ours between its examples.
    return inspect.iscoroutinefunction(item.obj)


@pytest.fixture(autouse=True)
def guard_threads_and_channels(open_channels: "weakref.WeakSet[object]") -> Iterator[None]:
    """Fails a test that leaves threads running or channels open."""
    threads = set(threading.enumerate())
    channels = set(map(id, open_channels))
    yield
    if left := _still_there(lambda: [t for t in threading.enumerate() if t not in threads and not _is_known(t)]):
        pytest.fail(f"leaves threads: {left}")
    if _new(open_channels, channels):
        gc.collect()  # what nobody holds closes itself
    if still := _new(open_channels, channels):
        open_channels.difference_update(still)
        pytest.fail(f"leaves {len(still)} gRPC channel(s) open: {still}")


def _is_known(thread: threading.Thread) -> bool:
    """Whether the thread is nobody's to end. One of gRPC's core that called Python once can be joined by nobody."""
    if isinstance(thread, threading._DummyThread):
        return True
    target = getattr(getattr(thread, "_target", None), "__qualname__", "")
    return not thread.is_alive() or bool(KNOWN_THREADS.search(f"{thread.name} {target}"))


def _still_there(look: Callable[[], list[threading.Thread]]) -> list[threading.Thread]:
    for thread in look():
        thread.join(GRACE_S)
    return look()


def _new(channels: "weakref.WeakSet[object]", known: set[int]) -> list[object]:
    return [channel for channel in channels if id(channel) not in known]


@pytest.fixture(scope="session")
def open_channels() -> Iterator["weakref.WeakSet[object]"]:
    """Every gRPC channel that was made and neither closed nor collected; gRPC keeps no such list."""
    alive: weakref.WeakSet[object] = weakref.WeakSet()
    classes = [importlib.import_module(name).Channel for name in ("grpc._channel", "grpc.aio._channel")]
    with pytest.MonkeyPatch.context() as patch:
        for kind in classes:
            _watch(kind, alive, patch)
        yield alive


def _watch(kind: type, alive: "weakref.WeakSet[object]", patch: pytest.MonkeyPatch) -> None:
    made, closed = kind.__init__, kind._close  # type: ignore[misc,attr-defined]

    def init(self: object, *args: object, **kwargs: object) -> None:
        made(self, *args, **kwargs)
        alive.add(self)

    def close(self: object, *args: object) -> object:
        alive.discard(self)
        return closed(self, *args)

    patch.setattr(kind, "__init__", init)
    patch.setattr(kind, "_close", close)
