"""CORE: what the methods of this folder need of their callers: which right, to what, by the request."""

from collections.abc import Iterable, Iterator

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server import fields
from registry_server.rights import EVERY
from registry_server.rpc import validate
from registry_server.rpc.table import Name, Needs, everything

_Asking = pb.ListRequest | pb.ListServicesRequest | pb.WatchRequest
_Scoped = pb.ChecksGetRequest | pb.ChecksDeleteRequest


def _instance(request: pb.RegisterRequest | pb.UpdateRequest) -> Iterable[Name]:
    it = request.instance
    return (_name("instance", it.namespace, it.service),)


def _key(request: pb.GetRequest) -> Iterable[Name]:
    return (_name("key", request.key.namespace, request.key.service),)


def _leaving(request: pb.DeregisterRequest) -> Iterable[Name]:
    """With a lease it is known by the lease whose it is."""
    return everything(request) if request.lease_id else (_name("key", request.key.namespace, request.key.service),)


def _asked(services: Iterable[str], request: _Asking, field: str) -> Iterator[Name]:
    """Each service that is named, or all that there are."""
    namespace = validate.namespace(request) or EVERY
    named = [fields.name(field, it) for it in services]
    return ((namespace, service) for service in named or (EVERY,))


def _listed(request: pb.ListRequest) -> Iterable[Name]:
    return _asked([request.service] if request.service else [], request, "service")


def _watched(request: pb.WatchRequest) -> Iterable[Name]:
    validate.services(request)
    return _asked(request.services, request, "services")


def _services(request: pb.ListServicesRequest) -> Iterable[Name]:
    return _asked((), request, "service")


def _rule(request: pb.ChecksPutRequest) -> Iterable[Name]:
    return (_scope("rule.scope", request.rule.scope),)


def _scoped(request: _Scoped) -> Iterable[Name]:
    return (_scope("scope", request.scope),)


def _scope(field: str, it: pb.CheckScope) -> Name:
    namespace = EVERY if it.all_namespaces else fields.namespace(f"{field}.namespace", it.namespace)
    return namespace, fields.name(f"{field}.service", it.service) if it.service else EVERY


def _name(field: str, namespace: str, service: str) -> Name:
    return fields.namespace(f"{field}.namespace", namespace), fields.name(f"{field}.service", service)


REGISTER = Needs("register", _instance)
DEREGISTER = Needs("register", _leaving, is_some=True)
KEEP_ALIVE = Needs("register", is_some=True)
UPDATE = Needs("register", _instance)
GET = Needs("read", _key)
LIST = Needs("read", _listed, is_some=True)
LIST_SERVICES = Needs("read", _services, is_some=True)
READ_SOME = Needs("read", is_some=True)
WATCH = Needs("read", _watched, is_some=True)
PUT_RULE = Needs("admin", _rule)
GET_RULE = Needs("read", _scoped)
DELETE_RULE = Needs("admin", _scoped)
