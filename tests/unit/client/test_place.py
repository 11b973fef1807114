"""Forks: what a process waits for before one, and for how long."""

import threading
from pathlib import Path

import pytest

from registry_client import place
from registry_client.place import Forks


def task(tasks: Path, number: int, name: str) -> Path:
    """A thread of that name, as Linux shows it."""
    (tasks / str(number)).mkdir()
    (tasks / str(number) / "comm").write_text(name + "\n")
    return tasks / str(number) / "comm"


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The threads of a process, as Linux shows them."""
    monkeypatch.setattr(place, "_TASKS", tmp_path)
    monkeypatch.setattr(place, "_LETS_GO_S", 60.0)
    task(tmp_path, 1, "python")
    return tmp_path


def test_a_fork_waits_for_the_threads_of_core(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [task(tasks, 2, "event_engine"), task(tasks, 3, "grpc_global_tim"), task(tasks, 4, "lifeguard")]
    looks: list[float] = []

    def one_ends(pause_s: float) -> None:
        looks.append(pause_s)
        names.pop().unlink()

    monkeypatch.setattr("registry_client.place.time.sleep", one_ends)
    forks = Forks()
    forks.before()
    assert not looks  # no client was closed: what is there is somebody else's
    forks.closed()
    forks.before()
    assert len(looks) == 3
    task(tasks, 5, "event_engine")
    forks.before()
    assert len(looks) == 3
    forks.in_child()
    assert not forks.spoiled


def test_a_fork_does_not_wait_for_ever(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else has a channel open."""
    task(tasks, 2, "event_engine")
    monkeypatch.setattr(place, "_LETS_GO_S", 0.0)
    forks = Forks()
    forks.closed()
    forks.before()


def test_a_fork_where_nobody_can_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "_TASKS", tmp_path / "none")
    forks = Forks()
    forks.closed()
    forks.before()


def test_a_child_of_a_process_that_polls_is_spoiled(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    poller = threading.Thread(target=over.wait, name="Thread-1 (_poll_wrapper)")
    poller.start()
    monkeypatch.setattr(place, "_LETS_GO_S", 0.0)
    forks = Forks()
    forks.closed()
    forks.before()
    forks.in_child()
    over.set()
    poller.join()
    assert forks.spoiled
