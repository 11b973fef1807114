"""CORE: the numbers and the ids of leases."""

import hashlib
import hmac
import re
from functools import lru_cache

_TTL_BITS, _RANDOM_BITS, _PROOF_BITS = 12, 31, 20
_MAX_TTL_S = (1 << _TTL_BITS) - 1
REMEMBERED = 32_768
_ID = re.compile(r"[0-9a-f]{48}")
_DIGITS = 16


class LeaseIds:
    """The leases of one registry, told from all others by a secret that its servers share.

    A lease of etcd has a number of 63 bits, which may be chosen. That of a lease of the registry has in it, from the
    top: 12 bits of time to live in seconds, 31 random ones, and 20 that prove, to who knows the secret, that the
    registry chose it. So a server sees at a record whether its lease is the registry's own, and how long it lives. The
    public id is the number as etcdctl prints it, in 16 hexadecimal digits, and 32 more of proof, which nobody guesses:
    whether the registry gave an id is found out without asking etcd.
    """

    def __init__(self, secret: bytes) -> None:
        # Copied for each proof: that takes a tenth of the time of an HMAC, and one request may ask for ten thousand.
        self._keyed = hashlib.blake2b(key=secret, digest_size=32)
        # The leases in use are asked for again and again, with each record and each renewal.
        self.id = lru_cache(maxsize=REMEMBERED)(self._id)

    def number(self, ttl_s: int, random: int) -> int:
        """The number of a new lease. Of `random`, which is not negative, 31 bits are used."""
        head = min(max(ttl_s, 1), _MAX_TTL_S) << _RANDOM_BITS | random & ((1 << _RANDOM_BITS) - 1)
        return head << _PROOF_BITS | _short(self._proof(head))

    def _id(self, number: int) -> str:
        """The public id of a lease; empty if the registry did not choose its number."""
        if not 0 < number < 1 << 63:
            return ""
        proof = self._proof(number >> _PROOF_BITS)
        is_ours = number & ((1 << _PROOF_BITS) - 1) == _short(proof)
        return f"{number:016x}{proof[:_DIGITS].hex()}" if is_ours else ""

    def find(self, id_: str) -> int | None:
        """The number of the lease with that id; None if the registry never gave the id."""
        if not _ID.fullmatch(id_):
            return None
        number = int(id_[:_DIGITS], 16)
        return number if hmac.compare_digest(self.id(number), id_) else None

    def _proof(self, head: int) -> bytes:
        keyed = self._keyed.copy()
        keyed.update(head.to_bytes(8, "big"))
        return keyed.digest()


def _short(proof: bytes) -> int:
    """Other bits than those in the id, for everybody who may look into etcd sees them."""
    return int.from_bytes(proof[-4:], "big") & ((1 << _PROOF_BITS) - 1)


def ttl_of(number: int) -> float:
    """The time to live, in seconds, that a lease of the registry was asked for; of very long ones, the most there is
    room for. It may be more in etcd."""
    return float(number >> _RANDOM_BITS + _PROOF_BITS)
