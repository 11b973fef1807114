"""CORE: lists in pages. A page begins after a name, and its token is the name that the page before ended with."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from registry_server import fields
from registry_server.errors import InvalidField

# Clients take messages of up to 4 MiB by default.
MAX_PAGE_BYTES = 3 * 1024 * 1024
# What a message takes beside its own bytes where it is repeated: its number and its length.
FIELD_BYTES = 5

Item = TypeVar("Item")


def fitting(items: Sequence[Item], size: Callable[[Item], int], most: int | None = None) -> Sequence[Item]:
    """As many of them as fit into one message, but for one at least; `size` says how many bytes one is, `most`
    what all of them may be."""
    total = 0
    for count, item in enumerate(items):
        total += size(item) + FIELD_BYTES
        if total > (most or MAX_PAGE_BYTES) and count:
            return items[:count]
    return items


def start(token: str, namespace: str, names: int) -> tuple[str, ...]:
    """The full name after which a page begins: of its namespace and so many parts more; () for the first page.

    Of a list of one namespace the token does not name that. Raises InvalidField for a token that is none.
    """
    if not token:
        return ()
    parts = token.split("/")
    if len(parts) != names + (not namespace):
        raise InvalidField("page_token", "is not one that this list gave out")
    given = tuple(fields.name("page_token", part) for part in parts)
    return (namespace, *given) if namespace else given


def token(namespace: str, name: Sequence[str]) -> str:
    """For the page after that full name."""
    return "/".join(name[1:] if namespace else name)
