"""CORE: the values users see: instances, endpoints, filters. Frozen, and translated to and from the wire here alone."""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple, NoReturn, Self, TypedDict, TypeVar, Unpack

from google.protobuf import field_mask_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from registry_api.limits import DEFAULT_NAMESPACE, DEFAULT_VERSION, DEFAULT_WEIGHT, MAX_WEIGHT
from registry_api.registry.v1 import registry_pb2 as pb
from registry_client import checks
from registry_client.addresses import parse_endpoint
from registry_client.errors import WrongType
from registry_client.health import CheckResult, Health, HealthCheck, check_all

# A ttl above this is no ttl: whoever sent it made a mistake.
_LONGEST_TTL_S = 366 * 24 * 3600.0

_K = TypeVar("_K")
_V = TypeVar("_V")


class FrozenDict(dict[_K, _V]):
    """A dict that cannot be changed, so that values which many share stay what they are. Raises TypeError for a try.

    It is a dict for whoever reads it: `json.dumps`, `pickle`, `copy` and `==` work; `dict(it)` is a copy to change.
    """

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("this dict cannot be changed; change a copy: dict(it)")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type, tuple[dict[_K, _V]]]:
        return type(self), (dict(self),)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)((deepcopy(key, memo), deepcopy(value, memo)) for key, value in self.items())


class Status(StrEnum):
    """What the owner, or an operator, wants of an instance."""

    ACTIVE = "ACTIVE"
    DRAINING = "DRAINING"
    DOWN = "DOWN"


class Cause(StrEnum):
    """Why an instance left. UNSPECIFIED: it is no longer within the filter, or nobody knows."""

    UNSPECIFIED = "UNSPECIFIED"
    EXPIRED = "EXPIRED"
    DEREGISTERED = "DEREGISTERED"
    REPLACED = "REPLACED"
    DRAINED = "DRAINED"
    UNHEALTHY = "UNHEALTHY"

    @classmethod
    def from_proto(cls, number: int) -> Self:
        """The cause as the registry tells it; one of a newer registry is UNSPECIFIED."""
        return cls(_CAUSES.get(number, "UNSPECIFIED"))


_CAUSES: Mapping[int, str] = {number: name.removeprefix("CAUSE_") for name, number in pb.Departure.Cause.items()}


class Key(NamedTuple):
    """Names one instance."""

    namespace: str
    service: str
    id: str

    def __str__(self) -> str:
        return "/".join(self)

    def to_proto(self) -> pb.InstanceKey:
        """The key as it goes over the wire."""
        return pb.InstanceKey(namespace=self.namespace, service=self.service, id=self.id)


@dataclass(frozen=True, slots=True)
class Locality:
    """Where an instance runs, from the widest to the narrowest; an empty part is unknown."""

    region: str = ""
    zone: str = ""
    sub_zone: str = ""

    def to_proto(self) -> pb.Locality:
        """The locality as it goes over the wire."""
        return pb.Locality(region=self.region, zone=self.zone, sub_zone=self.sub_zone)


