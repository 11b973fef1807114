"""CORE: who an xDS client is, by what it says of itself in the first request of a stream, and what it can ask for."""

import ipaddress
import re
from enum import Enum, StrEnum
from functools import lru_cache
from typing import NamedTuple

from registry_api.registry.xds.v1 import ads_pb2 as ads

# Where Envoy's listener is to be: a key of the metadata of its node, and what stands for it.
LISTEN = "registry.listen"
# So much of what a client says of itself is kept, in bytes of UTF-8.
MAX_SHOWN = 256
MAX_PORT = 65_535
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)


class ClientKind(StrEnum):
    """The implementations of xDS clients, which do not all take the same."""

    C_CORE = "c-core"  # Python, C++, Ruby, PHP …
    GO = "go"
    JAVA = "java"
    NODE = "node"
    RUST = "rust"
    ENVOY = "envoy"
    OTHER = "other"

    @property
    def is_grpc(self) -> bool:
        """Whether it is known to be gRPC's, which never asks for all there is."""
        return self not in (ClientKind.ENVOY, ClientKind.OTHER)


_BY_AGENT = {
    "envoy": ClientKind.ENVOY,
    "gRPC C-core": ClientKind.C_CORE,
    "gRPC Go": ClientKind.GO,
    "gRPC Java": ClientKind.JAVA,
    "gRPC Node": ClientKind.NODE,
    "gRPC Rust": ClientKind.RUST,
    "tonic": ClientKind.RUST,
    "gRPC": ClientKind.C_CORE,
}


class ResourceType(Enum):
    """What can be asked for, in the order in which it is told: what is pointed at comes before what points there."""

    CLUSTER = "envoy.config.cluster.v3.Cluster"
    ENDPOINTS = "envoy.config.endpoint.v3.ClusterLoadAssignment"
    LISTENER = "envoy.config.listener.v3.Listener"
    ROUTES = "envoy.config.route.v3.RouteConfiguration"

    # There is one of each; an Enum hashes its name, in steps of Python, and flows are looked up by them all the time.
    __hash__ = object.__hash__

    @property
    def url(self) -> str:
        """How it is called in messages."""
        return TYPE_PREFIX + self.value

    @property
    def is_whole(self) -> bool:
        """Whether a response of the state of the world holds all of it, so that what is not there is gone."""
        return self in (ResourceType.CLUSTER, ResourceType.LISTENER)


TYPE_PREFIX = "type.googleapis.com/"
BY_URL = {it.url: it for it in ResourceType}


class Listen(NamedTuple):
    """A numeric address, and a port: 0 for any."""

    address: str
    port: int


DEFAULT_LISTEN = Listen("127.0.0.1", 0)


class XdsClient(NamedTuple):
    """Who asks on a stream."""

    kind: ClientKind
    id: str = ""
    cluster: str = ""
    agent: str = ""
    version: str = ""
    place: tuple[str, str, str] = ("", "", "")
    listen: Listen = DEFAULT_LISTEN


def client_of(node: ads.Node) -> XdsClient:
    """The client that a node describes."""
    kind = next((kind for agent, kind in _BY_AGENT.items() if node.user_agent_name.startswith(agent)), ClientKind.OTHER)
    where = node.locality
    return XdsClient(
        kind,
        _kept(node.id),
        _kept(node.cluster),
        _kept(node.user_agent_name),
        _kept(_version(node)),
        (_kept(where.region), _kept(where.zone), _kept(where.sub_zone)),
        _listen(node.metadata.fields[LISTEN].string_value) if LISTEN in node.metadata.fields else DEFAULT_LISTEN,
    )


def _kept(text: str) -> str:
    """No more of it than is kept, and without what ends text in other languages, and parts of names in lists here."""
    return text[:MAX_SHOWN].replace("\0", "").encode()[:MAX_SHOWN].decode(errors="ignore")


def _listen(text: str) -> Listen:
    """Where a client wants to listen; where it says nothing that can be listened at, the usual."""
    host, _, port = text.rpartition(":")
    address = numeric(host.removeprefix("[").removesuffix("]"))
    if not address or not _PORT.fullmatch(port) or int(port) > MAX_PORT:
        return DEFAULT_LISTEN
    return Listen(address, int(port))


def _version(node: ads.Node) -> str:
    if node.user_agent_version:
        return node.user_agent_version
    if not node.HasField("user_agent_build_version"):
        return ""
    it = node.user_agent_build_version.version
    return f"{it.major_number}.{it.minor_number}.{it.patch}"


@lru_cache(maxsize=65_536)
def numeric(host: str) -> str:
    """The one way to write an IP address; empty for what is none, or can be called from one machine alone.

    One of IPv4 that is written as one of IPv6 is that of IPv4: Envoy cannot connect to the other.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ""
    return "" if getattr(address, "scope_id", None) else str(getattr(address, "ipv4_mapped", None) or address)
