"""CORE: listeners and routes: how a client comes from a name to a cluster."""

from collections.abc import Iterable, Mapping

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from registry_api.registry.xds.v1 import resources_pb2 as xds
from registry_server import wire
from registry_server.xds.kinds import TYPE_PREFIX
from registry_server.xds.names import ALL_ROUTES, LISTENER

ADS = xds.ConfigSource(ads=xds.Nothing(), resource_api_version=2)
SELF = xds.ConfigSource(self=xds.Nothing(), resource_api_version=2)
NEVER = Duration()

_MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "envoy.extensions.filters.http.router.v3.Router"
_NAME, _HOSTS = 1, 2  # of a RouteConfiguration


def encoded(message: Message) -> bytes:
    """A message, always in the same order."""
    return bytes(message.SerializeToString(deterministic=True))


def any_message(name: str, message: Message) -> Any:
    """A message in an Any, under the name that its type has elsewhere."""
    return Any(type_url=TYPE_PREFIX + name, value=encoded(message))


def api_listener(name: str, routes: str) -> bytes:
    """What a gRPC client asks for, which goes by those routes."""
    manager = any_message(_MANAGER, _manager(name, routes))
    return encoded(xds.Listener(name=name, api_listener=xds.ApiListener(api_listener=manager)))


def socket_listener(address: str, port: int) -> bytes:
    """Envoy's: it listens there, and goes by the routes to all services."""
    manager = any_message(_MANAGER, _manager(LISTENER, ALL_ROUTES))
    chain = xds.FilterChain(filters=[xds.Filter(name="http", typed_config=manager)])
    where = xds.Address(socket_address=xds.SocketAddress(address=address, port_value=port))
    return encoded(xds.Listener(name=LISTENER, address=where, filter_chains=[chain]))


def _manager(name: str, routes: str) -> xds.HttpConnectionManager:
    router = xds.Filter(name="router", typed_config=any_message(_ROUTER, xds.Nothing()))
    return xds.HttpConnectionManager(
        stat_prefix=name,
        rds=xds.Rds(config_source=ADS, route_config_name=routes),
        http_filters=[router],
        stream_idle_timeout=NEVER,
    )


def routes(name: str, action: xds.RouteAction) -> bytes:
    """A RouteConfiguration for one service: whatever is called, is called there."""
    host = xds.VirtualHost(name=name, domains=["*"], routes=[_route("", action)])
    return encoded(xds.RouteConfiguration(name=name, virtual_hosts=[host]))


def virtual_host(name: str, action: xds.RouteAction) -> bytes:
    """What is called with that authority, with a port or without."""
    return encoded(xds.VirtualHost(name=name, domains=[name, f"{name}:*"], routes=[_route("", action)]))


def all_routes(hosts: Mapping[str, bytes], by_path: Iterable[tuple[str, xds.RouteAction]]) -> bytes:
    """The RouteConfiguration of all services: by encoded virtual hosts, and for other authorities by the path.

    Envoy knows no case in the names of hosts: of two that differ in nothing else the first has it.
    """
    parts = [wire.message_field(_NAME, ALL_ROUTES.encode())]
    taken: set[str] = set()
    for name, host in hosts.items():
        if name.lower() not in taken:
            taken.add(name.lower())
            parts.append(wire.message_field(_HOSTS, host))
    others = [_route(f"/{service}/", action) for service, action in by_path]
    if others:
        host = encoded(xds.VirtualHost(name=ALL_ROUTES, domains=["*"], routes=others))
        parts.append(wire.message_field(_HOSTS, host))
    return b"".join(parts)


def _route(prefix: str, action: xds.RouteAction) -> xds.Route:
    return xds.Route(match=xds.RouteMatch(prefix=prefix), route=action)