@dataclass(frozen=True, slots=True)
class Instance:
    """One running process serving one service.

    `service`, `host` and `port` are required to register; an empty `id` is made by the registry, an empty `namespace`
    means the client's. `weight` is the share of traffic relative to the others of the service, 0 for none. With
    `checks` the registry looks whether it is well, and `health` is what it finds; with `checks_by_rule` they are those
    that an operator set for the service, and none that it brings. From `revision` on, but for `checks`,
    the registry sets the fields and ignores what a caller sends: `generation` grows each time the id is
    taken over by a new owner (a fencing token), `ttl_s` is the time to live of its lease in seconds, `leaves_at` is set
    while it drains towards its deregistration, `origin` is the neighbour that it was taken from, `registered_by`
    the identity that registered it, where the registry knows identities, `changed_by` the one that made it what it is
    now, and `changed_from` the host that one called from. Raises InvalidArgument
    for a value of a type that cannot be sent.
    """

    service: str
    host: str
    port: int
    id: str = ""
    namespace: str = ""
    version: str = DEFAULT_VERSION
    weight: int = DEFAULT_WEIGHT
    tags: Sequence[str] = ()
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)
    locality: Locality = Locality()
    status: Status = Status.ACTIVE
    health: Health = Health.UNKNOWN
    revision: int = 0
    create_revision: int = 0
    generation: int = 0
    registered_at: datetime | None = None
    ttl_s: float | None = None
    leaves_at: datetime | None = None
    checks: Sequence[HealthCheck] = ()
    check_results: Sequence[CheckResult] = ()
    checks_by_rule: bool = False
    origin: str = ""
    registered_by: str = ""
    changed_by: str = ""
    changed_from: str = ""

    def __post_init__(self) -> None:
        for name in _TEXTS:
            checks.text(f"instance.{name}", getattr(self, name))
        for name, least, most in _NUMBERS:
            object.__setattr__(self, name, checks.whole(f"instance.{name}", getattr(self, name), least, most))
        object.__setattr__(self, "tags", checks.tags("instance.tags", self.tags))
        object.__setattr__(self, "metadata", FrozenDict(checks.metadata("instance.metadata", self.metadata)))
        object.__setattr__(self, "status", checks.one_of("instance.status", Status, self.status))
        object.__setattr__(self, "health", checks.one_of("instance.health", Health, self.health))
        _check_locality("instance.locality", self.locality)
        if self.checks != ():
            object.__setattr__(self, "checks", check_all("instance.checks", self.checks))
        if self.check_results != ():
            results = checks.all_of("instance.check_results", CheckResult, self.check_results)
            object.__setattr__(self, "check_results", results)
        for name in ("registered_at", "leaves_at"):
            checks.moment(f"instance.{name}", getattr(self, name))
        if self.ttl_s is not None:
            object.__setattr__(self, "ttl_s", checks.seconds("instance.ttl_s", self.ttl_s, 0.0, _LONGEST_TTL_S))

    @classmethod
    def at(cls, service: str, address: str, /, **fields: Any) -> Self:
        """One that listens at `address`, in one string as `10.0.0.5:8001` or `[::1]:8001`; `fields` are the others.

        Raises InvalidTarget for what is no such address, InvalidArgument for the rest.
        """
        host, port = parse_endpoint(address)
        return cls(service, host, port, **fields)

    @property
    def key(self) -> Key:
        """Its name: namespace, service and id."""
        return Key(self.namespace or DEFAULT_NAMESPACE, self.service, self.id)

    @property
    def address(self) -> str:
        """Where it listens, as gRPC targets are written: `10.0.0.5:8001`, `[::1]:8001`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def routable(self) -> bool:
        """True when it gets traffic: ACTIVE, UNKNOWN or HEALTHY, and of a weight above 0."""
        return self.status is Status.ACTIVE and self.health in (Health.UNKNOWN, Health.HEALTHY) and self.weight > 0

    def to_proto(self) -> pb.Instance:
        """The instance as it goes over the wire; the registry ignores what only it sets, but for `generation`."""
        message = pb.Instance(
            namespace=self.namespace,
            service=self.service,
            id=self.id,
            host=self.host,
            port=self.port,
            version=self.version,
            weight=self.weight,
            tags=self.tags,
            metadata=self.metadata,
            locality=self.locality.to_proto(),
            status=pb.Status.Value(self.status.value),
            health=pb.Health.Value(self.health.value),
            revision=self.revision,
            create_revision=self.create_revision,
            generation=self.generation,
        )
        if self.registered_at is not None:
            message.registered_at.FromDatetime(self.registered_at)
        if self.ttl_s is not None:
            message.ttl.FromNanoseconds(round(self.ttl_s * 1e9))
        if self.leaves_at is not None:
            message.leaves_at.FromDatetime(self.leaves_at)
        message.checks_by_rule, message.origin = self.checks_by_rule, self.origin
        message.registered_by = self.registered_by
        message.changed_by, message.changed_from = self.changed_by, self.changed_from
        message.checks.extend(check.to_proto() for check in self.checks)
        message.check_results.extend(result.to_proto() for result in self.check_results)
        return message

    @classmethod
    def from_proto(cls, message: pb.Instance) -> Self:
        """The instance as the registry shows it. Takes whatever a message can hold: what makes no sense is left out."""
        where = message.locality
        made = cls.__new__(cls)  # a message has the right types by itself, and there may be 100,000 of them
        for name, value in (
            ("service", message.service),
            ("host", message.host),
            ("port", message.port),
            ("id", message.id),
            ("namespace", message.namespace or DEFAULT_NAMESPACE),
            ("version", message.version),
            ("weight", message.weight if message.HasField("weight") else DEFAULT_WEIGHT),
            ("tags", tuple(message.tags)),
            ("metadata", FrozenDict(message.metadata)),
            ("locality", Locality(where.region, where.zone, where.sub_zone)),
            ("status", _STATUSES.get(message.status, Status.DOWN)),
            ("health", Health.from_proto(message.health)),
            ("revision", message.revision),
            ("create_revision", message.create_revision),
            ("generation", message.generation),
            ("registered_at", _when(message.registered_at) if message.HasField("registered_at") else None),
            ("ttl_s", _ttl_s(message.ttl) if message.HasField("ttl") else None),
            ("leaves_at", _when(message.leaves_at) if message.HasField("leaves_at") else None),
            ("checks", tuple(map(HealthCheck.from_proto, message.checks)) if message.checks else ()),
            ("check_results", tuple(map(CheckResult.from_proto, message.check_results)) if message.checks else ()),
            ("checks_by_rule", message.checks_by_rule),
            ("origin", message.origin),
            ("registered_by", message.registered_by),
            ("changed_by", message.changed_by),
            ("changed_from", message.changed_from),
        ):
            object.__setattr__(made, name, value)
        return made

    def is_same_owner(self, other: Self) -> bool:
        """Whether `other` was registered by the owner of this one: at the same place, and at the same moment."""
        places = {(it.namespace, it.service, it.id, it.host, it.port, it.registered_at) for it in (self, other)}
        return len(places) == 1 and self.registered_at is not None

    def updated_like(self, seen: Self) -> Self:
        """This instance with what an Update may have changed in the registry since."""
        return replace(
            self,
            status=seen.status,
            weight=seen.weight,
            metadata=seen.metadata,
            tags=seen.tags,
            version=seen.version,
            health=seen.health,
        )


@dataclass(frozen=True, slots=True)
class Removed(Instance):
    """An instance that left, as it was last, and why: its lease ran out (EXPIRED), it was DEREGISTERED, another one
    registered its address (REPLACED), its time to drain was over (DRAINED), or its checks failed (UNHEALTHY)."""

    cause: Cause = Cause.UNSPECIFIED

    @classmethod
    def of(cls, instance: Instance, cause: Cause) -> Self:
        """That instance, whatever it holds."""
        made = cls.__new__(cls)
        for it in fields(Instance):
            object.__setattr__(made, it.name, getattr(instance, it.name))
        object.__setattr__(made, "cause", cause)
        return made


_TEXTS = (
    *("service", "host", "id", "namespace", "version", "origin"),
    *("registered_by", "changed_by", "changed_from"),
)
# What a message can hold, for the fields that are numbers.
_NUMBERS = (
    ("port", 0, 65535),
    ("weight", 0, MAX_WEIGHT),
    ("revision", 0, checks.MAX_INT64),
    ("create_revision", 0, checks.MAX_INT64),
    ("generation", 0, checks.MAX_INT64),
)


def _check_locality(field: str, value: object) -> Locality:
    if not isinstance(value, Locality):
        raise checks.wrong_type(field, "must be a Locality", value, "Locality(region='eu', zone='eu-1')")
    for part in ("region", "zone", "sub_zone"):
        checks.text(f"{field}.{part}", getattr(value, part))
    return value


def _when(value: Timestamp) -> datetime | None:
    """A time that no calendar has is none: the rest of the instance is no worse for it."""
    try:
        return value.ToDatetime(UTC)
    except (ValueError, OverflowError):
        return None


def _ttl_s(value: Duration) -> float | None:
    """A ttl that cannot be one is none."""
    ttl_s = round(value.ToNanoseconds() / 1e9, 6)
    return ttl_s if 0 <= ttl_s <= _LONGEST_TTL_S else None


# An enum value of a newer registry is read as the one that takes no traffic.
_STATUSES: Mapping[int, Status] = {number: Status(name) for name, number in pb.Status.items()}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to send calls: the address of a routable instance."""

    address: str
    instance: Instance


