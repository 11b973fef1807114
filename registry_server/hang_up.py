"""SHELL: SIGHUP. It ends a server whose terminal is gone; from anybody else it asks to read files again.

Nothing has to be done for that: whoever has a file that may change looks at it every second.
"""

import logging
import os
import signal
from collections.abc import Callable

log = logging.getLogger(__name__)

TERMINAL = "/dev/tty"


class HangUp:
    """Made when the process begins. `end` ends it in order."""

    def __init__(self, end: Callable[[], object]) -> None:
        self._end = end
        # Who was started by `nohup` is meant to stay.
        self._had_terminal = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _has_terminal()

    def came(self) -> None:
        """The signal came."""
        if self._had_terminal and not _has_terminal():
            log.info("SIGHUP: the terminal is gone, and so the server ends")
            self._end()
        else:
            log.info(
                "SIGHUP: certificates, keys and grants are read again whenever their files change, and an audit log"
                " that was moved is opened anew; whatever else is in the settings holds from the next start on"
            )


def _has_terminal() -> bool:
    try:
        os.close(os.open(TERMINAL, os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
