"""CORE: responses as they are written, of both protocols. What a response holds is packed already, and a response that
many streams are told one after the other is one object, nonce and all."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from registry_api.registry.xds.v1 import ads_pb2 as ads
from registry_server import wire
from registry_server.xds.kinds import ResourceType
from registry_server.xds.packed import Packed, written

# Responses that are remembered, for the streams that are to be told the same.
REMEMBERED = 32
NOT_FOUND, PERMISSION_DENIED = 5, 7

_RESOURCES = ads.DiscoveryResponse.RESOURCES_FIELD_NUMBER
_VERSION, _ANY, _NAME = 1, 2, 3  # of a Resource


class Lack(NamedTuple):
    """A resource that is not there, and why: a code of gRPC, and a text."""

    name: str
    code: int
    text: str


class Content(NamedTuple):
    """What a response says. `digest` is that of all that its reader has of the type then."""

    kind: ResourceType
    digest: int
    resources: tuple[Packed, ...]
    removed: tuple[str, ...] = ()
    lacks: tuple[Lack, ...] = ()


class Response(NamedTuple):
    """One response, encoded; `number` grows with each that is made, and is the nonce."""

    number: int
    chunks: tuple[bytes, ...]

    @property
    def nonce(self) -> str:
        """As it is written."""
        return str(self.number)


class Encoder:
    """Makes responses. `identifier` says who answers."""

    def __init__(self, identifier: str = "") -> None:
        self._control_plane = ads.ControlPlane(identifier=identifier) if identifier else None
        self._made: OrderedDict[tuple[bool, Content], Response] = OrderedDict()
        self._number = 0

    def response(self, content: Content, after: int, *, is_delta: bool) -> Response:
        """The response that says that, for a stream that was told the number `after` last: it is told none twice."""
        key = (is_delta, content)
        known = self._made.get(key)
        if known is not None and known.number > after:
            return known
        self._number += 1
        chunks = self._delta(content) if is_delta else self._whole(content)
        made = self._made[key] = Response(self._number, chunks)
        if len(self._made) > REMEMBERED:
            self._made.popitem(last=False)
        return made

    def _whole(self, it: Content) -> tuple[bytes, ...]:
        frame = ads.DiscoveryResponse(
            version_info=written(it.digest),
            type_url=it.kind.url,
            nonce=str(self._number),
            control_plane=self._control_plane,
            resource_errors=map(_error, it.lacks),
        )
        chunks = [frame.SerializeToString()]
        for resource in it.resources:
            chunks += (_head(_RESOURCES, len(resource.any)), resource.any)
        return _joined(chunks)

    def _delta(self, it: Content) -> tuple[bytes, ...]:
        frame = ads.DeltaDiscoveryResponse(
            system_version_info=written(it.digest),
            type_url=it.kind.url,
            nonce=str(self._number),
            control_plane=self._control_plane,
            removed_resources=it.removed,
            resource_errors=map(_error, it.lacks),
        )
        chunks = [frame.SerializeToString()]
        for resource in it.resources:
            named = wire.message_field(_VERSION, resource.version.encode()) + wire.message_field(
                _NAME, resource.name.encode()
            )
            head = _head(_ANY, len(resource.any))
            whole = _head(_RESOURCES, len(named) + len(head) + len(resource.any))
            chunks += (whole + named + head, resource.any)
        return _joined(chunks)


# A response of very many small resources is written as one piece, and what is large is copied nowhere.
_SMALL = 4_096


def _joined(chunks: Sequence[bytes]) -> tuple[bytes, ...]:
    found: list[bytes] = []
    small: list[bytes] = []
    for chunk in chunks:
        if len(chunk) < _SMALL:
            small.append(chunk)
            continue
        found += (b"".join(small), chunk)
        small.clear()
    return tuple(filter(None, (*found, b"".join(small))))


def _head(number: int, length: int) -> bytes:
    return wire.varint(number << 3 | 2) + wire.varint(length)


def _error(lack: Lack) -> ads.ResourceError:
    problem = ads.Problem(code=lack.code, message=lack.text)
    return ads.ResourceError(resource_name=ads.ResourceName(name=lack.name), error_detail=problem)
