"""What the connections of one server share: a mistake at one of them is that one's end alone."""

import asyncio
import random

import pytest

from registry_server.rpc.table import Table
from registry_server.transport.http2.shared import Shared
from registry_server.transport.limits import Limits
from registry_server.transport.streams import Streams


class Peer:
    """A connection that does as it is told. `fails` names the method that raises."""

    held = 0
    is_busy = False
    idleness = 0

    def __init__(self, fails: str = "") -> None:
        self.did: list[str] = []
        self._fails = fails

    def flush(self) -> None:
        self._do("flush")

    def settle(self) -> None:
        self._do("settle")

    def abort(self) -> None:
        self._do("abort")

    def tick(self) -> None:
        self._do("tick")

    def retire(self) -> None:
        self._do("retire")

    def end_calls(self) -> None:
        self._do("end_calls")

    def close(self) -> None:
        self._do("close")

    def shed(self) -> None:
        self._do("shed")

    def _do(self, what: str) -> None:
        self.did.append(what)
        if what == self._fails:
            raise ZeroDivisionError(what)


@pytest.mark.parametrize("fails", ["flush", "settle"])
async def test_a_mistake_at_one_connection_takes_nothing_from_others(
    fails: str, caplog: pytest.LogCaptureFixture
) -> None:
    shared = Shared(Table(), Streams(random.Random(0)), Limits())
    peers = [Peer(), Peer(fails), Peer()]
    for peer in peers:
        shared.touch(peer)
    await asyncio.sleep(0)
    assert [peer.did for peer in (peers[0], peers[2])] == [["flush", "settle"]] * 2
    assert "abort" in peers[1].did
    assert caplog.text.count("a connection is given up") == 1
    shared.touch(peers[2])
    await asyncio.sleep(0)
    assert peers[2].did == ["flush", "settle"] * 2
