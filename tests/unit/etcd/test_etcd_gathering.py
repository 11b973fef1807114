"""Renewals that come while others are on their way go together, and who renews alone waits for nobody."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import cast

import pytest

from registry_api.registry.etcd.v3 import etcd_pb2 as etcd
from registry_server.stores.etcd import renewals as module
from registry_server.stores.etcd.link import Link
from registry_server.stores.etcd.renewals import Renewals

NEVER_S = 3600.0


class Etcd:
    """A link whose stream answers each renewal, as soon as it may."""

    token = None

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []  # in which turn of the loop, and what
        self.turn = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self._answers: asyncio.Queue[int] = asyncio.Queue()

    async def count(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.turn += 1

    def open_renewals(self) -> "Etcd":
        return self

    async def write(self, request: etcd.LeaseKeepAliveRequest) -> None:
        self.asked.append((self.turn, request.id))
        self._answers.put_nowait(request.id)

    async def read(self) -> etcd.LeaseKeepAliveResponse:
        lease = await self._answers.get()
        await self.may_answer.wait()
        return etcd.LeaseKeepAliveResponse(id=lease, ttl=15)

    def cancel(self) -> bool:
        return True

    async def code(self) -> None:
        return None


@contextlib.asynccontextmanager
async def renewing() -> AsyncIterator[tuple[Etcd, Callable[[int], asyncio.Task[dict[int, float]]]]]:
    link = Etcd()
    renewals = Renewals(cast("Link", link), lambda took_s: None)
    running = [asyncio.create_task(it) for it in (renewals.run(), link.count())]
    try:
        yield link, lambda lease: asyncio.create_task(renewals.desk.renew([lease], NEVER_S, NEVER_S))
    finally:
        for task in running:
            task.cancel()
        await asyncio.wait(running)


async def turns(count: int) -> None:
    """So many turns of the loop pass, and no time."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_who_renews_alone_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GATHER_S", NEVER_S)
    async with renewing() as (_, renew), asyncio.timeout(30):
        for lease in (1, 2, 3):
            assert await renew(lease) == {lease: 15.0}


async def test_what_comes_while_others_are_on_their_way_goes_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GATHER_S", 0.5)
    async with renewing() as (link, renew), asyncio.timeout(30):
        link.may_answer.clear()
        waiting = [renew(1)]
        await turns(10)
        for lease in (2, 3, 4):
            waiting += [renew(lease)]
            await turns(5)
        assert [lease for _, lease in link.asked] == [1]
        link.may_answer.set()
        assert await asyncio.gather(*waiting) == [{lease: 15.0} for lease in (1, 2, 3, 4)]
        assert [lease for _, lease in link.asked] == [1, 2, 3, 4]
        assert len({turn for turn, _ in link.asked[1:]}) == 1
