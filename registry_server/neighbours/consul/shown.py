"""CORE: our instances as services of a Consul agent: what is registered there, and under which checks."""

import hashlib
import json
from typing import NamedTuple

from registry_api.registry.v1 import registry_pb2 as pb
from registry_checks.rules import seconds_of
from registry_server.records import Key

# In the metadata of a service of ours: which registry it is of, and what it looked like when it was registered.
MARK, DIGEST = "grpc-registry", "grpc-registry-digest"
# We say every VOUCH_S that an instance is still registered; Consul takes it for gone after TTL_S without that, and
# removes it after another GONE_S, which is the least that it knows.
VOUCH_S, TTL_S, GONE_S = 20.0, 60.0, 60.0
# The other check comes and goes, and does not change by time.
_FOREVER = "87600h"
# What Consul takes as metadata.
_MOST_META, _MOST_KEY, _MOST_VALUE = 64, 128, 512
_KEY = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_MOST_WEIGHT = 65_535

Definition = dict[str, object]


class Shown(NamedTuple):
    """A service as it is registered at an agent. `vouched` is the check by which we say that it is still here."""

    id: str
    digest: str
    body: bytes
    vouched: str


def shown(key: Key, it: pb.Instance, registry: str) -> Shown:
    """An instance of the registry of that name."""
    id_ = f"{registry}/{key.namespace}/{key.service}/{key.id}"
    is_well = it.status == pb.ACTIVE and it.weight > 0 and it.health in (pb.UNKNOWN, pb.HEALTHY)
    status = "passing" if is_well else "critical"
    weight = min(max(1, it.weight), _MOST_WEIGHT)
    definition: Definition = {
        "ID": id_,
        "Name": it.service,
        "Address": it.host,
        "Port": it.port,
        "Tags": list(it.tags),
        "Weights": {"Passing": weight, "Warning": weight},
        "Checks": [
            _vouched(id_),
            *([] if is_well else [_sick(id_, it)]),
            *(found for check in it.checks if (found := native(check, it, id_, status)) is not None),
        ],
    }
    meta = _meta(it) | {MARK: registry}
    digest = hashlib.sha256(json.dumps([definition, meta], sort_keys=True).encode()).hexdigest()[:16]
    body = json.dumps(definition | {"Meta": meta | {DIGEST: digest}}).encode()
    return Shown(id_, digest, body, f"{id_}/registered")


def _vouched(id_: str) -> Definition:
    return {
        "CheckID": f"{id_}/registered",
        "Name": "registered",
        "TTL": f"{TTL_S:g}s",
        "Status": "passing",
        "DeregisterCriticalServiceAfter": f"{GONE_S:g}s",
    }


def _sick(id_: str, it: pb.Instance) -> Definition:
    """A check that is there as long as the instance gets no traffic: an agent needs its time for each check."""
    return {
        "CheckID": f"{id_}/health",
        "Name": "health in the registry",
        "TTL": _FOREVER,
        "Status": "critical",
        "Notes": f"{pb.Status.Name(it.status)}, {pb.Health.Name(it.health)}, weight {it.weight}",
    }


def _meta(it: pb.Instance) -> dict[str, str]:
    """As much of the metadata as Consul takes, with the version beside it."""
    given = {"version": it.version, **it.metadata}
    fitting = {
        key: value
        for key, value in given.items()
        if 0 < len(key) <= _MOST_KEY
        and len(value.encode()) <= _MOST_VALUE
        and _KEY.issuperset(key)
        and not key.lower().startswith(("consul-", MARK))
    }
    return dict(list(fitting.items())[: _MOST_META - 2])


# ---- checks


def native(check: pb.HealthCheck, it: pb.Instance, id_: str, status: str) -> Definition | None:
    """The same check as Consul's agent does it; None for one that it cannot do, which our health stands for."""
    match check.WhichOneof("kind"):
        case "http" if not check.http.statuses and not check.http.body:
            how = _http(check.http, it)
        case "tcp":
            how = {"TCP": _address(it.host, check.tcp.port or it.port)}
        case "grpc":
            how = _grpc(check.grpc, it)
        case _:
            return None
    return how | {
        "CheckID": f"{id_}/check/{check.name}",
        "Name": check.name,
        "Interval": f"{seconds_of(check.interval):g}s",
        "Timeout": f"{seconds_of(check.timeout):g}s",
        "FailuresBeforeCritical": check.failures,
        "SuccessBeforePassing": check.successes,
        "Status": status,
        **_removal(check),
    }


def _removal(check: pb.HealthCheck) -> Definition:
    after_s = seconds_of(check.critical_after) + seconds_of(check.deregister_after)
    if not seconds_of(check.deregister_after):
        return {}
    return {"DeregisterCriticalServiceAfter": f"{max(GONE_S, after_s):g}s"}


def _http(http: pb.HealthCheck.Http, it: pb.Instance) -> Definition:
    scheme = "https" if http.tls else "http"
    headers = {name: [value] for name, value in http.headers.items()}
    if http.host:
        headers = {**headers, "Host": [http.host]}
    return {
        "HTTP": f"{scheme}://{_address(it.host, http.port or it.port)}{http.path}",
        "Method": http.method,
        "Header": headers,
        **({"TLSSkipVerify": True} if http.insecure else {}),
        **({"TLSServerName": _without_port(http.host)} if http.tls and http.host else {}),
    }


def _grpc(grpc: pb.HealthCheck.Grpc, it: pb.Instance) -> Definition:
    address = _address(it.host, grpc.port or it.port)
    return {
        "GRPC": f"{address}/{grpc.service}" if grpc.service else address,
        "GRPCUseTLS": grpc.tls,
        **({"TLSServerName": _without_port(grpc.authority)} if grpc.tls and grpc.authority else {}),
    }


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _without_port(authority: str) -> str:
    host, bracket, _ = authority.partition("]")
    return host.strip("[") if bracket else authority.partition(":")[0]
