"""CORE: what somebody else calls a thing, as a name that it may have here."""

import hashlib
import re

from registry_api.limits import MAX_NAME, NAME

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.:@~+-]+")


def sound(text: str) -> str:
    """JSON can say halves of characters, which nobody can encode."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def name_for(text: str) -> str:
    """Another one, the same every time, for a name that is none here."""
    if NAME.fullmatch(text):
        return text
    clean = _NOT_IN_NAMES.sub("-", text)[: MAX_NAME - 20].lstrip(".:@~+-")
    return f"{clean or 'id'}-{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:16]}"
