"""CORE: why an instance gets traffic or none, as the registry tells it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Self

from registry_api.registry.v1 import why_pb2 as pb
from registry_client.errors import InvalidAnswer
from registry_client.instance import Cause, Instance, Key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from google.protobuf.timestamp_pb2 import Timestamp


class Effect(StrEnum):
    """What something means for the traffic: it PASSES, it STOPS it, or it WARNS: none is kept away by it alone, and
    somebody should look."""

    UNSPECIFIED = "UNSPECIFIED"
    PASSES = "PASSES"
    STOPS = "STOPS"
    WARNS = "WARNS"


class Door(StrEnum):
    """How a client is told: by `Registry.Watch`, or by xDS."""

    UNSPECIFIED = "UNSPECIFIED"
    WATCH = "WATCH"
    XDS = "XDS"


_EFFECTS: Mapping[int, str] = {number: name for name, number in pb.Reason.Effect.items()}
_DOORS: Mapping[int, str] = {number: name for name, number in pb.ToldClient.Kind.items()}


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that decides: `about` what it is (`status`, `health`, `lease`, …), and what there is to say of it."""

    about: str
    effect: Effect
    text: str


@dataclass(frozen=True, slots=True)
class InstanceVerdict:
    """One instance, and whether it gets traffic. `lease_left_s` and `renewed_at` are None where its renewals do not
    come to the server that answers."""

    instance: Instance
    gets_traffic: bool
    verdict: str
    lease_left_s: float | None
    renewed_at: datetime | None


@dataclass(frozen=True, slots=True)
class ToldClient:
    """A client that is told of a service. `current`: it was told the present state; `leaves_out`: what it asks for does
    not mean the instance; `trouble`: what is wrong with it, empty if nothing is."""

    door: Door
    peer: str
    identity: str
    node_id: str
    connected_at: datetime | None
    told_at: datetime | None
    current: bool
    leaves_out: bool
    trouble: str


@dataclass(frozen=True, slots=True)
class Leaving:
    """That an instance left: why, by whom (identity, and host) and when, as far as that is known; `detail` is more of
    it for people, `late` that it may have been earlier."""

    key: Key
    cause: Cause
    identity: str
    peer: str
    detail: str
    at: datetime | None
    late: bool
    revision: int


@dataclass(frozen=True, slots=True)
class Why:
    """Whether something gets traffic, and what decides it. `str` of it is the verdict, in a line.

    `reasons` are in the order in which they decide; `instances` is the one that was asked about, or all of the service.
    Of `clients` those that need looking at come first, and there are `client_count` of them: they are shown to who may
    operate the service. Of what is not there: `left`, and `similar` names.
    """

    gets_traffic: bool
    verdict: str
    reasons: tuple[Reason, ...]
    instances: tuple[InstanceVerdict, ...]
    clients: tuple[ToldClient, ...]
    client_count: int
    instance_count: int
    serving_count: int
    left: Leaving | None
    similar: tuple[str, ...]
    message: pb.WhyResponse = field(repr=False, compare=False)
    """As it came, all pages together."""

    def __str__(self) -> str:
        return self.verdict

    @classmethod
    def from_proto(cls, message: pb.WhyResponse) -> Self:
        """What the registry says. Raises InvalidAnswer for an answer without a verdict."""
        if not message.verdict:
            raise InvalidAnswer("the answer has no verdict")
        return cls(
            message.gets_traffic,
            message.verdict,
            tuple(_reason(it) for it in message.reasons),
            tuple(_verdict(it) for it in message.instances),
            tuple(_client(it) for it in message.clients),
            message.client_count,
            message.instance_count,
            message.serving_count,
            _leaving(message.left) if message.HasField("left") else None,
            tuple(message.similar),
            message,
        )


def joined(pages: Sequence[pb.WhyResponse]) -> pb.WhyResponse:
    """One answer of several pages: the first, and the instances of all."""
    whole = pages[0]
    for page in pages[1:]:
        whole.instances.extend(page.instances)
    whole.next_page_token = ""
    return whole


def _reason(it: pb.Reason) -> Reason:
    return Reason(it.about, Effect(_EFFECTS.get(it.effect, "").removeprefix("EFFECT_") or "UNSPECIFIED"), it.text)


def _verdict(it: pb.InstanceVerdict) -> InstanceVerdict:
    left_s = it.lease_left.ToNanoseconds() / 1e9 if it.HasField("lease_left") else None
    renewed_at = _time(it.renewed_at) if it.HasField("renewed_at") else None
    return InstanceVerdict(Instance.from_proto(it.instance), it.gets_traffic, it.verdict, left_s, renewed_at)


def _client(it: pb.ToldClient) -> ToldClient:
    return ToldClient(
        Door(_DOORS.get(it.kind, "").removeprefix("KIND_") or "UNSPECIFIED"),
        it.peer,
        it.identity,
        it.node_id,
        _time(it.connected_at) if it.HasField("connected_at") else None,
        _time(it.told_at) if it.HasField("told_at") else None,
        it.current,
        it.leaves_out,
        it.trouble,
    )


def _leaving(it: pb.Leaving) -> Leaving:
    key = Key(it.key.namespace, it.key.service, it.key.id)
    at = _time(it.at) if it.HasField("at") else None
    return Leaving(key, Cause.from_proto(it.cause), it.identity, it.peer, it.detail, at, it.late, it.revision)


def _time(at: Timestamp) -> datetime | None:
    """A time that no calendar has is none."""
    try:
        return at.ToDatetime(UTC)
    except (ValueError, OverflowError):
        return None
