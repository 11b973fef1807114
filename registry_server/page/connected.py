"""CORE: who is connected, as the page shows it: every stream that is open."""

from collections import Counter
from collections.abc import Iterable

from google.protobuf.message import Message as Request

from registry_server.audience import Attendant
from registry_server.hub import Reader
from registry_server.page.shown import Cells

# Of what a stream asks for, so much is shown.
MAX_WANTED = 160


def stream_row(it: Attendant) -> Cells:
    """Method, peer, identity, since when (ms since 1970), what it asks for, whether it has been told all."""
    method = it.path.rpartition(".")[2]
    return [method, it.caller.peer, it.caller.identity, round(it.opened_at * 1000), wanted(it.request), told(it.reader)]


def counts(streams: Iterable[Attendant]) -> dict[str, int]:
    """How many streams of each method there are."""
    return dict(Counter(it.path.rpartition(".")[2] for it in streams).most_common())


def wanted(request: object) -> str:
    """What a stream was opened with, in a line; empty for one that asks as it goes on."""
    if not isinstance(request, Request):
        return ""
    said = [f"{field.name}: {_plain(value)}" for field, value in request.ListFields() if field.name != "resume_token"]
    return ", ".join(said)[:MAX_WANTED]


def _plain(value: object) -> str:
    text = str(value) if isinstance(value, str | int | float | Request) else ", ".join(map(str, value))  # type: ignore[call-overload]
    return " ".join(text.split())


def told(reader: Reader | None) -> str:
    """How far a reader is."""
    if reader is None:
        return ""
    if reader.is_writing:
        return "being told"
    return "up to date" if reader.version == reader.subject.topic.version else "behind"
