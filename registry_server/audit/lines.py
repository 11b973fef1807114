"""CORE: what the audit log says of a write: a line of JSON. Nothing of it is a secret, and nothing of any size."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from google.protobuf.message import Message

from registry_api.limits import DEFAULT_NAMESPACE
from registry_api.registry.v1 import policies_pb2, registry_pb2
from registry_server.errors import shortened

# Of a name that was asked for, so many characters are said: who is refused may ask for anything.
MAX_SHOWN = 256
_EVERY = "*"


def line(at_s: float, said: Mapping[str, object]) -> bytes:
    """One line, whatever it says: the time (RFC 3339) and what is given, in ASCII."""
    time = datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"time": time, **said}).encode() + b"\n"


def subject(request: Message, answer: Message | None) -> Mapping[str, object]:
    """What a write is about, by what was asked for, and by what was answered if it was done."""
    return {name: value[:MAX_SHOWN] if isinstance(value, str) else value for name, value in _subject(request, answer)}


def revision(answer: Message | None) -> int:
    """That of a write which was answered; 0 for one that was not done."""
    header = getattr(answer, "header", None)
    return header.revision if isinstance(header, registry_pb2.ResponseHeader) else 0


def _subject(request: Message, answer: Message | None) -> Iterator[tuple[str, object]]:
    match request:
        case registry_pb2.RegisterRequest(instance=asked):
            it = answer.instance if isinstance(answer, registry_pb2.RegisterResponse) else asked
            yield "key", _name(it.namespace, it.service, it.id)
            yield "address", f"{it.host[:MAX_SHOWN]}:{it.port}"
            yield "generation", it.generation
        case registry_pb2.UpdateRequest(instance=asked):
            yield "key", _name(asked.namespace, asked.service, asked.id)
            yield "fields", ",".join(request.update_mask.paths)
        case registry_pb2.DeregisterRequest(key=key):
            if request.lease_id:
                yield "lease", shortened(request.lease_id)
            else:
                yield "key", _name(key.namespace, key.service, key.id)
            yield "drain_s", request.drain.seconds + request.drain.nanos / 1e9
            yield "removed", answer.removed if isinstance(answer, registry_pb2.DeregisterResponse) else 0
        case registry_pb2.ChecksPutRequest(rule=rule):
            yield "key", _scope(rule.scope)
        case registry_pb2.ChecksDeleteRequest(scope=scope):
            yield "key", _scope(scope)
        case policies_pb2.PoliciesPutRequest(policy=policy):
            yield "key", _name(policy.namespace, policy.service)
        case policies_pb2.PoliciesDeleteRequest(namespace=namespace, service=service):
            yield "key", _name(namespace, service)


def _name(namespace: str, *names: str) -> str:
    return "/".join((namespace or DEFAULT_NAMESPACE, *names))


def _scope(it: registry_pb2.CheckScope) -> str:
    namespace = _EVERY if it.all_namespaces else it.namespace or DEFAULT_NAMESPACE
    return f"{namespace}/{it.service or _EVERY}"
