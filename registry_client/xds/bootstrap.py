"""CORE: what an xDS client has to know before it can ask: where the registry is, and who it is itself.

gRPC's clients read it from the file that GRPC_XDS_BOOTSTRAP names, Envoy from its own. What each of them takes and
what it cannot do without differs; docs/xds.md says how.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from registry_api.limits import DEFAULT_NAMESPACE, UNIX
from registry_client.addresses import MAX_DIGITS
from registry_client.checks import shown
from registry_client.errors import InvalidTarget
from registry_client.instance import Locality

if TYPE_CHECKING:
    from collections.abc import Sequence

Json: TypeAlias = dict[str, object]

# A listener or a cluster that is gone of a sudden is kept rather than believed.
_FEATURES = ("xds_v3", "ignore_resource_deletion")
# How Envoy calls the registry among its clusters: no service can be called so.
CLUSTER = "registry/xds/server"
LISTEN = "registry.listen"
"""The key in Envoy's metadata under which the registry finds where its listener is to be."""
ANY_PORT = "127.0.0.1:0"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_TLS = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
_CONNECT_WITHIN = "5s"
_LAST_PORT = 65535
_V6 = 6
_PING = {"interval": "10s", "timeout": "5s"}


@dataclass(frozen=True, slots=True)
class Node:
    """Who asks. `id` is shown by `registryctl xds clients`, and in the errors of gRPC."""

    id: str
    cluster: str = "default"
    locality: Locality = field(default_factory=Locality)

    def to_json(self) -> Json:
        """With all of it: Node.js wants an id and a locality, Envoy an id and a cluster."""
        where = self.locality
        parts = {"region": where.region, "zone": where.zone, "sub_zone": where.sub_zone}
        return {"id": self.id, "cluster": self.cluster, "locality": {name: it for name, it in parts.items() if it}}


@dataclass(frozen=True, slots=True)
class Files:
    """TLS towards the registry, as paths of PEM files: whom to trust, and what the client shows; "" for neither."""

    ca: str = ""
    cert: str = ""
    key: str = ""


def for_grpc(
    addresses: Sequence[str], node: Node, namespace: str = DEFAULT_NAMESPACE, tls: Files | None = None
) -> Json:
    """For gRPC in C++, Go, Java, Node.js, PHP, Python and Ruby.

    addresses: of one registry, HOST:PORT or unix:PATH; Node.js asks the first one alone.
    tls: None for plaintext; Node.js can only that.
    namespace: in which `xds:///player` is looked up. In the default one, `xds:///NAMESPACE/player` names another.
    """
    servers = [_server(address, tls) for address in addresses]
    bootstrap: Json = {"xds_servers": servers, "node": node.to_json()}
    if namespace != DEFAULT_NAMESPACE:
        bootstrap["client_default_listener_resource_name_template"] = f"{namespace}/%s"
    return bootstrap


def for_c_core(addresses: Sequence[str], node: Node, tls: Files | None = None) -> Json:
    """For gRPC's C core alone, as Python has it: to it, addresses in numbers can be one server that is never away.

    By TLS they cannot: a certificate is for one of them.
    """
    numbers = [_numbers(address) for address in addresses]
    kinds = {kind for kind, _ in numbers}
    if len(addresses) > 1 and tls is None and len(kinds) == 1 and "" not in kinds:
        addresses = [f"{kinds.pop()}:{','.join(address for _, address in numbers)}"]
    return for_grpc(addresses, node, tls=tls)


def for_tonic(addresses: Sequence[str], node: Node, tls: Files | None = None) -> Json:
    """For Rust's tonic-xds, which wants a scheme where all others take none. Raises InvalidTarget for a file."""
    if any(address.startswith(UNIX) for address in addresses):
        raise InvalidTarget(f"tonic-xds cannot connect to {UNIX}PATH: give it HOST:PORT")
    scheme = "https" if tls else "http"
    return {"xds_servers": [_server(f"{scheme}://{address}", tls) for address in addresses], "node": node.to_json()}


def for_envoy(
    addresses: Sequence[str],
    node: Node,
    *,
    listen: str = ANY_PORT,
    state_of_the_world: bool = False,
    load_reports: bool = False,
    tls: Files | None = None,
) -> Json:
    """For Envoy: all that it needs to be a proxy of every registered service.

    listen: HOST:PORT of its one listener; with port 0 any that is free, which its admin page tells.
    state_of_the_world: it is told of everything with each change, and not of what changed.
    load_reports: it reports what became of its calls, as gRPC's clients always do.

    Raises InvalidTarget for TLS without an authority: Envoy would trust everybody.
    """
    if tls and not tls.ca:
        raise InvalidTarget("Envoy brings no authorities: name the file of those to be trusted (--tls-ca)")
    ads = {"ads": {}, "resource_api_version": "V3"}
    source = {
        "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": CLUSTER, "authority": _authority(addresses[0])}}],
    }
    kind = "GRPC" if state_of_the_world else "DELTA_GRPC"
    stream: Json = {**source, "api_type": kind, "set_node_on_first_message_only": True}
    reports: Json = {"cluster_manager": {"load_stats_config": {**source, "api_type": "GRPC"}}} if load_reports else {}
    return {
        **reports,
        "node": {**node.to_json(), "metadata": {LISTEN: listen}},
        "dynamic_resources": {"ads_config": stream, "cds_config": ads, "lds_config": ads},
        "static_resources": {"clusters": [_cluster(addresses, tls)]},
        "admin": {"address": _address(ANY_PORT)},
    }


