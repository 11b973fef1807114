"""CORE: what one caller may have, and what all may have together, by name. Whoever asks for more is told which it was.

A peer is an address that calls come from. All processes of this machine have one address, so of these a peer is one
connection (peers.py). An owner is an identity, or where there is none a peer.
"""

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Quotas:
    """Safe for a server that anybody can reach, and out of the way of everybody else."""

    # 0 is 200, and for who is on this machine as many as there is room for.
    max_connections_per_peer: int = 0
    # Of streams that are told what happens, such as Watch; and of different filters that they have.
    max_watches: int = 100_000
    max_watches_per_peer: int = 1_000
    max_filters_per_peer: int = 64
    # Requests that are being answered, and requests a second, of which those of two seconds may come at once.
    max_requests_per_peer: int = 1_000
    max_requests_per_s_per_peer: int = 10_000

    max_instances: int = 200_000
    max_instances_per_owner: int = 10_000
    max_instances_per_lease: int = 1_000
    max_leases: int = 200_000
    max_leases_per_owner: int = 10_000
    max_services: int = 20_000
    max_namespaces: int = 1_000
    # Of those, such as one owner was the first to register in.
    max_services_per_owner: int = 2_000
    max_namespaces_per_owner: int = 100

    # Of answers that no client takes, in all; beyond it who is slowest is cut off.
    max_unread_bytes_in_all: int = 512 * 1024 * 1024
    # What this process may take of the machine's memory before it refuses work; 0 is what the system lets it have.
    max_memory_mib: int = 0
    # How long others may have to wait for their turn, on average, before work is refused.
    max_lag_ms: int = 1_000


PER_PEER = 200
MAX_QUOTA = 2**31 - 1
NO_QUOTAS = Quotas(**{quota.name: MAX_QUOTA for quota in fields(Quotas)})
