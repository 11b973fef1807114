"""CORE: health as users see it: checks of an instance, what they found, and the numbers of a service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack

from google.protobuf.duration_pb2 import Duration

from registry_api.registry.v1 import registry_pb2 as pb
from registry_checks import rules, text
from registry_client.errors import InvalidArgument, WrongType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.timestamp_pb2 import Timestamp


class Health(StrEnum):
    """What checks found of an instance. UNKNOWN (nobody has looked) counts as well for routing."""

    UNKNOWN = "UNKNOWN"
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    CRITICAL = "CRITICAL"

    @classmethod
    def from_proto(cls, number: int) -> Self:
        """The health as the registry tells it; one of a newer registry is read as the one that takes no traffic."""
        return cls(_HEALTHS.get(number, "CRITICAL"))


_HEALTHS: Mapping[int, str] = {number: name for name, number in pb.Health.items()}


class Pace(TypedDict, total=False):
    """How often a check looks, and what follows; times in seconds. What is not given is the registry's default."""

    name: str  # unique among the checks of an instance; by default its kind
    interval: float  # from one look to the next: 5
    timeout: float  # a look that takes longer has failed: 3
    initial_delay: float  # from the registration to the first look: 0
    failures: int  # so many in a row to UNHEALTHY: 3
    successes: int  # so many in a row to HEALTHY: 2
    critical_after: float  # UNHEALTHY for so long, it is CRITICAL: 0, never
    deregister_after: float  # CRITICAL (or, without critical_after, UNHEALTHY) for so long, it is removed: 0, never


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """How the registry, or a monitor, is to find out whether an instance is well; made by the name of its kind:

        HealthCheck.http("/healthz", interval=5, failures=3, deregister_after=30)
        HealthCheck.tcp() · .grpc("game.Logic") · .ttl() · .custom("redis", db="0") · .parse("http:/healthz interval=5")

    Raises InvalidArgument, which names the field, for what a registry would refuse.
    """

    encoded: bytes

    @classmethod
    def http(
        cls,
        path: str = "/",
        *,
        port: int = 0,
        tls: bool = False,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        host: str = "",
        statuses: Iterable[int] = (),
        body: bytes | str = b"",
        insecure: bool = False,
        **pace: Unpack[Pace],
    ) -> Self:
        """An HTTP request that has to be answered with one of the statuses (200 to 399), and with `body` in its body.

        `port`: if not that of the instance. `host`: if another is to be asked for. `insecure`: with `tls`, any
        certificate is good.
        """
        found = body.encode() if isinstance(body, str) else body
        asked = {"path": path, "port": port, "tls": tls, "method": method, "host": host, "body": found}
        asked |= {"headers": headers or {}, "statuses": statuses, "insecure": insecure}
        return cls._made("http", asked, pace)

    @classmethod
    def tcp(cls, port: int = 0, **pace: Unpack[Pace]) -> Self:
        """A connection that has to be taken; `port`: if not that of the instance."""
        return cls._made("tcp", {"port": port}, pace)

    @classmethod
    def grpc(
        cls, service: str = "", *, port: int = 0, tls: bool = False, authority: str = "", **pace: Unpack[Pace]
    ) -> Self:
        """grpc.health.v1, which has to say SERVING of the service; empty is the whole server."""
        return cls._made("grpc", {"service": service, "port": port, "tls": tls, "authority": authority}, pace)

    @classmethod
    def ttl(cls, **pace: Unpack[Pace]) -> Self:
        """The owner reports, by `registration.update(health=…)`, at least once in every interval."""
        return cls._made("ttl", {}, pace)

    @classmethod
    def custom(cls, type: str, /, **settings: Any) -> Self:  # noqa: A002 - as the API names it
        """A kind of check that was added to the server; what is no part of `Pace` is a setting of it, a string."""
        pace = {name: settings.pop(name) for name in Pace.__annotations__ if name in settings}
        return cls._made("custom", {"type": type, "settings": settings}, pace)

    @classmethod
    def parse(cls, written: str) -> Self:
        """A check in short: `http:/healthz`, `https:8443/`, `tcp:9000 interval=2`, `grpc:game.Logic`, `ttl`."""
        if not isinstance(written, str):
            raise WrongType(f"check: must be a string, such as 'http:/healthz', is {written!r:.60}", "check")
        try:
            return cls.from_proto(_settled(text.parse(written)))
        except text.BadText as wrong:
            raise InvalidArgument(f"check: {wrong}", "check") from None

    @classmethod
    def _made(cls, kind: str, asked: Mapping[str, object], pace: Mapping[str, Any]) -> Self:
        message = _paced(pace)
        try:
            fields: dict[str, Any] = {kind: getattr(pb.HealthCheck, kind.capitalize())(**asked)}
            message.MergeFrom(pb.HealthCheck(**fields))
        except (TypeError, ValueError) as error:
            raise WrongType(f"check.{kind}: {error}", f"check.{kind}") from None
        return cls.from_proto(_settled(message))

    def paced(self, **pace: Unpack[Pace]) -> Self:
        """The same check at another pace."""
        message, other = self.to_proto(), _paced(pace)
        for field, _ in other.ListFields():
            message.ClearField(field.name)  # type: ignore[arg-type]  # one of its own names
        message.MergeFrom(other)
        return self.from_proto(_settled(message))

    # ---- what it is

    @property
    def kind(self) -> str:
        """http, tcp, grpc, ttl or custom."""
        return self.to_proto().WhichOneof("kind") or ""

    @property
    def name(self) -> str:
        """Unique among the checks of an instance."""
        return self.to_proto().name

    def to_proto(self) -> pb.HealthCheck:
        """The check as it goes over the wire."""
        return pb.HealthCheck.FromString(self.encoded)

    @classmethod
    def from_proto(cls, message: pb.HealthCheck) -> Self:
        """The check as the registry shows it."""
        return cls(message.SerializeToString(deterministic=True))

    def __repr__(self) -> str:
        return f"HealthCheck({' '.join(str(self.to_proto()).split())})"