def listen_address(text: str) -> str:
    """Where Envoy takes calls, from HOST:PORT with a host in numbers; port 0 is any. Raises InvalidTarget."""
    host, separator, port = text.rpartition(":")
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        separator = ""
    if (
        not separator
        or not (port.isascii() and port.isdecimal() and len(port) <= MAX_DIGITS and int(port) <= _LAST_PORT)
        or _is_bare(host)
        or getattr(address, "scope_id", None)  # an interface of one machine, which is not told here
    ):
        raise InvalidTarget(f"listen address {shown(text)}: must be an IP address and a port, such as {ANY_PORT}")
    return f"[{address}]:{int(port)}" if address.version == _V6 else f"{address}:{int(port)}"


def _is_bare(host: str) -> bool:
    """Whether this is an IPv6 address without the brackets that end it."""
    return ":" in host and not host.startswith("[")


def _server(uri: str, tls: Files | None) -> Json:
    return {"server_uri": uri, "channel_creds": [_credentials(tls)], "server_features": list(_FEATURES)}


def _credentials(tls: Files | None) -> Json:
    if tls is None:
        return {"type": "insecure"}
    files = {"ca_certificate_file": tls.ca, "certificate_file": tls.cert, "private_key_file": tls.key}
    return {"type": "tls", "config": {name: path for name, path in files.items() if path}}


def _cluster(addresses: Sequence[str], tls: Files | None) -> Json:
    """The registry as Envoy's own. Pings end a connection on which nobody answers any more."""
    http2: Json = {"connection_keepalive": _PING}
    options = {
        "@type": f"type.googleapis.com/{_HTTP_OPTIONS}",
        "explicit_http_config": {"http2_protocol_options": http2},
    }
    endpoints = [{"endpoint": {"address": _address(address)}} for address in addresses]
    secure = {"transport_socket": _transport_socket(addresses, tls)} if tls else {}
    return {
        **secure,
        "name": CLUSTER,
        "type": "STRICT_DNS",
        "dns_lookup_family": "ALL",  # else a name that has an address of IPv6 is never asked for at its others
        "connect_timeout": _CONNECT_WITHIN,
        "typed_extension_protocol_options": {_HTTP_OPTIONS: options},
        "load_assignment": {"cluster_name": CLUSTER, "endpoints": [{"lb_endpoints": endpoints}]},
    }


def _transport_socket(addresses: Sequence[str], tls: Files) -> Json:
    """TLS as Envoy has it, which by itself goes by no name of the certificate."""
    hosts = [address.rpartition(":")[0].strip("[]") for address in addresses if not address.startswith(UNIX)]
    kinds = ["IP_ADDRESS" if _numbers(f"{host}:0")[0] else "DNS" for host in hosts]
    names = [{"san_type": kind, "matcher": {"exact": host}} for kind, host in zip(kinds, hosts, strict=True)]
    common: Json = {
        "alpn_protocols": ["h2"],
        "validation_context": {"trusted_ca": {"filename": tls.ca}, "match_typed_subject_alt_names": names},
    }
    if tls.cert:
        shown = {"certificate_chain": {"filename": tls.cert}, "private_key": {"filename": tls.key}}
        common["tls_certificates"] = [shown]
    context: Json = {"@type": f"type.googleapis.com/{_TLS}", "common_tls_context": common}
    if kinds[:1] == ["DNS"]:
        context["sni"] = hosts[0]
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _authority(address: str) -> str:
    """What Envoy calls the registry when it asks: by default its name among the clusters, which can be no host."""
    return "localhost" if address.startswith(UNIX) else address


def _address(text: str) -> Json:
    if text.startswith(UNIX):
        return {"pipe": {"path": text.removeprefix(UNIX)}}
    host, _, port = text.rpartition(":")
    return {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}


def _numbers(address: str) -> tuple[str, str]:
    """Of which kind an address in numbers is, ipv4 or ipv6, and itself; "" for a name."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return f"ipv{ipaddress.ip_address(host).version}", address
    except ValueError:
        return "", address
