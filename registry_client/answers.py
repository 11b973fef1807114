"""CORE: whether what a registry answers can be. Nothing that it says is believed because it says so.

An answer that is for something else than what was asked, or lacks what it must have, raises InvalidAnswer. One that is
true but proves nothing, because whoever answers is out of touch, raises RegistryUnavailable: another may know.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from registry_api.limits import DEFAULT_NAMESPACE
from registry_client.errors import InvalidAnswer, RegistryUnavailable
from registry_client.instance import Key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry_api.registry.v1 import registry_pb2 as pb
    from registry_client.instance import Instance

MAX_ID = 256  # characters of what a registry names: leases, instances, epochs, tokens of pages
MAX_LISTED = 1_000_000
MAX_LISTED_BYTES = 512 * 1024 * 1024
MAX_TOKEN = 1_024
SHOWN = 16  # characters of the id of a lease


def check_registered(answer: pb.RegisterResponse, wanted: Instance, lease_id: str) -> None:
    """The answer to Register, of `wanted` on a lease unless that is empty."""
    _check_header(answer.header)
    _check_key(answer.HasField("instance"), answer.instance, Key(wanted.key.namespace, wanted.service, wanted.id))
    stored = answer.instance
    if stored.port != wanted.port or not _is_same_host(stored.host, wanted.host):
        raise InvalidAnswer(f"the answer is for {stored.host!r:.100}:{stored.port} instead of {wanted.address}")
    if not answer.lease_id or len(answer.lease_id) > MAX_ID or (lease_id and answer.lease_id != lease_id):
        raise InvalidAnswer(
            f"the answer names the lease {shown_lease(answer.lease_id)!r}, for {shown_lease(lease_id)!r}"
        )


def shown_lease(lease_id: str) -> str:
    """A lease as messages name it: whoever knows the whole of it may end it."""
    return lease_id if len(lease_id) <= SHOWN else f"{lease_id[:SHOWN]}…"


def check_found(answer: pb.GetResponse | pb.UpdateResponse, key: Key) -> None:
    """An answer that shows one instance."""
    _check_key(answer.HasField("instance"), answer.instance, key)


def check_proof(header: pb.ResponseHeader, epoch: str = "", revision: int = 0) -> None:
    """An answer that is to prove something, to somebody who knows a revision of an epoch already."""
    _check_header(header)
    if header.HasField("stale_for"):
        stale_s = header.stale_for.ToNanoseconds() / 1e9
        raise RegistryUnavailable(f"it cannot reach its store (for {stale_s:.0f} s)")
    if header.epoch == epoch and header.revision < revision:
        raise RegistryUnavailable(f"it lags behind: it is at revision {header.revision}, and {revision} is known")


def check_epoch(header: pb.ResponseHeader) -> None:
    """An answer that must name the order it belongs to."""
    _check_header(header)


def _check_header(header: pb.ResponseHeader) -> None:
    if not header.epoch or len(header.epoch) > MAX_ID:
        raise InvalidAnswer(f"the answer is of the epoch {header.epoch!r:.100}")


def _check_key(is_there: bool, shown: pb.Instance, key: Key) -> None:
    """Raises InvalidAnswer unless it is that one, or any of that service where the id is for the registry to make."""
    if not is_there:
        raise InvalidAnswer("the answer has no instance")
    found = Key(shown.namespace or DEFAULT_NAMESPACE, shown.service, shown.id)
    if found[:2] != key[:2] or not found.id or len(found.id) > MAX_ID or (key.id and found.id != key.id):
        raise InvalidAnswer(f"the answer is for {str(found)!r:.100} instead of {key}")


def _is_same_host(one: str, other: str) -> bool:
    """IP addresses have several spellings, and names may be written large."""
    try:
        return ipaddress.ip_address(one) == ipaddress.ip_address(other)
    except ValueError:
        return one.lower() == other.lower()


class Pages:
    """Follows a list over its pages. It must get on with every page, and come to an end."""

    def __init__(self) -> None:
        self._last: tuple[str, ...] = ()
        self._count = 0
        self._bytes = 0

    def next_token(self, names: Sequence[tuple[str, ...]], size: int, token: str) -> str:
        """What to ask with for the next page, after one that holds these names and so many bytes; empty at the end.

        Raises InvalidAnswer for a page that does not go on from the one before, and for a list without end.
        """
        if any(later <= earlier for earlier, later in zip([self._last, *names], names, strict=False)):
            raise InvalidAnswer("the pages of the list are not in order")
        if token and (not names or len(token) > MAX_TOKEN):
            raise InvalidAnswer("the list has an empty page and says that it goes on")
        self._last = names[-1] if names else self._last
        self._count, self._bytes = self._count + len(names), self._bytes + size
        if self._count > MAX_LISTED or self._bytes > MAX_LISTED_BYTES:
            raise InvalidAnswer(f"the list has no end: {self._count} entries of {self._bytes} bytes so far")
        return token
