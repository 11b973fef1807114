"""CORE: a service in the parts of its split: which instance is of which, and what share of the traffic each has."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from registry_api.registry.v1 import policies_pb2 as pb
from registry_server.model import Entry

WHOLE = ""
REST = "rest"


class Share(NamedTuple):
    """A part. `name` tells it from the others of its service, for as long as it fits the same instances; a service
    without a split is one part, WHOLE. `weight` is what share of the traffic it gets now."""

    name: str
    weight: int
    entries: Sequence[Entry]


def split(policy: pb.Policy | None, entries: Iterable[Entry]) -> list[Share]:
    """The parts of a service, at least one, with their instances in the given order.

    A part without a routable instance has the weight 0. If that is so of all that have one, the service is whole.
    """
    everything = list(entries)
    parts = policy.split if policy is not None else ()
    members: list[list[Entry]] = [[] for _ in parts]
    for entry in everything if parts else ():
        place = next((place for place, part in enumerate(parts) if fits(part, entry)), None)
        if place is not None:
            members[place].append(entry)
    shares = [
        Share(name_of(part), part.weight if any(it.routable for it in its) else 0, its)
        for part, its in zip(parts, members, strict=True)
    ]
    return shares if any(share.weight for share in shares) else [Share(WHOLE, 1, everything)]


def fits(part: pb.Part, entry: Entry) -> bool:
    """Whether an instance is of a part, supposing that it is of none before it."""
    match part.WhichOneof("fits"):
        case "version":
            return entry.traits.version == part.version
        case "tag":
            return part.tag in entry.traits.tags
        case _:
            return True


def name_of(part: pb.Part) -> str:
    """What tells a part from the others of its service."""
    kind = part.WhichOneof("fits")
    return REST if kind is None else f"{kind}={getattr(part, kind)}"
