"""CORE: encoded answers. Those with many instances are joined from parts: an instance is encoded when it changes,
and never again."""

from collections.abc import Iterable

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server import wire
from registry_server.model import Entry
from registry_server.records import Cause, Key, Lease, Outcome, Renewal
from registry_server.rules import seconds

_UPSERTS = pb.WatchResponse.UPSERTS_FIELD_NUMBER
_REMOVED = pb.WatchResponse.REMOVED_FIELD_NUMBER
_INSTANCE = pb.RegisterResponse.INSTANCE_FIELD_NUMBER
_INSTANCES = pb.ListResponse.INSTANCES_FIELD_NUMBER
_SERVICES = pb.ListServicesResponse.SERVICES_FIELD_NUMBER
_NAMESPACES = pb.ListNamespacesResponse.NAMESPACES_FIELD_NUMBER
_STATE = {
    Outcome.RENEWED: pb.Renewal.RENEWED,
    Outcome.HELD: pb.Renewal.HELD,
    Outcome.UNKNOWN: pb.Renewal.UNKNOWN,
}
CAUSES = {
    None: pb.Departure.CAUSE_UNSPECIFIED,
    Cause.EXPIRED: pb.Departure.EXPIRED,
    Cause.DEREGISTERED: pb.Departure.DEREGISTERED,
    Cause.REPLACED: pb.Departure.REPLACED,
    Cause.DRAINED: pb.Departure.DRAINED,
    Cause.UNHEALTHY: pb.Departure.UNHEALTHY,
}


def header(epoch: str, revision: int, stale_for_s: float | None) -> pb.ResponseHeader:
    """What stands at the head of every response."""
    if stale_for_s is None:
        return pb.ResponseHeader(epoch=epoch, revision=revision)
    return pb.ResponseHeader(epoch=epoch, revision=revision, stale_for=seconds(stale_for_s))


def instance(head: pb.ResponseHeader, entry: Entry) -> bytes:
    """A GetResponse, or an UpdateResponse: they have the same fields."""
    return pb.GetResponse(header=head).SerializeToString() + wire.message_field(_INSTANCE, entry.encoded)


def registered(head: pb.ResponseHeader, entry: Entry, lease: Lease) -> bytes:
    """A RegisterResponse."""
    frame = pb.RegisterResponse()  # filled in by and by: that takes half as long as all at once
    frame.header.CopyFrom(head)
    frame.lease_id = lease.id
    frame.ttl.CopyFrom(seconds(lease.ttl_s))
    return frame.SerializeToString() + wire.message_field(_INSTANCE, entry.encoded)


def renewal(lease_id: str, it: Renewal, instances: int) -> pb.Renewal:
    """What became of the lease with that id, and how many instances it holds."""
    ttl = None if it.ttl_s is None else seconds(it.ttl_s)
    return pb.Renewal(lease_id=lease_id, ttl=ttl, state=_STATE[it.outcome], instances=instances)


def listed(head: pb.ResponseHeader, entries: Iterable[Entry], next_page_token: str, checksum: int) -> bytes:
    """A ListResponse."""
    frame = pb.ListResponse(header=head, next_page_token=next_page_token, checksum=checksum)
    return frame.SerializeToString() + b"".join([wire.message_field(_INSTANCES, entry.encoded) for entry in entries])


def namespaces(head: pb.ResponseHeader, summaries: Iterable[bytes], next_page_token: str) -> bytes:
    """A ListNamespacesResponse of encoded NamespaceSummaries."""
    frame = pb.ListNamespacesResponse(header=head, next_page_token=next_page_token)
    return frame.SerializeToString() + b"".join([wire.message_field(_NAMESPACES, summary) for summary in summaries])


def services(
    head: pb.ResponseHeader, summaries: Iterable[bytes], next_page_token: str, probers: Iterable[pb.Prober]
) -> bytes:
    """A ListServicesResponse of encoded ServiceSummaries."""
    frame = pb.ListServicesResponse(header=head, next_page_token=next_page_token, probers=probers)
    return frame.SerializeToString() + b"".join([wire.message_field(_SERVICES, summary) for summary in summaries])


def upserts(entries: Iterable[Entry]) -> bytes:
    """A piece of a WatchResponse: instances that are new or changed."""
    return b"".join([wire.message_field(_UPSERTS, entry.encoded) for entry in entries])


def removals(departures: Iterable[tuple[Key, Cause | None]]) -> bytes:
    """A piece of a WatchResponse: instances that left, and why; None where that is not known."""
    return b"".join([wire.message_field(_REMOVED, _departure(key, cause)) for key, cause in departures])


def watch_part(head: pb.ResponseHeader, *, reset: bool) -> bytes:
    """The WatchResponse of a piece of a step after which more follows; the piece itself goes behind."""
    return pb.WatchResponse(header=head, more=True, reset=reset).SerializeToString()


def watch_end(head: pb.ResponseHeader, checksum: int, token: str, *, reset: bool) -> bytes:
    """The last WatchResponse of a step, but for its piece. `checksum` is that of the set it leads to."""
    return pb.WatchResponse(header=head, checksum=checksum, resume_token=token, reset=reset).SerializeToString()


def watch_bookmark(head: pb.ResponseHeader, checksum: int, token: str) -> bytes:
    """The WatchResponse that says that nothing changed."""
    return pb.WatchResponse(header=head, bookmark=True, checksum=checksum, resume_token=token).SerializeToString()


def _departure(key: Key, cause: Cause | None) -> bytes:
    left = pb.Departure(namespace=key.namespace, service=key.service, id=key.id, cause=CAUSES[cause])
    return left.SerializeToString()
