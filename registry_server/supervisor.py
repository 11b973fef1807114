"""SHELL: tells whoever started the server how it is, as systemd asks for it (sd_notify): a datagram for each change."""

import asyncio
import logging
import os
import socket
from collections.abc import MutableMapping

SOCKET, WATCHDOG, WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
# A supervisor that has not read for so long hears nothing; the server has more to do.
PATIENCE_S = 1.0

log = logging.getLogger(__name__)


class Supervisor:
    """Takes what it needs out of `env`: what this process starts is no business of its supervisor."""

    def __init__(self, env: MutableMapping[str, str]) -> None:
        self._address = _address(env.pop(SOCKET, ""))
        asked, whose = env.pop(WATCHDOG, ""), env.pop(WATCHDOG_PID, "")
        is_ours = whose in ("", str(os.getpid()))
        self._alive_s = int(asked) / 2e6 if is_ours and asked.isdecimal() else 0.0

    def say(self, *lines: str) -> None:
        """Tell it, if there is one. That it does not hear is told in the log, once."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
                to.settimeout(PATIENCE_S)
                to.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            log.warning("the supervisor at $%s cannot be told anything: %s", SOCKET, error.strerror or error)
            self._address = ""

    async def keep_alive(self) -> None:
        """Say in time that the event loop has turns, where the supervisor ends those who do not; until cancelled."""
        while self._address and self._alive_s:
            self.say("WATCHDOG=1")
            await asyncio.sleep(self._alive_s)


def _address(said: str) -> str:
    """Of a socket's file, or of one without a file, whose name begins with a zero byte; empty for what is neither."""
    return "\0" + said[1:] if said.startswith("@") else said if said.startswith("/") else ""
