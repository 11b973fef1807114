"""CORE: listeners and routes: how a client comes from a name to a cluster."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from registry_api.registry.xds.v1 import resources_pb2 as xds
from registry_server import wire
from registry_server.xds.kinds import TYPE_PREFIX
from registry_server.xds.names import ALL_ROUTES, LISTENER, ServiceKey, shown

ADS = xds.ConfigSource(ads=xds.Nothing(), resource_api_version=2)
SELF = xds.ConfigSource(self=xds.Nothing(), resource_api_version=2)
NEVER = Duration()

_MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "envoy.extensions.filters.http.router.v3.Router"
_NAME, _HOSTS = 1, 2  # of a RouteConfiguration
_DOMAINS = 2  # of a VirtualHost


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


class Ways(NamedTuple):
    """The ways to one service among all, encoded: a virtual host without its domains, and the route by path."""

    host: bytes
    by_path: bytes


def ways(key: ServiceKey, action: xds.RouteAction) -> Ways:
    """How a service is reached. By its path are those of the default namespace alone: no path says which other."""
    host = xds.VirtualHost(name=shown(key), routes=[_route("", action)])
    by_path = [_route(f"/{key[1]}/", action)] if shown(key) == key[1] else []
    return Ways(encoded(host), encoded(xds.VirtualHost(routes=by_path)))


def all_routes(services: Mapping[ServiceKey, Ways]) -> bytes:
    """The RouteConfiguration of all services: by what is called, and where that says nothing by the path."""
    parts = [wire.message_field(_NAME, ALL_ROUTES.encode())]
    for key, domains in _domains(services).items():
        named = b"".join([wire.message_field(_DOMAINS, it.encode()) for it in domains])
        parts.append(wire.message_field(_HOSTS, services[key].host + named))
    if any(it.by_path for it in services.values()):
        host = xds.VirtualHost(name=ALL_ROUTES, domains=["*"]).SerializeToString()
        parts.append(wire.message_field(_HOSTS, host + b"".join([it.by_path for it in services.values()])))
    return b"".join(parts)


def _domains(keys: Iterable[ServiceKey]) -> dict[ServiceKey, list[str]]:
    """What each service is called, with a port or without: as in every door; as gRPC clients write a slash, which no
    proxy lets pass; and SERVICE.NAMESPACE, for people. Envoy knows no case in these, and takes none twice: the first
    that has a name keeps it."""
    keys = tuple(keys)
    taken: dict[str, ServiceKey] = {}
    for key in keys:
        taken.setdefault(shown(key).lower(), key)
    for key in keys:
        if shown(key) != key[1]:
            for name in (f"{key[0]}%2F{key[1]}", f"{key[1]}.{key[0]}"):
                taken.setdefault(name.lower(), key)
    found: dict[ServiceKey, list[str]] = {}
    for name, key in taken.items():
        found.setdefault(key, []).extend((name, f"{name}:*"))
    return found


def _route(prefix: str, action: xds.RouteAction) -> xds.Route:
    return xds.Route(match=xds.RouteMatch(prefix=prefix), route=action)
