"""CORE: what checks found, as it stands in an instance: one result for each check, and the health that follows."""

from collections.abc import Iterable, Sequence

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from registry_api.registry.v1 import registry_pb2 as pb
from registry_checks.ladder import Rung, worst
from registry_server.records import Key, Kind, Record

REPORTED = "reported by its owner"


def is_replica(record: Record) -> bool:
    """Whether a record is one of a server: under a lease, so that it leaves with that. What else stands there somebody
    wrote by hand, and nobody would ever look at what is shared out to it."""
    return record.lease_id != "" and record.key == Key("", "", record.key.id, Kind.REPLICA)


def prober(record: Record) -> pb.Prober:
    """The record of a replica, whatever anybody wrote there; it goes by the name of its key."""
    try:
        found = pb.Prober.FromString(record.value)
    except DecodeError:
        found = pb.Prober()
    found.name = record.key.id
    return found


def result(name: str, rung: Rung, output: str, at_s: float, failures: int = 0) -> pb.CheckResult:
    """What one check found; `at_s` is wall-clock time in seconds."""
    checked_at = Timestamp()
    checked_at.FromMicroseconds(round(at_s * 1e6))
    return pb.CheckResult(name=name, health=health_of(rung), output=output, checked_at=checked_at, failures=failures)


def health_of(rung: Rung) -> pb.Health.ValueType:
    """As the API names it; what is to be removed is CRITICAL while it is there."""
    return pb.Health.Value(Rung.CRITICAL if rung is Rung.REMOVED else rung)


def rung_of(health: int) -> Rung:
    """The same the other way round; a number that nobody knows is UNKNOWN."""
    return Rung(pb.Health.Name(health)) if health in pb.Health.values() else Rung.UNKNOWN  # type: ignore[arg-type]


def take_in(instance: pb.Instance, found: Iterable[pb.CheckResult]) -> bool:
    """Put what checks found into their instance. What is no check of it (any more) is left out. Whether that changes
    anything."""
    before = (instance.health, list(instance.check_results))
    results = {it.name: it for it in (*instance.check_results, *found)}
    kept = [results[check.name] for check in instance.checks if check.name in results]
    # A check that has not looked yet says nothing against what was known when the instance was registered.
    rungs = [rung_of(it.health) for it in kept]
    if len(kept) < len(instance.checks):
        rungs.append(rung_of(instance.health))
    del instance.check_results[:]
    instance.check_results.extend(kept)
    instance.health = health_of(worst(rungs))
    return before != (instance.health, kept)


def takes_checks(instance: pb.Instance) -> bool:
    """Whether it is for a rule to say what its checks are: it brings none of its own, and is registered here."""
    return (instance.checks_by_rule or not instance.checks) and not instance.origin


def give_checks(instance: pb.Instance, checks: Sequence[pb.HealthCheck]) -> bool:
    """Have the checks of a rule in place of those of another one, or of none. Whether that changes anything.

    What was found stays as far as it is of a check that goes by the same name; without any check nothing is known.
    """
    if not takes_checks(instance) or list(instance.checks) == list(checks):
        return False
    if not checks:
        instance.health = pb.UNKNOWN
    del instance.checks[:]
    instance.checks.extend(checks)
    instance.checks_by_rule = bool(checks)
    if checks:
        take_in(instance, ())
    else:
        del instance.check_results[:]
    return True


def report(instance: pb.Instance, health: pb.Health.ValueType, at_s: float) -> bool:
    """Take in what the owner says of its health, if there is a check that waits for that. Whether there is one."""
    names = [check.name for check in instance.checks if check.WhichOneof("kind") == "ttl"]
    take_in(instance, [result(name, rung_of(health), REPORTED, at_s) for name in names])
    return bool(names)
