"""CORE: reads what others wrote as JSON, which may be anything: what is not as it should be counts as left out."""

from collections.abc import Mapping, Sequence

from registry_server.neighbours.names import sound

Json = Mapping[str, object]


def table_in(it: object, name: str) -> Json:
    """The object under that name."""
    found = _in(it, name)
    return found if isinstance(found, Mapping) else {}


def list_in(it: object, name: str) -> Sequence[object]:
    """The list under that name."""
    found = _in(it, name)
    return found if isinstance(found, list) else ()


def text_in(it: object, name: str) -> str:
    """The text under that name, as it can be encoded."""
    found = _in(it, name)
    return sound(found) if isinstance(found, str) else ""


def number_in(it: object, name: str) -> int:
    """The whole number under that name."""
    found = _in(it, name)
    return found if isinstance(found, int) and not isinstance(found, bool) else 0


def _in(it: object, name: str) -> object:
    return it.get(name) if isinstance(it, Mapping) else None
