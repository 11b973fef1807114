"""Room for one more, of all that the registry may have; and the numbers that the catalog has at hand."""

import random
from typing import Any

import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.catalog import Catalog, Size
from registry_server.errors import LimitExceeded
from registry_server.limits.quotas import Quotas
from registry_server.limits.room import Room
from registry_server.records import Key
from tests.support.core import gone, key, loaded, put, record


def wanted(id_: str, service: str = "player", namespace: str = "default", **more: Any) -> pb.Instance:
    return pb.Instance(namespace=namespace, service=service, id=id_, **{"host": "10.9.9.9", "port": 9, **more})


HELD = (record(key("a"), 3, lease="l1"), record(key("b"), 4, lease="l1"), record(key("c", "chat"), 5, lease="l2"))


@pytest.mark.parametrize(
    ("quotas", "instance", "lease", "limit"),
    [
        (Quotas(max_instances=3), wanted("d"), "l1", "max_instances"),
        (Quotas(max_instances=3), wanted("a"), "", None),
        (Quotas(max_instances=4), wanted("d"), "", None),
        (Quotas(max_leases=2), wanted("d"), "", "max_leases"),
        (Quotas(max_leases=2), wanted("d"), "l1", None),
        (Quotas(max_leases=2), wanted("a"), "", None),
        (Quotas(max_instances_per_lease=2), wanted("d"), "l1", "max_instances_per_lease"),
        (Quotas(max_instances_per_lease=2), wanted("c", "chat"), "l1", "max_instances_per_lease"),
        (Quotas(max_instances_per_lease=2), wanted("d"), "l2", None),
        (Quotas(max_instances_per_lease=2), wanted("a"), "l1", None),
        (Quotas(max_instances_per_lease=2), wanted("d", origin="consul"), "l1", None),
        (Quotas(max_services=2), wanted("d", "new"), "", "max_services"),
        (Quotas(max_services=2), wanted("d", "chat"), "", None),
        (Quotas(max_services=2), wanted("d", "player", "prod"), "", "max_services"),
        (Quotas(max_namespaces=1), wanted("d", "new", "prod"), "", "max_namespaces"),
        (Quotas(max_namespaces=1), wanted("d", "new"), "", None),
    ],
)
def test_room(quotas: Quotas, instance: pb.Instance, lease: str, limit: str | None) -> None:
    room = Room(loaded(*HELD), quotas)
    if limit is None:
        room.check(instance, lease)
    else:
        with pytest.raises(LimitExceeded, match=f"^{limit}: there are [0-9]+, and no more may be"):
            room.check(instance, lease)


def test_who_takes_the_address_of_another_needs_no_room() -> None:
    catalog = loaded(record(key("a"), 3, host="10.9.9.9", port=9))
    Room(catalog, Quotas(max_instances=1, max_leases=1)).check(wanted("new"), "")


@pytest.mark.parametrize("seed", range(20))
def test_the_size_is_what_is_there(seed: int) -> None:
    rng, catalog = random.Random(seed), loaded()
    names = [Key(f"n{rng.randrange(3)}", f"s{rng.randrange(3)}", f"{number}") for number in range(30)]
    for revision in range(11, 111):
        some = rng.sample(names, 3)
        if rng.random() < 0.5:
            catalog.apply(put(revision, *some, lease=f"l{rng.randrange(5)}"))
        else:
            catalog.apply(gone(revision, *some))
        assert catalog.size == counted(catalog)
    assert catalog.size == (catalog.statistics().services and counted(catalog))


def counted(catalog: Catalog) -> Size:
    entries = [entry for it in list(catalog.keys()) if (entry := catalog.get(it)) is not None]
    services = {entry.key[:2] for entry in entries}
    return Size(len({it[0] for it in services}), len(services), len(entries), len({it.lease_id for it in entries}))
