"""Where names lead to, asked for in a few threads that nobody waits for."""

import asyncio
import socket
import threading
from collections.abc import Iterator, Sequence

import pytest

from registry_checks.names import Lookups
from tests.support.waiting import eventually_async


class NameServer:
    """Answers each name when the test says so."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._answers: dict[str, threading.Event] = {}

    def find(self, name: str) -> Sequence[str]:
        self.asked.append(name)
        assert self._of(name).wait(30)
        if name.startswith("no-"):
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return ("10.0.0.1",)

    def answer(self, *names: str) -> None:
        for name in names:
            self._of(name).set()

    def _of(self, name: str) -> threading.Event:
        return self._answers.setdefault(name, threading.Event())


@pytest.fixture
def server() -> Iterator[NameServer]:
    made = NameServer()
    yield made
    made.answer(*made.asked)


async def asked(server: NameServer, count: int) -> None:
    await eventually_async(lambda: len(server.asked) == count)


async def test_a_name_is_asked_for_once_whoever_waits_for_it_and_whoever_waits_no_more(server: NameServer) -> None:
    lookups = Lookups(find=server.find)
    tasks = [asyncio.create_task(lookups.addresses("a")) for _ in range(5)]
    await asked(server, 1)
    tasks.pop().cancel()
    server.answer("a")
    assert await asyncio.gather(*tasks) == [("10.0.0.1",)] * 4
    assert server.asked == ["a"]
    assert await lookups.addresses("a") == ("10.0.0.1",)
    assert server.asked == ["a", "a"]


async def test_so_many_are_asked_for_at_a_time_and_the_rest_afterwards(server: NameServer) -> None:
    lookups = Lookups(2, server.find)
    tasks = {name: asyncio.create_task(lookups.addresses(name)) for name in "abcd"}
    await asked(server, 2)
    server.answer("b", "c")
    await tasks["b"]
    await tasks["c"]
    await asked(server, 4)
    server.answer("a", "d")
    await asyncio.gather(*tasks.values())


async def test_names_for_which_nobody_waits_any_more_are_left_out(server: NameServer) -> None:
    lookups = Lookups(1, server.find)
    first = asyncio.create_task(lookups.addresses("a"))
    await asked(server, 1)
    given_up, last = (asyncio.create_task(lookups.addresses(name)) for name in ("b", "c"))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.wait([given_up])
    server.answer("a", "c")
    await asyncio.gather(first, last)
    assert server.asked == ["a", "c"]


async def test_slow_names_of_one_keep_nobody_waiting_who_has_lookups_of_his_own(server: NameServer) -> None:
    slow, others = Lookups(2, server.find), Lookups(2, lambda name: (name,))
    tasks = [asyncio.create_task(slow.addresses(f"slow-{number}")) for number in range(100)]
    await asked(server, 2)
    assert await others.addresses("quick") == ("quick",)
    assert await asyncio.to_thread(lambda: 1) == 1
    for it in tasks:
        it.cancel()
    await asyncio.wait(tasks)


async def test_what_is_wrong_with_a_name_is_told_and_addresses_are_asked_of_nobody(server: NameServer) -> None:
    server.answer("no-such")
    lookups = Lookups(find=server.find)
    with pytest.raises(socket.gaierror):
        await lookups.addresses("no-such")
    assert await lookups.addresses("::1") == ("::1",)
    with pytest.raises(OSError, match="no such host"):
        await Lookups().addresses("a" * 64 + ".example")
    assert "127.0.0.1" in await Lookups().addresses("localhost")


async def test_a_machine_without_threads_raises_nothing_and_asks_later(monkeypatch: pytest.MonkeyPatch) -> None:
    lookups = Lookups(find=lambda name: (name,))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _no_thread)
        waiting = asyncio.create_task(lookups.addresses("a"))
        await asyncio.sleep(0)
    assert await lookups.addresses("b") == ("b",)
    assert await waiting == ("a",)


def _no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
