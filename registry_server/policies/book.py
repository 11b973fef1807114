"""CORE: where the policies are, and which of them are good."""

from collections.abc import Iterator

from google.protobuf.message import DecodeError

from registry_api.limits import NAME
from registry_api.registry.v1 import policies_pb2 as pb
from registry_server.errors import InvalidField
from registry_server.policies.rules import settled
from registry_server.records import Key, Kind, Record
from registry_server.settings import Settings

# The last part of the name of every policy: a service has one.
ID = "policy"
# More than a policy with every field at its limit takes; so much of a store's value is looked at.
MAX_VALUE_BYTES = 16 * 1024


def key_of(namespace: str, service: str) -> Key:
    """Where the policy of a service is."""
    return Key(namespace, service, ID, Kind.POLICY)


def is_name(key: Key) -> bool:
    """Whether that is where the policy of some service is."""
    return key == key_of(key.namespace, key.service) and all(NAME.fullmatch(name) for name in key[:2])


def value_of(policy: pb.Policy) -> bytes:
    """A policy as it is kept."""
    return policy.SerializeToString(deterministic=True)


def read(record: Record) -> pb.Policy:
    """The policy in a record, whatever anybody wrote there: one that is none has a flaw, and says nothing else."""
    found, flaw = _parsed(record)
    found.namespace, found.service = record.key[:2]
    found.revision, found.flaw = record.revision, flaw
    return found


def _parsed(record: Record) -> tuple[pb.Policy, str]:
    if len(record.value) > MAX_VALUE_BYTES:
        return pb.Policy(), f"its value has {len(record.value)} bytes, a policy has at most {MAX_VALUE_BYTES}"
    try:
        found = pb.Policy.FromString(record.value)
        found.namespace, found.service = record.key[:2]
        return settled(found), ""
    except DecodeError:
        return pb.Policy(), "its value is not an encoded registry.v1.Policy"
    except InvalidField as wrong:
        return pb.Policy(), str(wrong)


class PolicyBook:
    """All policies, as the settings have them just now. Nobody changes what it gives."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._read: dict[Key, tuple[Record, pb.Policy]] = {}

    def of(self, namespace: str, service: str) -> pb.Policy | None:
        """What is to be followed for that service; None for no policy, and for one that is flawed."""
        found = self.get(key_of(namespace, service))
        return None if found is None or found.flaw else found

    def get(self, key: Key) -> pb.Policy | None:
        """The policy at that place, which may be flawed."""
        record = self._settings.get(key)
        if record is None:
            self._read.pop(key, None)
            return None
        known = self._read.get(key)
        if known is None or known[0] is not record:
            known = self._read[key] = (record, read(record))
            if len(self._read) > len(self._settings):
                self._read = {it: read for it, read in self._read.items() if self._settings.get(it) is not None}
        return known[1]

    def places(self, namespace: str | None = None) -> Iterator[Key]:
        """The places of all policies, of one namespace or of all: what else somebody wrote there nobody can ask for."""
        found = self._settings.of(Kind.POLICY, namespace)
        return (record.key for record in found if is_name(record.key))
