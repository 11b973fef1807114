"""CORE: the lease ids that users see: the store's, sealed by a key that the servers of a registry share.

What a store calls a lease stands in front, for people who look into the store. Behind a dot come six bytes that say to
whom it was given and eighteen that prove both, as base64 for URLs: nobody makes one up without the key, whatever a
store calls its leases, and one that was overheard is of no use to another identity.
"""

import hashlib
import hmac
from base64 import urlsafe_b64encode
from functools import lru_cache
from typing import NamedTuple

KEY_BYTES = 32
_OWNER_BYTES, _PROOF_BYTES = 6, 18
_OWNER_CHARACTERS = _OWNER_BYTES * 4 // 3
# Of a lease that was given to somebody who did not say who it is: whoever holds the id may use it.
_NOBODY = "A" * _OWNER_CHARACTERS
# So many identities are remembered.
_IDENTITIES = 1024


class Opened(NamedTuple):
    """A lease as the store calls it, and whether who shows its id may use it: it was given to that identity, or to
    nobody in particular."""

    lease_id: str
    is_own: bool


class Seal:
    """Makes and opens ids by one key."""

    def __init__(self, key: bytes) -> None:
        # Copied for each: that takes a tenth of the time of an HMAC, and one request may ask for ten thousand.
        self._proofs = hashlib.blake2b(key=key, digest_size=_PROOF_BYTES, person=b"lease")
        self._owners = hashlib.blake2b(key=key, digest_size=_OWNER_BYTES, person=b"owner")
        self._owner = lru_cache(maxsize=_IDENTITIES)(self._owner_of)

    def close(self, lease_id: str, identity: str) -> str:
        """The id by which that identity may use a lease of the store; everybody may if it is empty."""
        return self._sealed(lease_id, self._owner(identity))

    def open(self, id_: str, identity: str) -> Opened | None:
        """The lease of an id that somebody of that identity shows; None if this key did not seal it."""
        lease_id, _, seal = id_.rpartition(".")
        owner = seal[:_OWNER_CHARACTERS]
        if not id_.isascii() or not hmac.compare_digest(self._sealed(lease_id, owner), id_):
            return None
        return Opened(lease_id, owner in (_NOBODY, self._owner(identity)))

    def _sealed(self, lease_id: str, owner: str) -> str:
        proof = self._proofs.copy()
        proof.update(f"{owner}{lease_id}".encode())
        return f"{lease_id}.{owner}{urlsafe_b64encode(proof.digest()).decode()}"

    def _owner_of(self, identity: str) -> str:
        if not identity:
            return _NOBODY
        owner = self._owners.copy()
        owner.update(identity.encode())
        return urlsafe_b64encode(owner.digest()).decode()


# ---- the key, as it is kept


def packed(key: bytes, epoch: str) -> bytes:
    """What is written into the store: the key, and the order of changes that it is for."""
    return f"{key.hex()} {epoch}".encode()


def unpacked(value: bytes, epoch: str) -> bytes | None:
    """The key that was written for that order of changes; None if there is none in it."""
    written, _, of = value.decode(errors="replace").partition(" ")
    try:
        key = bytes.fromhex(written)
    except ValueError:
        return None
    return key if of == epoch and len(key) == KEY_BYTES and packed(key, epoch) == value else None
