"""CORE: services that others registered in Consul, as instances: what its health API says, whatever that is."""

from collections.abc import Iterable, Iterator, Sequence
from typing import cast

from registry_api.limits import MAX_NAME, MAX_WEIGHT
from registry_api.registry.v1 import registry_pb2 as pb
from registry_checks.rules import shown as in_a_line
from registry_server.neighbours.anything import Json, list_in, number_in, table_in, text_in
from registry_server.neighbours.consul.shown import MARK
from registry_server.neighbours.names import name_for, sound

# Consul's services have a weight of 1 where nobody says otherwise, ours one of 100.
WEIGHT = 100

_HEALTH = {"passing": pb.HEALTHY, "warning": pb.HEALTHY, "critical": pb.CRITICAL}


def taken(found: object, registry: str, namespace: str) -> Iterator[pb.Instance]:
    """The instances in an answer, but for those that are ours. What is none, is left out."""
    for entry in found if isinstance(found, list) else ():
        service, node = table_in(entry, "Service"), table_in(entry, "Node")
        if text_in(service, "Kind") or text_in(table_in(service, "Meta"), MARK) == registry:
            continue
        if 0 < number_in(service, "Port") <= 65_535:
            yield _instance(service, node, _checks(entry), namespace)


def _instance(service: Json, node: Json, checks: Sequence[Json], namespace: str) -> pb.Instance:
    meta = {sound(key): sound(value) for key, value in table_in(service, "Meta").items() if isinstance(value, str)}
    meta.pop("", None)
    statuses = {text_in(check, "Status") for check in checks}
    version = meta.get("version", "")
    return pb.Instance(
        namespace=namespace,
        service=text_in(service, "Service"),
        id=name_for(f"{text_in(node, 'Node')}:{text_in(service, 'ID')}"),
        host=text_in(service, "Address") or text_in(node, "Address"),
        port=number_in(service, "Port"),
        version=version if len(version) <= MAX_NAME and version.isprintable() else "",
        weight=_weight(table_in(service, "Weights"), "Warning" if "warning" in statuses else "Passing"),
        tags=dict.fromkeys(sound(tag) for tag in list_in(service, "Tags") if isinstance(tag, str) and tag),
        metadata=meta,
        health=_health(statuses),
        check_results=[_result(check) for check in checks],
    )


def _health(statuses: Iterable[str]) -> pb.Health.ValueType:
    """What Consul gives traffic to is well: it does so until a check is critical."""
    found = {_HEALTH.get(status, pb.UNKNOWN) for status in statuses}
    return pb.CRITICAL if pb.CRITICAL in found else pb.HEALTHY if pb.HEALTHY in found else pb.UNKNOWN


def _result(check: Json) -> pb.CheckResult:
    status = text_in(check, "Status")
    return pb.CheckResult(
        name=in_a_line(text_in(check, "Name") or text_in(check, "CheckID")),
        health=_HEALTH.get(status, pb.UNKNOWN),
        output="" if status == "passing" else in_a_line(text_in(check, "Output")),
    )


def _checks(entry: object) -> list[Json]:
    """In the order of their names, so that the same ones look the same."""
    found = [cast("Json", it) for it in list_in(entry, "Checks") if isinstance(it, dict)]
    return sorted(found, key=lambda it: text_in(it, "CheckID"))


def _weight(weights: Json, which: str) -> int:
    weight = number_in(weights, which) if which in weights else 1
    return min(max(0, weight) * WEIGHT, MAX_WEIGHT)
