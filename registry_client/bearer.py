"""SHELL: the token that a client shows with each call: a text, what is in a file or a variable, or what is asked of a
function of its user, which may take its time, raise, or give nonsense.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from registry_client import checks
from registry_client.errors import InvalidArgument, RegistryUnavailable, WrongType

log = logging.getLogger(__name__)

Token: TypeAlias = str | Callable[[], str]
Metadata: TypeAlias = tuple[tuple[str, str], ...]

VARIABLE = "REGISTRY_TOKEN"
MAX_CHARS = 4096
# For so long a token that was asked for is shown again without asking.
FRESH_S = 10.0
# After so long it is asked for again, when it could not be had.
AGAIN_S = 1.0
# How long asking for one is waited for, while there is none.
PATIENCE_S = 5.0


def check_token(given: object) -> Token | None:
    """What `connect` takes; None is what the environment says. Nothing, too, for no token. Raises InvalidArgument.

    No message shows it.
    """
    if given is None:
        return _of_environment()
    if callable(given):
        return given  # what it gives is looked at each time
    if not isinstance(given, str) or not given:
        return _sendable(given) if given != "" else None
    kind, _, name = given.partition(":")
    if kind == "file" and name:
        return lambda: Path(name).read_text(encoding="utf-8-sig").strip()
    if kind == "env" and name:
        given = os.environ.get(name, "")
        if not given:
            raise checks.wrong("token", f"env: there is no variable {checks.shown(name)}")
    return _sendable(given)


def _of_environment() -> Token | None:
    try:
        return check_token(os.environ.get(VARIABLE, ""))
    except InvalidArgument as error:
        raise checks.wrong("token", f"${VARIABLE} {str(error).removeprefix('token: ')}") from None


def _sendable(token: object) -> str:
    if not isinstance(token, str):
        raise WrongType(f"token: must be a string, or a function that gives one, is {type(token).__name__}", "token")
    if not token.isascii() or not token.isprintable() or " " in token or not 0 < len(token) <= MAX_CHARS:
        raise checks.wrong("token", f"must be 1 to {MAX_CHARS} printable ASCII characters without blanks")
    return token


class Bearer:
    """Shows a token; of one client, in one event loop. One that was asked for is asked for again now and then."""

    def __init__(self, token: Token | None) -> None:
        self._ask = token if callable(token) else None
        self._shown: Metadata = _metadata(token) if isinstance(token, str) else ()
        self._is_refused = False
        self._ask_at_s = float("-inf")
        self._asking: asyncio.Future[str] | None = None
        self._trouble = ""

    async def metadata(self) -> Metadata:
        """What goes with a call. Raises RegistryUnavailable when a token is asked for and cannot be had."""
        loop = asyncio.get_running_loop()
        if self._ask is None:
            return self._shown
        if loop.time() >= self._ask_at_s:
            if self._asking is None:
                self._asking = _in_thread(self._ask, loop)
                self._asking.add_done_callback(self._take)
            if not self._shown or self._is_refused:
                await asyncio.wait([self._asking], timeout=PATIENCE_S)
        if not self._shown:  # without it, one would be nobody
            raise RegistryUnavailable(f"the token cannot be had: {self._trouble or 'asking for it takes too long'}")
        return self._shown

    def _take(self, asked: asyncio.Future[str]) -> None:
        now, self._asking = asked.get_loop().time(), None
        error = asked.exception()
        if error is None:
            self._shown, self._ask_at_s = _metadata(asked.result()), now + FRESH_S
            self._is_refused, self._trouble = False, ""
            return
        self._ask_at_s = now + AGAIN_S
        # What a user's function says may have the token in it; what reading a file says has not, nor what we say.
        trouble = str(error) if isinstance(error, OSError | _NoToken) else type(error).__name__
        if self._shown and trouble != self._trouble:
            log.warning("the token cannot be had, and the one before is shown on: %s", trouble)
        self._trouble = trouble

    def refused(self) -> bool:
        """The registry does not know it. Whether there may be another one by now, which is asked for then."""
        if self._ask is None or not self._shown or self._is_refused:
            return False
        self._is_refused, self._ask_at_s = True, float("-inf")
        return True


class _NoToken(Exception):
    """What was given cannot be one; the text says what one is."""


def _good(given: object) -> str:
    try:
        return _sendable(given)
    except InvalidArgument as error:
        raise _NoToken(str(error).removeprefix("token: ")) from None


def _metadata(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


def _in_thread(ask: Callable[[], str], loop: asyncio.AbstractEventLoop) -> asyncio.Future[str]:
    """What it gives. One that never comes back holds a thread that keeps nobody from ending."""
    future: asyncio.Future[str] = loop.create_future()

    def run() -> None:
        try:
            token = _good(ask())
        except BaseException as error:
            tell(future.set_exception, error if isinstance(error, Exception) else RuntimeError(type(error).__name__))
        else:
            tell(future.set_result, token)

    def tell(how: Callable[..., None], what: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(how, what)

    threading.Thread(target=run, name="registry-token", daemon=True).start()
    return future
