"""CORE. Answers put together from encoded parts: an instance is encoded when it changes, and never again."""

from collections.abc import Iterable, Sequence

from protos.registry.v1 import registry_pb2 as pb
from registry_server import wire
from registry_server.model import Entry
from registry_server.rules import seconds
from registry_server.stores.base import Key, Lease, Outcome, Renewal

# Clients take messages of up to 4 MiB by default.
MAX_PART_BYTES = 1024 * 1024

# In the message of every response.
_HEADER = 1
_STATE = {
    Outcome.RENEWED: pb.Renewal.RENEWED,
    Outcome.HELD: pb.Renewal.HELD,
    Outcome.UNKNOWN: pb.Renewal.UNKNOWN,
}


def header(epoch: str, revision: int, stale_for_s: float | None) -> bytes:
    """The field `header`, the same in every response."""
    stale = b"" if stale_for_s is None else wire.bytes_field(3, seconds(stale_for_s).SerializeToString())
    return wire.bytes_field(_HEADER, wire.string_field(1, epoch) + wire.uint_field(2, revision) + stale)


def instance(head: bytes, entry: Entry) -> bytes:
    """A GetResponse or an UpdateResponse."""
    return head + wire.bytes_field(2, entry.encoded)


def registered(head: bytes, entry: Entry, lease: Lease) -> bytes:
    """A RegisterResponse."""
    ttl = wire.bytes_field(4, seconds(lease.ttl_s).SerializeToString())
    return b"".join((head, wire.bytes_field(2, entry.encoded), wire.string_field(3, lease.id), ttl))


def deregistered(head: bytes, removed: int) -> bytes:
    """A DeregisterResponse."""
    return head + wire.uint_field(2, removed)


def renewed(head: bytes, renewals: Iterable[tuple[Renewal, int]]) -> bytes:
    """A KeepAliveResponse, from what became of each lease and how many instances it holds."""
    return head + wire.repeated_field(2, (_renewal(renewal, instances) for renewal, instances in renewals))


def listed(head: bytes, entries: Iterable[Entry], next_page_token: str, checksum: int) -> bytes:
    """A ListResponse."""
    instances = wire.repeated_field(2, (entry.encoded for entry in entries))
    return b"".join((head, instances, wire.string_field(3, next_page_token), wire.fixed64_field(4, checksum)))


def services(head: bytes, namespace: str, counts: Iterable[tuple[str, int, int]]) -> bytes:
    """A ListServicesResponse, from the names, the instances and the routable ones of the services."""
    return head + wire.repeated_field(
        2,
        (
            b"".join((
                wire.string_field(1, namespace),
                wire.string_field(2, name),
                wire.uint_field(3, instances),
                wire.uint_field(4, routable),
            ))
            for name, instances, routable in counts
        ),
    )  # fmt: skip


def watch_step(
    head: bytes, upserts: Sequence[Entry], removed: Sequence[Key], checksum: int, token: str, *, reset: bool
) -> list[bytes]:
    """The WatchResponses of one step: one, unless it is too large for one message."""
    fields = [wire.bytes_field(3, entry.encoded) for entry in upserts]
    fields += [wire.bytes_field(4, _key(key)) for key in removed]
    chunks = _chunks(fields) or [b""]
    parts = [b"".join((head, chunk, wire.uint_field(8, 1))) for chunk in chunks[:-1]]
    end = wire.fixed64_field(6, checksum) + wire.string_field(7, token)
    parts.append(b"".join((head, chunks[-1], end)))
    if reset:
        parts[0] += wire.uint_field(2, 1)
    return parts


def watch_bookmark(head: bytes, checksum: int, token: str) -> list[bytes]:
    """The WatchResponse that says that nothing changed."""
    fields = (wire.uint_field(5, 1), wire.fixed64_field(6, checksum), wire.string_field(7, token))
    return [b"".join((head, *fields))]


def _chunks(fields: Iterable[bytes]) -> list[bytes]:
    """The fields joined, in pieces of about MAX_PART_BYTES."""
    chunks: list[bytes] = []
    pending: list[bytes] = []
    size = 0
    for field in fields:
        pending.append(field)
        size += len(field)
        if size >= MAX_PART_BYTES:
            chunks.append(b"".join(pending))
            pending, size = [], 0
    if pending:
        chunks.append(b"".join(pending))
    return chunks


def _key(key: Key) -> bytes:
    return wire.string_field(1, key.namespace) + wire.string_field(2, key.service) + wire.string_field(3, key.id)


def _renewal(renewal: Renewal, instances: int) -> bytes:
    ttl = b"" if renewal.ttl_s is None else wire.bytes_field(2, seconds(renewal.ttl_s).SerializeToString())
    state = wire.uint_field(3, _STATE[renewal.outcome])
    return b"".join((wire.string_field(1, renewal.lease_id), ttl, state, wire.uint_field(4, instances)))
