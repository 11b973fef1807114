"""SHELL: the stream on which leases are renewed: one for a link, shared by all who want something of it."""

import asyncio
import contextlib
from collections.abc import Callable

import grpc.aio

from registry_api.registry.etcd.v3 import etcd_pb2 as etcd
from registry_server.stores.etcd.api import RenewalCall
from registry_server.stores.etcd.link import Link, LinkLost, hang_up, together
from registry_server.stores.renewals import Desk

REOPEN_S = 0.2
# What is on its way before the first answer: enough to fill the way there and back, and no queue that others stand in.
MAX_ASKED = 256

# While some are on their way, what comes within so long goes together: each way to etcd and back costs this server as
# much as the renewal itself, and who renews alone waits for nothing.
GATHER_S = 0.005

_LOST_DETAILS = "Internal error from Core"  # what grpc.aio says instead when a write meets the end of a stream


class Renewals:
    """One LeaseKeepAlive stream for all leases, which are asked for at its desk.

    `on_answer` is called with the seconds that an answer took, before anybody gets it.
    """

    def __init__(self, link: Link, on_answer: Callable[[float], None]) -> None:
        self.desk: Desk[int] = Desk(MAX_ASKED, on_answer)
        self._link = link

    async def run(self) -> None:
        """Keep a stream open until cancelled. What breaks the stream alone (an election) does not break the link."""
        try:
            while True:
                await self._one_stream()
                await asyncio.sleep(REOPEN_S)
                self.desk.again()
        finally:
            self.desk.close()

    async def _one_stream(self) -> None:
        token = self._link.token
        call = self._link.open_renewals()
        try:
            await together(self._send(call), self._receive(call))
        except (grpc.aio.AioRpcError, LinkLost):
            pass  # the watch decides about the link
        finally:
            await hang_up(call)
        if self._link.is_stale_token(await call.details(), _LOST_DETAILS):
            await self._link.login(instead_of=token)

    async def _send(self, call: RenewalCall) -> None:
        # When writing fails the call has ended, and reading tells why: cancelling the reader would hide it.
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                await self.desk.may_ask.wait()
                if self.desk.is_busy:
                    await asyncio.sleep(GATHER_S)
                self.desk.may_ask.clear()
                while (lease := self.desk.next()) is not None:
                    await call.write(etcd.LeaseKeepAliveRequest(id=lease))

    async def _receive(self, call: RenewalCall) -> None:
        while isinstance(response := await call.read(), etcd.LeaseKeepAliveResponse):
            self.desk.answer(response.id, response.ttl)
        raise LinkLost("etcd ended the stream of renewals")
