"""The system gives no more threads, for a while: what waits for one goes on later, and nothing is broken for good."""

import threading
from collections.abc import Callable

import grpc
import pytest

from balancer import blocking_channel
from balancer.threads.subscribers import Connectivity
from balancer.threads.workers import Workers
from tests.support.waiting import eventually


def refuse(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """So many threads."""
    start, refused = threading.Thread.start, []

    def refusing(thread: threading.Thread) -> None:
        if len(refused) < most:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refusing)


def test_a_worker_is_had_later(monkeypatch: pytest.MonkeyPatch) -> None:
    later: list[Callable[[], object]] = []
    workers = Workers("test", later.append)
    refuse(monkeypatch, 2)
    done = [threading.Event(), threading.Event()]
    workers.run(done[0].set)
    later.pop()()
    assert not done[0].is_set()
    later.pop()()
    workers.run(done[1].set)
    assert all(it.wait(30) for it in done)
    assert not later
    workers.close()


def test_a_channel_that_could_not_be_opened_can_be_opened_later(monkeypatch: pytest.MonkeyPatch) -> None:
    with blocking_channel("static://127.0.0.1:1") as channel:
        refuse(monkeypatch, 1)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            channel.unary_unary("/x.Y/Z").future(b"")
        assert channel.unary_unary("/x.Y/Z").future(b"", timeout=0.01).exception(30) is not None


def test_subscribers_are_told_later(monkeypatch: pytest.MonkeyPatch) -> None:
    connectivity = Connectivity()
    told: list[grpc.ChannelConnectivity] = []
    refuse(monkeypatch, 1)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        connectivity.subscribe(told.append)
    connectivity.subscribe(told.append)
    eventually(lambda: len(told) == 2)
