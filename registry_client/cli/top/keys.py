"""CORE: keys, out of the bytes that a terminal sends."""

from __future__ import annotations

import re

# What stands after ESC [ or ESC O.
_NAMED = {"A": "up", "B": "down", "H": "home", "F": "end", "1~": "home", "4~": "end", "7~": "home", "8~": "end"}
_NAMED |= {"5~": "page up", "6~": "page down"}
_PLAIN = {"\r": "enter", "\n": "enter", "\x1b": "escape", "\x7f": "escape", "\x08": "escape", " ": " "}
_KEY = re.compile(r"\x1b[\[O](?P<code>[0-9;]*[ -/]*[@-~])|(?P<letter>[\s\S])")
# So much of a sequence may come without its end; more is none.
_UNFINISHED = re.compile(r"\x1b[\[O][0-9;]{0,16}$")


class Keys:
    """A sequence may come in two pieces."""

    def __init__(self) -> None:
        self._pending = ""

    def feed(self, data: bytes) -> list[str]:
        """The keys in it: letters, and the names of others. What no key here sends is left out."""
        text = self._pending + data.decode("ascii", errors="replace")
        unfinished = _UNFINISHED.search(text)
        self._pending = unfinished.group() if unfinished else ""
        whole = text[: unfinished.start()] if unfinished else text
        found = (_key(match) for match in _KEY.finditer(whole))
        return [key for key in found if key]


def _key(match: re.Match[str]) -> str:
    if (code := match["code"]) is not None:
        return _NAMED.get(code, "")
    letter = match["letter"]
    return _PLAIN.get(letter, letter if letter.isprintable() else "")
