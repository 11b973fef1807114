"""CORE: the methods of registry.v1.Xds: who is connected by xDS, and what they report."""

import base64
import binascii
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

from registry_api.registry.v1 import xds_pb2 as pb
from registry_api.registry.v1.registry_pb2 import ResponseHeader
from registry_server import fields
from registry_server.errors import InvalidField
from registry_server.rights import EVERY
from registry_server.rpc import pages, validate
from registry_server.rpc.table import Caller, Name, Needs, Service, Unary
from registry_server.xds.kinds import ResourceType
from registry_server.xds.load import MAX_TOTAL, Load, LoadBook
from registry_server.xds.names import ServiceKey
from registry_server.xds.packed import written
from registry_server.xds.session import AdsSession, Flow

NAME = pb.DESCRIPTOR.services_by_name["Xds"].full_name
# So many streams of a client, and names of a subscription, are shown.
MAX_STREAMS = MAX_NAMES = 100
MAX_LOADS = 10_000
# ... and so much of a client that a message has room for it, whatever it asks for.
MAX_CLIENT_BYTES = 1024 * 1024

_TYPES = {
    ResourceType.CLUSTER: pb.XdsSubscription.CLUSTER,
    ResourceType.ENDPOINTS: pb.XdsSubscription.ENDPOINTS,
    ResourceType.LISTENER: pb.XdsSubscription.LISTENER,
    ResourceType.ROUTES: pb.XdsSubscription.ROUTES,
}

ClientName = tuple[str, str, str]
"""What tells clients apart: node id, identity, kind."""


class OpenStream(NamedTuple):
    """One stream: its session, who is at the other end, and since when (in seconds since 1970)."""

    session: AdsSession
    caller: Caller
    opened_at: float


class XdsAnswers:
    """One method for each RPC. They raise the errors of errors.py, and nothing else that is expected."""

    def __init__(
        self,
        streams: Callable[[], Iterable[OpenStream]],
        loads: LoadBook,
        header: Callable[[], ResponseHeader],
    ) -> None:
        self._streams = streams
        self._loads = loads
        self._header = header

    def service(self) -> Service:
        """What a table says of it."""
        return Service(
            NAME,
            {
                "ListClients": Unary(pb.ListClientsRequest, self.list_clients, Needs("admin")),
                "ListLoads": Unary(pb.ListLoadsRequest, self.list_loads, Needs("read", _asked, is_some=True)),
            },
        )

    async def list_clients(self, request: pb.ListClientsRequest, caller: Caller) -> bytes:
        """ListClients: see xds.proto."""
        size = validate.page_size(request.page_size)
        found: dict[ClientName, list[OpenStream]] = {}
        for stream in self._streams():
            if stream.session.client is not None:
                found.setdefault(_name(stream), []).append(stream)
        names = sorted(found)
        names = names[bisect_right(names, _after(request.page_token)) if request.page_token else 0 :]
        shown = [_client(found[name]) for name in names[:size]]
        page = pages.fitting(shown, pb.XdsClient.ByteSize)
        token = _token(names[len(page) - 1]) if len(page) < len(names) else ""
        return pb.ListClientsResponse(header=self._header(), clients=page, next_page_token=token).SerializeToString()

    async def list_loads(self, request: pb.ListLoadsRequest, caller: Caller) -> bytes:
        """ListLoads."""
        ((namespace, service),) = _asked(request)
        found = [
            _load(key, load)
            for key, load in self._loads.loads()
            if namespace in (EVERY, key[0]) and service in (EVERY, key[1]) and caller.rights.may("read", *key)
        ]
        return pb.ListLoadsResponse(header=self._header(), loads=found[:MAX_LOADS]).SerializeToString()


def _asked(request: pb.ListLoadsRequest) -> Sequence[Name]:
    if request.all_namespaces and request.namespace:
        raise InvalidField("namespace", "must be empty when all_namespaces is set")
    namespace = EVERY if request.all_namespaces else fields.namespace("namespace", request.namespace)
    return ((namespace, fields.name("service", request.service) if request.service else EVERY),)


def _name(stream: OpenStream) -> ClientName:
    client = stream.session.client
    assert client is not None  # noqa: S101 - only such are shown
    return client.id, stream.caller.identity, client.kind


def _token(name: ClientName) -> str:
    return base64.urlsafe_b64encode("\0".join(name).encode()).decode()


def _after(token: str) -> ClientName:
    try:
        id_, identity, kind = base64.urlsafe_b64decode(token.encode()).decode().split("\0")
    except (ValueError, binascii.Error):
        raise InvalidField("page_token", "is not one that this list gave out") from None
    return id_, identity, kind


def _client(streams: Sequence[OpenStream]) -> pb.XdsClient:
    client = streams[0].session.client
    assert client is not None  # noqa: S101 - only such are shown
    it = pb.XdsClient(
        node_id=client.id,
        node_cluster=client.cluster,
        kind=client.kind,
        user_agent=client.agent,
        user_agent_version=client.version,
        identity=streams[0].caller.identity,
        streams=[_stream(stream) for stream in streams[:MAX_STREAMS]],
        stream_count=len(streams),
    )
    if any(client.place):
        it.locality.region, it.locality.zone, it.locality.sub_zone = client.place
    while len(it.streams) > 1 and it.ByteSize() > MAX_CLIENT_BYTES:
        del it.streams[len(it.streams) // 2 :]
    return it


def _stream(it: OpenStream) -> pb.XdsStream:
    flows = [flow for flow in it.session.flows.values() if flow.has_asked]
    return pb.XdsStream(
        peer=it.caller.peer,
        incremental=it.session.is_delta,
        opened_at=_time(it.opened_at),
        subscriptions=[_subscription(flow) for flow in flows],
    )


def _subscription(flow: Flow) -> pb.XdsSubscription:
    it = pb.XdsSubscription(
        type=_TYPES[flow.kind],
        names=sorted(flow.names)[:MAX_NAMES],
        name_count=len(flow.names),
        wildcard=flow.is_wildcard,
        sent_version=written(flow.told) if flow.number else "",
        accepted_version=written(flow.accepted) if flow.accepted is not None else "",
        pending=flow.awaits,
    )
    if (rejection := flow.rejection) is not None:
        at = _time(rejection.at)
        it.rejection.CopyFrom(pb.XdsRejection(version=rejection.version, reason=rejection.reason, at=at))
    return it


def _load(key: ServiceKey, load: Load) -> pb.ServiceLoad:
    return pb.ServiceLoad(
        namespace=key[0],
        service=key[1],
        calls=load.calls,
        successes=load.successes,
        errors=load.errors,
        dropped=load.dropped,
        in_progress=min(sum(now.in_progress for now in load.now.values()), MAX_TOTAL),
        calls_per_second=sum(now.per_second for now in load.now.values()),
        clients=len(load.now),
        reported_at=_time(load.reported_at),
    )


def _time(at: float) -> Timestamp:
    found = Timestamp()
    found.FromNanoseconds(round(at * 1e9))
    return found
