"""CORE: instances as Curator's service discovery writes them: one JSON object in a node `SERVICE/ID`.

What Curator has no field for stands in one of ours, which it does not look at; that it is there also tells our
instances from everybody else's. The payload belongs to Java classes of theirs, so ours is null, and of theirs it is
read what is text: the metadata that Spring Cloud puts there, or else what is in it.
"""

import json

from registry_api.limits import MAX_NAME, MAX_WEIGHT
from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.neighbours.anything import Json, list_in, number_in, table_in, text_in
from registry_server.neighbours.names import name_for, sound

# The field of ours.
MARK = "grpcRegistry"
# In Spring Cloud's metadata.
_STATUS, _UP = "instance_status", "UP"


def written(it: pb.Instance, registry: str) -> bytes:
    """An instance of the registry of that name, as it is shown there."""
    is_well = it.status == pb.ACTIVE and it.weight > 0 and it.health in (pb.UNKNOWN, pb.HEALTHY)
    ours = {
        "registry": registry,
        "version": it.version,
        "weight": it.weight,
        "tags": list(it.tags),
        "metadata": dict(sorted(it.metadata.items())),
    }
    shown = {
        "name": it.service,
        "id": it.id,
        "address": it.host,
        "port": it.port,
        "sslPort": None,
        "payload": None,
        "registrationTimeUTC": it.registered_at.ToMilliseconds(),
        "serviceType": "DYNAMIC",
        "uriSpec": None,
        "enabled": is_well,
        MARK: ours,
    }
    return json.dumps(shown).encode()


def is_of(data: bytes, registry: str) -> bool:
    """Whether that is an instance of the registry of that name."""
    return text_in(table_in(_read(data), MARK), "registry") == registry


def taken(service: str, id_: str, data: bytes, registry: str, namespace: str) -> pb.Instance | None:
    """What is in a node as an instance; None if it is none, or is of the registry of that name."""
    found = _read(data)
    port = number_in(found, "port") or number_in(found, "sslPort")
    ours = table_in(found, MARK)
    if not 0 < port <= 65_535 or (ours and text_in(ours, "registry") == registry):
        return None
    payload = table_in(found, "payload")
    texts = table_in(ours, "metadata") or table_in(payload, "metadata") or payload
    found_texts = {sound(key): sound(it) for key, it in texts.items() if isinstance(it, str)}
    metadata = {key: it for key, it in found_texts.items() if key and not key.startswith("@")}
    version = text_in(ours, "version") or metadata.get("version", "")
    it = pb.Instance(
        namespace=namespace,
        service=service,
        id=name_for(id_),
        host=text_in(found, "address"),
        port=port,
        version=version if len(version) <= MAX_NAME and version.isprintable() else "",
        tags=dict.fromkeys(sound(tag) for tag in list_in(ours, "tags") if isinstance(tag, str) and tag),
        metadata=metadata,
    )
    if found.get("enabled") is False or metadata.get(_STATUS, _UP) != _UP:
        it.weight = 0
    elif "weight" in ours:
        it.weight = min(max(0, number_in(ours, "weight")), MAX_WEIGHT)
    return it


# ---- what may be anything


def _read(data: bytes) -> Json:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
