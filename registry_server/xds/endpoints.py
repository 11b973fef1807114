"""CORE: where calls to a service go, as xDS says it: the routable instances, in localities.

What is not routable is left out, and not told as unhealthy: a share that is weighed by locality would count it. gRPC
follows the weights of localities and Envoy those of endpoints, so both are set, and a locality holds the instances of
one place that have one weight. An address may be there once: most clients refuse all of it else.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from registry_api.registry.xds.v1 import ads_pb2 as ads
from registry_server import wire
from registry_server.model import Entry

Place = tuple[str, str, str]
"""Region, zone and sub-zone."""

Lookup = Callable[[str], str]
"""The number of a host; empty while it is not known."""

# Weights of one place are told apart up to this number of them; more are put together with those next to them.
MAX_CLASSES = 64
# What the weights of one priority may add up to.
MAX_SUM = 2**32 - 1
# The largest assignment that every client takes, with room for what goes around it: they refuse 4 MiB. So many
# endpoints fit if all are written as long as can be; of those beyond it no call is told.
MAX_BYTES = 3_900_000
MAX_SPOTS = 60_000

# Fields: ClusterLoadAssignment, LocalityLbEndpoints, LbEndpoint, Endpoint, SocketAddress, UInt32Value.
_NAME, _LOCALITIES = 1, 2
_PLACE, _ENDPOINTS, _WEIGHT, _PRIORITY = 1, 2, 3, 5
_ENDPOINT, _ENDPOINT_WEIGHT = 1, 4
_ADDRESS = _SOCKET = 1
_HOST, _PORT = 2, 3
_NUMBER = 1


class Spot(NamedTuple):
    """One instance as a client may call it."""

    address: str
    port: int
    weight: int
    place: Place


class Assignment(NamedTuple):
    """A ClusterLoadAssignment, and whether there was more than it holds."""

    encoded: bytes
    is_cut: bool


class Spots:
    """The spots of one service; an instance is read once for each of its revisions.

    `is_cut`: there were more than can be told when this was last asked.
    """

    def __init__(self) -> None:
        self.is_cut = False
        self._known: dict[str, tuple[int, Spot]] = {}

    def of(self, entries: Iterable[Entry], lookup: Lookup) -> list[Spot]:
        """The spots of those instances that can be called, in their order, no address twice."""
        found: dict[tuple[str, int], Spot] = {}
        self.is_cut = False
        for entry in entries:
            if not entry.routable or not (address := lookup(entry.address[0])):
                continue
            revision, spot = self._known.get(entry.key.id, _NOWHERE)
            if revision != entry.revision or spot.address != address:
                spot = Spot(address, entry.address[1], entry.parse().weight, entry.traits.locality)
                self._known[entry.key.id] = (entry.revision, spot)
            found.setdefault(spot[:2], spot)
            if len(found) > MAX_SPOTS:
                self.is_cut = True
                del found[spot[:2]]
                break
        return list(found.values())

    def forget(self, id_: str) -> None:
        """The instance has left."""
        self._known.pop(id_, None)


_NOWHERE = (0, Spot("", 0, 0, ("", "", "")))


def assignment(name: str, spots: Sequence[Spot], near: Place = ("", "", ""), *, in_one: bool = False) -> Assignment:
    """Where calls go. `near` is where its reader is: what is nearer has priority.

    `in_one`: one locality for each priority, where the weights of endpoints are what counts.
    """
    parts = [wire.message_field(_NAME, name.encode())]
    size = 0
    for priority, spots_of in enumerate(_by_rank(spots, near)):
        for locality in _localities(spots_of, priority, in_one=in_one):
            size += len(locality)
            if size > MAX_BYTES:
                return Assignment(b"".join(parts), is_cut=True)
            parts.append(locality)
    return Assignment(b"".join(parts), is_cut=False)


def _by_rank(spots: Sequence[Spot], near: Place) -> list[list[Spot]]:
    """Those that are nearest first; no rank is empty."""
    if not near[0] or not any(spot.place[0] for spot in spots):
        return [list(spots)] if spots else []
    ranks: tuple[list[Spot], ...] = ([], [], [])
    for spot in spots:
        ranks[_rank(spot.place, near)].append(spot)
    return [rank for rank in ranks if rank]


def _rank(place: Place, near: Place) -> int:
    """0 for the same zone, 1 for the same region, 2 for anywhere else."""
    if place[0] != near[0]:
        return 2
    return 0 if place[1] == near[1] else 1


def _localities(spots: list[Spot], priority: int, *, in_one: bool) -> Iterable[bytes]:
    """Encoded localities."""
    scale = max(1, math.ceil(sum(spot.weight for spot in spots) / MAX_SUM * 1.01))
    if in_one:
        yield _locality(_place(("", "", "")), 1, spots, priority, scale)
        return
    class_of = _classes(spots)
    groups: dict[tuple[Place, int], list[Spot]] = {}
    for spot in spots:
        groups.setdefault((spot.place, class_of[spot.weight]), []).append(spot)
    for (place, weight), members in groups.items():
        shown = _place((place[0], place[1], f"{place[2]}/w{weight}" if place[2] else f"w{weight}"))
        total = sum(max(1, spot.weight // scale) for spot in members)
        yield _locality(shown, total, members, priority, scale)


def _classes(spots: Iterable[Spot]) -> dict[int, int]:
    """For each weight the one that stands for it: itself, unless there are too many."""
    weights = sorted({spot.weight for spot in spots})
    if len(weights) <= MAX_CLASSES:
        return {weight: weight for weight in weights}
    step = math.log(weights[-1] / weights[0]) / MAX_CLASSES
    first: dict[int, int] = {}
    return {
        weight: first.setdefault(min(MAX_CLASSES - 1, int(math.log(weight / weights[0]) / step)), weight)
        for weight in weights
    }


def _locality(place: bytes, weight: int, spots: Iterable[Spot], priority: int, scale: int) -> bytes:
    endpoints = b"".join([_endpoint(spot.address, spot.port, max(1, spot.weight // scale)) for spot in spots])
    rank = wire.varint(_PRIORITY << 3) + wire.varint(priority) if priority else b""
    return wire.message_field(
        _LOCALITIES, wire.message_field(_PLACE, place) + endpoints + _number(_WEIGHT, weight) + rank
    )


def _place(place: Place) -> bytes:
    return ads.Place(region=place[0], zone=place[1], sub_zone=place[2]).SerializeToString()


@lru_cache(maxsize=16_384)
def _endpoint(address: str, port: int, weight: int) -> bytes:
    """An encoded LbEndpoint, as a field of its locality."""
    socket = wire.message_field(_HOST, address.encode()) + wire.varint(_PORT << 3) + wire.varint(port)
    endpoint = wire.message_field(_ADDRESS, wire.message_field(_SOCKET, socket))
    return wire.message_field(_ENDPOINTS, wire.message_field(_ENDPOINT, endpoint) + _number(_ENDPOINT_WEIGHT, weight))


def _number(field: int, value: int) -> bytes:
    """A field that is an UInt32Value."""
    return wire.message_field(field, wire.varint(_NUMBER << 3) + wire.varint(value))
