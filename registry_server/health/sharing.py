"""CORE: which of several replicas probes an instance: rendezvous hashing, so that all replicas agree without a word,
and one that comes or goes changes nothing for the instances of the others."""

import hashlib
from collections.abc import Iterable

from registry_server.records import Key


def prober_of(key: Key, replicas: Iterable[str]) -> str:
    """The name of the replica that probes; empty if there is none."""
    return max(replicas, key=lambda replica: _score(key, replica), default="")


def _score(key: Key, replica: str) -> bytes:
    text = "/".join((replica, key.namespace, key.service, key.id))
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
