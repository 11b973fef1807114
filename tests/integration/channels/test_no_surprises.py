"""What an audit from outside found channels to do that native ones do not."""

import asyncio
import gc
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from balancer import StaticResolver, aio_channel, blocking_channel
from tests.support.interop_backend import SERVICE
from tests.support.interop_fleet import encoded, endpoints, fleet
from tests.support.interop_messages import Empty, TestStub
from tests.support.source import ROOT

HASHING = ("consistent_hash", "ip_hash", "locality_aware?child=consistent_hash")
CONFIG = '{"methodConfig": [{"name": [{}]}]}'


def test_a_service_config_costs_no_endpoint_its_turn(tmp_path: Path) -> None:
    """A call that picked twice gave every other endpoint nothing."""
    with fleet(tmp_path, 2) as servers:
        options = (("grpc.service_config", CONFIG),)
        with blocking_channel(StaticResolver(endpoints(servers)), policy="round_robin", options=options) as channel:
            grpc.channel_ready_future(channel).result(20)
            call = channel.unary_unary(f"/{SERVICE}/Call")
            before = _calls(channel)
            while len(before) < 2 or not all(before.values()):
                call(encoded({}), timeout=20, wait_for_ready=True)
                before = _calls(channel)
            for _ in range(20):
                call(encoded({}), timeout=20)
            after = _calls(channel)
            assert {address: after[address] - before[address] for address in after} == dict.fromkeys(after, 10)


def _calls(channel: Any) -> dict[str, int]:
    return {node.address: node.calls for node in channel.stats().nodes}


def test_closing_after_waiting_in_vain_ends() -> None:
    """The subscription of a future that was never fulfilled ends with the channel that lets go of it."""
    channel = blocking_channel("static://127.0.0.1:1")
    with pytest.raises(grpc.FutureTimeoutError):
        grpc.channel_ready_future(channel).result(0.3)
    channel.close()
    gc.collect()


LATE = """
import sys
from balancer import blocking_channel

sys.setswitchinterval(float(sys.argv[1]))
heard = [].append

class Last:
    def __del__(self):
        path = "/x.Y/Z"
        for begin in (
            lambda channel: channel.unary_unary(path)(b""),
            lambda channel: channel.unary_unary(path).future(b""),
            lambda channel: channel.unary_stream(path)(b""),
            lambda channel: channel.stream_unary(path)(iter([])),
            lambda channel: channel.stream_stream(path)(iter([])),
            lambda channel: channel.subscribe(heard),
        ):
            for channel in self.channels:
                self.refused(lambda: begin(channel))
        for call in self.calls:
            for ask in (call.code, call.details, call.initial_metadata, call.trailing_metadata):
                self.refused(ask)
        for ask in (self.calls[0].result, self.calls[0].exception, lambda: next(self.calls[1])):
            self.refused(ask)
        print([call.cancel() for call in self.calls], flush=True)
        for channel in self.channels:
            channel.why(), channel.stats()
            channel.unsubscribe(heard)
            channel.close()
        print("closed", flush=True)

    def refused(self, function):
        try:
            function()
        except RuntimeError as error:
            print(sys.is_finalizing(), str(error).partition(",")[0], flush=True)

last = Last()
last.channels = [blocking_channel("static://127.0.0.1:1") for _ in range(2)]
last.channels[0].subscribe(heard)
last.calls = [
    last.channels[0].unary_unary("/x.Y/Z").future(b"", wait_for_ready=True),
    last.channels[0].unary_stream("/x.Y/Z")(b"", wait_for_ready=True),
]
last.channels[0].unsubscribe(heard)
sys.modules["last"] = last  # goes last, when no thread runs any more
del last
"""


@pytest.mark.parametrize("turn_s", [0.00001, 0.005, 60], ids=lambda turn_s: f"turns of {turn_s} s")
def test_who_calls_as_the_interpreter_ends_waits_for_no_thread(turn_s: float) -> None:
    """None runs any more, and one may have gone with a lock in its hand: who waited for it would keep the process for
    ever. On a channel in use, and a fresh one."""
    late = [sys.executable, "-c", LATE, str(turn_s)]
    done = subprocess.run(late, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["True the interpreter is ending"] * 23 + ["[True, True]", "closed"], done.stderr


@pytest.mark.parametrize("policy", HASHING)
def test_a_channel_for_threads_gets_ready_without_a_call(tmp_path: Path, policy: str) -> None:
    with fleet(tmp_path, 2) as servers, blocking_channel(StaticResolver(endpoints(servers)), policy=policy) as channel:
        grpc.channel_ready_future(channel).result(20)


@pytest.mark.parametrize("policy", HASHING)
async def test_a_dead_endpoint_keeps_no_channel_from_getting_ready(tmp_path: Path, policy: str) -> None:
    with fleet(tmp_path, 1) as servers:
        for _ in range(6):
            target = f"static://127.0.0.1:1,{servers[0].address}"
            async with aio_channel(target, policy=policy) as channel:
                await asyncio.wait_for(channel.channel_ready(), 20)


def test_closing_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What gRPC's core tells late found the loop gone, and asyncio logged an error."""

    async def once() -> None:
        async with aio_channel(StaticResolver(endpoints(servers))) as channel:
            await channel.unary_unary(f"/{SERVICE}/Call")(encoded({}), timeout=20, wait_for_ready=True)

    with fleet(tmp_path, 2) as servers, caplog.at_level(logging.WARNING):
        for _ in range(15):
            asyncio.run(once())
            with blocking_channel(StaticResolver(endpoints(servers))) as channel:
                channel.unary_unary(f"/{SERVICE}/Call")(encoded({}), timeout=20, wait_for_ready=True)
    assert not caplog.records


@pytest.mark.parametrize("kind", ["call", "with_call", "future", "stream"])
def test_a_closed_channel_refuses_every_kind_of_call(kind: str) -> None:
    channel = blocking_channel("static://127.0.0.1:1")
    stub = TestStub(channel)
    channel.close()
    calls = {
        "call": lambda: stub.EmptyCall(Empty()),
        "with_call": lambda: stub.EmptyCall.with_call(Empty()),
        "future": lambda: stub.EmptyCall.future(Empty()),
        "stream": lambda: stub.FullDuplexCall(iter(())),
    }
    with pytest.raises(ValueError, match="closed channel"):
        calls[kind]()