def _paced(pace: Mapping[str, Any]) -> pb.HealthCheck:
    unknown = sorted(pace.keys() - Pace.__annotations__.keys())
    if unknown:
        raise WrongType(f"check: can have {', '.join(Pace.__annotations__)}, not {', '.join(unknown)}", "check")
    message = pb.HealthCheck()
    for name, value in pace.items():
        if name in rules.SPANS:
            getattr(message, name).CopyFrom(_span(name, value))
        else:
            _set(message, name, value)
    return message


def _set(message: pb.HealthCheck, name: str, value: object) -> None:
    try:
        setattr(message, name, value)
    except (TypeError, ValueError) as error:
        raise WrongType(f"check.{name}: {error}", f"check.{name}") from None


def _settled(message: pb.HealthCheck) -> pb.HealthCheck:
    try:
        rules.settle(message)
    except rules.BadCheck as wrong:
        raise InvalidArgument(f"check.{wrong.field}: {wrong.reason}", f"check.{wrong.field}") from None
    return message


def _span(name: str, value: object) -> Duration:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WrongType(f"check.{name}: must be a number of seconds, is {value!r:.60}", f"check.{name}")
    span, (least, most) = Duration(), rules.SPANS[name]
    if not least <= value <= most:  # which is so for nan, too
        raise InvalidArgument(f"check.{name}: must be {least:g} to {most:g} seconds, is {value:g}", f"check.{name}")
    span.FromNanoseconds(round(value * 1e9))
    return span


def check_all(field: str, given: object) -> tuple[HealthCheck, ...]:
    """The checks of an instance. Raises InvalidArgument."""
    if not isinstance(given, Sequence) or not all(isinstance(check, HealthCheck) for check in given):
        raise WrongType(f"{field}: must be a list of HealthCheck, such as [HealthCheck.tcp()]", field)
    try:
        rules.settle_all([check.to_proto() for check in given])
    except rules.BadCheck as wrong:
        raise InvalidArgument(f"{field}{wrong.field}: {wrong.reason}", field + wrong.field) from None
    return tuple(given)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check found, as of when that changed its health: for people, and so many failures in a row."""

    name: str
    health: Health
    output: str
    checked_at: datetime | None
    failures: int

    @classmethod
    def from_proto(cls, message: pb.CheckResult) -> Self:
        """The result as the registry shows it."""
        at = _time(message.checked_at) if message.HasField("checked_at") else None
        return cls(message.name, Health.from_proto(message.health), message.output, at, message.failures)

    def to_proto(self) -> pb.CheckResult:
        """The result as it came over the wire."""
        health = pb.Health.Value(self.health.value)
        message = pb.CheckResult(name=self.name, health=health, output=self.output, failures=self.failures)
        if self.checked_at is not None:
            message.checked_at.FromDatetime(self.checked_at)
        return message


def _time(at: Timestamp) -> datetime | None:
    """A time that no calendar has is none."""
    try:
        return at.ToDatetime(UTC)
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True, slots=True)
class Prober:
    """A server that runs checks, and since when it takes itself for cut off and reports nobody, if it does."""

    name: str
    cut_off_at: datetime | None

    @classmethod
    def from_proto(cls, message: pb.Prober) -> Self:
        """As the registry shows it."""
        return cls(message.name, _time(message.cut_off_at) if message.HasField("cut_off_at") else None)

    def to_proto(self) -> pb.Prober:
        """As it came over the wire."""
        message = pb.Prober(name=self.name)
        if self.cut_off_at is not None:
            message.cut_off_at.FromDatetime(self.cut_off_at)
        return message


@dataclass(frozen=True, slots=True)
class HealthStats:
    """How well a service is: its instances by health. `rate` is the share that is HEALTHY, 0.0 of none."""

    total: int = 0
    healthy: int = 0
    unhealthy: int = 0
    critical: int = 0
    unknown: int = 0

    @property
    def rate(self) -> float:
        """The share that is HEALTHY, from 0.0 to 1.0."""
        return self.healthy / self.total if self.total else 0.0

    @classmethod
    def of(cls, healths: Iterable[Health]) -> Self:
        """The numbers of these."""
        found = list(healths)
        return cls(len(found), *(found.count(it) for it in _COUNTED))


_COUNTED = (Health.HEALTHY, Health.UNHEALTHY, Health.CRITICAL, Health.UNKNOWN)