@dataclass(frozen=True, slots=True)
class ServiceSummary:
    """One service in numbers: how many instances are registered, how many of them get traffic, how many have which
    health (the others are UNKNOWN), and how many are DRAINING."""

    namespace: str
    service: str
    instances: int
    routable: int
    healthy: int = 0
    unhealthy: int = 0
    critical: int = 0
    draining: int = 0

    @classmethod
    def from_proto(cls, it: pb.ServiceSummary) -> Self:
        """The numbers as the registry shows them."""
        health = (it.healthy, it.unhealthy, it.critical, it.draining)
        return cls(it.namespace, it.service, it.instances, it.routable, *health)

    def to_proto(self) -> pb.ServiceSummary:
        """The numbers as they came over the wire."""
        return pb.ServiceSummary(**{it.name: getattr(self, it.name) for it in fields(self)})


@dataclass(frozen=True, slots=True)
class NamespaceSummary:
    """One namespace in numbers: how many of its services have instances, and how many instances these have."""

    namespace: str
    services: int
    instances: int


class Filters(TypedDict, total=False):
    """Which instances are meant: all conditions that are given must hold."""

    tags: Iterable[str]  # has all of these
    metadata: Mapping[str, str]  # has all of these, with these values
    version: str  # has this one
    statuses: Iterable[Status | str]  # has one of these
    healths: Iterable[Health | str]  # has one of these
    locality: Locality  # equals in every part that is not empty
    healthy_only: bool  # gets traffic: see `Instance.routable`


