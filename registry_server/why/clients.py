"""CORE: which clients are told of a service, and whether they were told how it is now."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

from registry_api.registry.v1 import why_pb2 as pb
from registry_server.audience import Attendant
from registry_server.hub import Reader
from registry_server.model import Entry, Query
from registry_server.rpc.xds import OpenStream
from registry_server.why.words import line, span
from registry_server.xds.kinds import ResourceType
from registry_server.xds.names import ServiceKey
from registry_server.xds.session import AdsSession

# A client that has not taken what it was sent after so long is in trouble.
SLOW_S = 1.0


class About(NamedTuple):
    """What the clients are asked about: the service, and the instance if it is one that is there, with the `seq` of
    its latest change."""

    key: ServiceKey
    entry: Entry | None = None
    changed: int = 0


class Watching(NamedTuple):
    """How a reader of the hub is shown, at a time of the hub that is `wall_s` seconds since 1970."""

    now: float
    wall_s: float

    def told(self, it: Attendant, reader: Reader, asked: About) -> pb.ToldClient:
        """One Watch."""
        waits_s = self.now - reader.sent_at if reader.is_writing else 0.0
        return pb.ToldClient(
            kind=pb.ToldClient.WATCH,
            peer=it.caller.peer,
            identity=it.caller.identity,
            connected_at=time(it.opened_at),
            told_at=None if reader.told_at == -math.inf else time(self.wall_s - (self.now - reader.told_at)),
            current=_is_current(reader, asked),
            leaves_out=asked.entry is not None and not reader.subject.key.matches(asked.entry),  # type: ignore[attr-defined]
            trouble=f"does not read what it was sent {span(waits_s)} ago" if waits_s > SLOW_S else "",
        )


def is_told(reader: Reader, key: ServiceKey) -> bool:
    """Whether it is a Watch of instances, among them those of that service."""
    query = reader.subject.key
    return isinstance(query, Query) and reader.hears_of(*key) and (not query.services or key[1] in query.services)


def _is_current(reader: Reader, asked: About) -> bool:
    if reader.is_current:
        return True
    has_all = reader.step is None and not reader.is_writing and reader.version is not None
    return has_all and asked.entry is not None and (reader.version or 0) >= asked.changed


def told_by_xds(stream: OpenStream, asked: About, *, is_news: bool, is_reachable: bool) -> pb.ToldClient:
    """One xDS stream. `is_news`: something of the service has changed that no stream was told of yet; `is_reachable`:
    the host of the instance has a number."""
    session, client = stream.session, stream.session.client
    flow = session.flows[ResourceType.ENDPOINTS]
    names = session.names_of(asked.key, ResourceType.ENDPOINTS)
    may = session.may_read(asked.key)
    return pb.ToldClient(
        kind=pb.ToldClient.XDS,
        peer=stream.caller.peer,
        identity=stream.caller.identity,
        node_id=client.id if client is not None else "",
        connected_at=time(stream.opened_at),
        told_at=time(flow.told_at) if flow.told_at else None,
        current=bool(names) and not is_news and not flow.awaits and all(flow.is_told(name) for name in names),
        leaves_out=asked.entry is not None and not (may and is_reachable and asked.entry.routable),
        trouble=line("; ".join(_trouble(stream.session, asked.key))),
    )


def _trouble(session: AdsSession, key: ServiceKey) -> Iterator[str]:
    if not session.names_of(key, ResourceType.ENDPOINTS):
        yield "has not asked for its endpoints"
    for kind, flow in session.flows.items():
        if flow.rejection is not None and flow.is_rejected and session.names_of(key, kind):
            version = flow.rejection.version
            yield f"did not accept version {version} of its {kind.name.lower()}: {flow.rejection.reason}"


def time(at_s: float) -> Timestamp:
    """Seconds since 1970 as a message."""
    found = Timestamp()
    found.FromMicroseconds(round(at_s * 1e6))
    return found
