"""CORE: who said in a browser who they are: what a cookie there stands for, since no token belongs into one.

A cookie goes to every port of its host, whoever listens there. So what is in it is worth nothing elsewhere, and ends.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from registry_server.rpc.table import Credentials

# So many are known; who has not come back for longest is forgotten first.
MAX_SESSIONS = 1_000
# ... and of one token so many: who begins very many ends those of nobody else.
MAX_OF_ONE = 50
# How long one lasts, in seconds, however much it is used.
SESSION_S = 12 * 3600.0


class _Session(NamedTuple):
    credentials: Credentials
    until: float


class Sessions:
    """`clock` gives monotonic seconds, `new_id` a secret that nobody guesses."""

    def __init__(self, clock: Callable[[], float], new_id: Callable[[], str]) -> None:
        self._clock = clock
        self._new_id = new_id
        self._open: OrderedDict[bytes, _Session] = OrderedDict()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._open)

    def begin(self, credentials: Credentials) -> str:
        """Remember what somebody showed; gives what stands for it from now on."""
        id_ = self._new_id()
        of_one = [hashed for hashed, it in self._open.items() if it.credentials == credentials]
        if len(of_one) >= MAX_OF_ONE:
            del self._open[of_one[0]]
        self._open[_hashed(id_)] = _Session(credentials, self._clock() + SESSION_S)
        if len(self._open) > MAX_SESSIONS:
            self._open.popitem(last=False)
        return id_

    def credentials(self, id_: str) -> Credentials | None:
        """What was shown when the session began; None if there is no such one any more."""
        hashed = _hashed(id_)
        session = self._open.get(hashed)
        if session is None:
            return None
        if session.until <= self._clock():
            del self._open[hashed]
            return None
        self._open.move_to_end(hashed)
        return session.credentials

    def end(self, id_: str) -> None:
        """Forget it. Nothing if it is not known."""
        self._open.pop(_hashed(id_), None)


def _hashed(id_: str) -> bytes:
    """By which it is looked up: how long that takes tells nothing of the ids that there are."""
    return hashlib.sha256(id_.encode(errors="replace")).digest()
