"""CORE: who is connected, as the page shows it: every stream that is open."""

from collections import Counter
from collections.abc import Iterable

from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.audience import Attendant
from registry_server.hub import Reader
from registry_server.page.shown import Cells

# Of what a stream asks for, so much is shown, and so many names.
MAX_ASKED, MAX_NAMES = 160, 10
_OWN = "registry.v1.Registry/"


def stream_row(it: Attendant) -> Cells:
    """Method, peer, identity, since when (ms since 1970), what it asks for, whether it has been told all."""
    opened_ms, asked = round(it.opened_at * 1000), asked_of(it.request)
    return [method_of(it), it.caller.peer, it.caller.identity, opened_ms, asked, told(it.reader)]


def counts(streams: Iterable[Attendant]) -> dict[str, int]:
    """How many streams of each method there are."""
    return dict(Counter(map(method_of, streams)).most_common())


def method_of(it: Attendant) -> str:
    """As people call it: a method of another service than Registry with that service's name."""
    path = it.path.removeprefix("/")
    return path.removeprefix(_OWN) if path.startswith(_OWN) else path.rpartition(".")[2]


def asked_of(request: object) -> str:
    """What a stream was opened with, in a line; empty for one that asks as it goes on."""
    if isinstance(request, pb.WatchRequest):
        space = "*" if request.all_namespaces else request.namespace or "default"
        names = [f"{space}/{it}" for it in request.services[:MAX_NAMES]] or [f"{space}/*"]
        more = f" and {len(request.services) - MAX_NAMES} more" if len(request.services) > MAX_NAMES else ""
        narrower = f", of these {_plain(request.filter)}" if request.filter.ByteSize() else ""
        return f"{', '.join(names)}{more}{narrower}"[:MAX_ASKED]
    return _plain(request)[:MAX_ASKED] if isinstance(request, Message) else ""


def _plain(request: Message) -> str:
    text = MessageToJson(request, indent=None, preserving_proto_field_name=True)
    return text.strip("{}").replace('"', "")


def told(reader: Reader | None) -> str:
    """How far a reader is."""
    if reader is None:
        return ""
    if reader.is_writing:
        return "being told"
    return "up to date" if reader.is_current else "behind"
