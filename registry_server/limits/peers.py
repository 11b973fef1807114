"""CORE: who is counted as one, by the address that a call comes from."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

# An IPv6 network of this size is one customer's: its addresses are without number.
IPV6_PREFIX = 64
# Of so many connections it is remembered; looking again costs some microseconds.
REMEMBERED = 16_384


@lru_cache(maxsize=REMEMBERED)
def peer_of(address: str) -> str:
    """Who is counted as one with the other end, as gRPC writes it, such as `ipv4:10.0.0.5:50123`: its host; of IPv6 its
    network; and who is on this machine, where all have one address, by connection."""
    host = host_of(address)
    if host is None or host.is_loopback:
        return address
    if isinstance(host, IPv6Address):
        network = int(host) >> (128 - IPV6_PREFIX) << (128 - IPV6_PREFIX)
        return f"ipv6:[{IPv6Address(network)}/{IPV6_PREFIX}]"
    return f"ipv4:{host}"


@lru_cache(maxsize=REMEMBERED)
def is_near(address: str) -> bool:
    """Whether it is on this machine."""
    host = host_of(address)
    return host is None or host.is_loopback


def host_of(address: str) -> IPv4Address | IPv6Address | None:
    """Where the other end is; None for a file of this machine, or what is no address."""
    kind, _, rest = address.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return None
    name = rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]")  # grpcio quotes
    try:
        host = ip_address(name.partition("%")[0])
    except ValueError:
        return None
    return (host.ipv4_mapped or host) if isinstance(host, IPv6Address) else host
