"""A signal handler runs in the middle of whatever its thread is doing: of a channel that is being opened, say, or of a
call that begins. It may close the channel there, cancel the call, or raise: nothing stays locked, and nobody waits for
ever.
"""

import subprocess
import sys
import threading

import grpc
import pytest

from balancer import blocking_channel
from balancer.policies.base import PickInfo
from balancer.pool.picker import Wait
from balancer.threads.channel import BalancedChannel
from tests.support.servers import ROOT

# `sys.setprofile` is told where Python looks for signals: at every call, and when one is over. The handler comes at one
# of these points after the other.
AT_EVERY_POINT = """
import faulthandler, sys

import grpc
from balancer import blocking_channel

def at(point, handler, operate):
    passed = 0
    def here(_frame, event, _of):
        nonlocal passed
        if event in ("call", "c_return"):
            passed += 1
            if passed == point:
                sys.setprofile(None)
                handler()
    try:
        sys.setprofile(here)
        operate()
    except (KeyboardInterrupt, ValueError, RuntimeError, grpc.RpcError):
        pass  # interrupted, or closed before or in the midst of it
    finally:
        sys.setprofile(None)
    return passed >= point

def interrupt():
    raise KeyboardInterrupt

class One:
    def __init__(self):
        self.channel = blocking_channel("static://127.0.0.1:1")
        self.call = None
    def future(self):
        self.call = self.channel.unary_unary("/x.Y/Z").future(b"", wait_for_ready=True)
        self.call.add_done_callback(id)
        self.channel.subscribe(id)
        self.channel.unsubscribe(id)
        self.call.cancel()
    def blocking(self):
        self.channel.unary_unary("/x.Y/Z")(b"", timeout=0.05)
    def cancel(self):
        if self.call is not None:
            self.call.cancel()
    def afterwards(self):
        try:
            self.channel.unary_unary("/x.Y/Z").future(b"", timeout=0.01).result(30)
        except (ValueError, grpc.RpcError):  # closed, or nobody there
            pass
        self.channel.close()

sys.unraisablehook = id  # what asyncio's own `__del__` says of a loop that was never whole
point, stride = 1, int(sys.argv[3])
while True:
    faulthandler.dump_traceback_later(40, exit=True)
    one = One()
    handler = {"close": one.channel.close, "cancel": one.cancel, "interrupt": interrupt}[sys.argv[2]]
    more = at(point, handler, getattr(one, sys.argv[1]))
    one.afterwards()
    if not more:
        break
    point += stride
print("points passed:", point > 150)
"""


@pytest.mark.parametrize(
    ("operation", "handler"),
    [
        ("future", "close"),
        ("future", "cancel"),
        ("future", "interrupt"),
        ("blocking", "close"),
        ("blocking", "interrupt"),
    ],
)
def test_a_signal_handler_may_come_at_any_point(operation: str, handler: str) -> None:
    arguments = [sys.executable, "-c", AT_EVERY_POINT, operation, handler, "13"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.stdout == "points passed: True\n", done.stderr
    assert "balancer" not in done.stderr  # no thread and no callback failed


class ClosesMeanwhile:
    """A picker that knows of nobody, and that somebody closes the channel of as it is asked."""

    def __init__(self, channel: BalancedChannel) -> None:
        self._channel = channel

    def pick(self, info: PickInfo, now: float) -> Wait:
        closing = threading.Thread(target=self._channel.close)
        closing.start()
        closing.join()
        return Wait()


def test_a_call_does_not_wait_for_a_loop_that_is_gone() -> None:
    """The channel is closed while a call asks where to go: nobody would wake it any more, not even its deadline."""
    channel = blocking_channel("static://127.0.0.1:1")
    assert channel.unary_unary("/x.Y/Z").future(b"", timeout=0.01).exception(30) is not None
    channel.engine.picker = ClosesMeanwhile(channel)
    call = channel.unary_unary("/x.Y/Z").future(b"", timeout=30, wait_for_ready=True)
    assert call.code() is grpc.StatusCode.CANCELLED
