"""SIGHUP: read again what may change, and go on; but not without the terminal that the server was started from."""

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Callable

from tests.conftest import ServerFactory
from tests.support.servers import ROOT
from tests.support.waiting import eventually

SAYS = "SIGHUP: certificates, keys and grants are read again"


def test_who_asks_for_files_to_be_read_again_ends_nothing(server_factory: ServerFactory) -> None:
    with server_factory() as server:
        for number in range(1, 3):
            os.kill(server.pid, signal.SIGHUP)
            eventually(_has(lambda: server.log_text, number), what="it says so")
        assert server.is_running
        assert server.terminate() == 0


def _has(text: Callable[[], str], count: int) -> Callable[[], bool]:
    return lambda: text().count(SAYS) == count


def test_who_has_lost_its_terminal_ends_in_order() -> None:
    """And who has one still does not: `kill -HUP` is no hang-up."""
    ours, its = pty.openpty()

    def take() -> None:
        os.setsid()
        fcntl.ioctl(its, termios.TIOCSCTTY, 0)

    command = [sys.executable, "-m", "registry_server", "--listen", "127.0.0.1:0", "--admin", "off"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=its, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=take
    ) as server:
        assert server.stdout is not None
        try:
            os.close(its)
            assert any("listening on" in line for line in server.stdout)
            server.send_signal(signal.SIGHUP)
            assert any(SAYS in line for line in server.stdout)
            os.close(ours)
            assert server.wait(30) == 0
            assert "the terminal is gone" in server.stdout.read()
        finally:
            server.kill()