def filter_to_proto(**filters: Unpack[Filters]) -> pb.Filter:
    """Filters as they go over the wire. Raises InvalidArgument for what they cannot be."""
    _check_names("filter", filters, Filters)
    tags, pairs, where = filters.get("tags", ()), filters.get("metadata"), filters.get("locality")
    return pb.Filter(
        tags=checks.tags("filter.tags", [tags] if isinstance(tags, str) else tags),
        metadata=checks.metadata("filter.metadata", {} if pairs is None else pairs),
        version=checks.text("filter.version", filters.get("version", "")),
        statuses=[pb.Status.Value(it) for it in checks.some_of("filter.statuses", Status, filters.get("statuses", ()))],
        healths=[pb.Health.Value(it) for it in checks.some_of("filter.healths", Health, filters.get("healths", ()))],
        locality=None if where is None else _check_locality("filter.locality", where).to_proto(),
        routable_only=checks.yes_or_no("filter.healthy_only", filters.get("healthy_only", False)),
    )


class Fields(TypedDict, total=False):
    """What an update may change."""

    status: Status | str
    weight: int
    metadata: Mapping[str, str]
    tags: Sequence[str]
    version: str
    health: Health | str


def update_to_proto(key: Key, changes: Fields) -> pb.UpdateRequest:
    """An update of the named fields as it goes over the wire. Raises InvalidArgument for what it cannot be."""
    _check_names("update_mask", changes, Fields)
    if not changes:
        names = ", ".join(sorted(Fields.__annotations__))
        raise WrongType(f"update_mask: name one or more of {names}", "update_mask")
    values: dict[str, Any] = dict(changes)
    changed = Instance(service=key.service, host="", port=0, id=key.id, namespace=key.namespace, **values)
    _check_changeable(changed)
    return pb.UpdateRequest(instance=changed.to_proto(), update_mask=field_mask_pb2.FieldMask(paths=sorted(changes)))


def check_registrable(instance: object) -> Instance:
    """An instance that a registry takes. Raises InvalidArgument for the first thing that it would refuse."""
    if not isinstance(instance, Instance):
        raise checks.wrong_type("instance", "must be an Instance", instance, "Instance(service=…, host=…, port=…)")
    checks.name("instance.namespace", instance.namespace, empty=True)
    checks.name("instance.service", instance.service)
    checks.name("instance.id", instance.id, empty=True)
    checks.host("instance.host", instance.host)
    checks.port("instance.port", instance.port)
    for part in ("region", "zone", "sub_zone"):
        checks.printable(f"instance.locality.{part}", getattr(instance.locality, part))
    _check_changeable(instance)
    return instance


def _check_changeable(instance: Instance) -> None:
    checks.printable("instance.version", instance.version)
    checks.labels(instance.tags, instance.metadata)


def _check_names(field: str, given: Mapping[str, object], allowed: type[Filters] | type[Fields]) -> None:
    unknown = sorted(given.keys() - allowed.__annotations__.keys())
    if unknown:
        names = ", ".join(sorted(allowed.__annotations__))
        raise WrongType(f"{field}: can name {names}, not {', '.join(unknown)}", field)
