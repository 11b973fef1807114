"""Who has how many instances: what it registers counts until it is gone, however it goes."""

import random
from typing import Any, NamedTuple

import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.errors import LimitExceeded, NotFound
from registry_server.limits.owners import Owners
from registry_server.limits.quotas import NO_QUOTAS, Quotas
from registry_server.records import Key, Snapshot
from registry_server.rpc.registry import RegistryService
from registry_server.rpc.table import Caller
from registry_server.stores.memory import MemoryStore
from tests.support.core import SEAL, Core, drive

ONE, OTHER = Caller("ipv4:10.0.0.1:50001"), Caller("ipv4:10.0.0.2:50002")


class Stage:
    """A registry with these limits, and what callers do there."""

    def __init__(self, quotas: Quotas = NO_QUOTAS) -> None:
        self.core = Core()
        assert isinstance(self.core.store, MemoryStore)
        self.memory = self.core.store
        self.memory._emit = self.core.feed.emit
        self.core.feed.emit(Snapshot("e1", 1, (), 1))
        self.owners = Owners(self.core.catalog, quotas)
        self.core.feed.tell_too(self.owners)
        core = self.core
        self.service = RegistryService(core.registrar, core.feed, core.hub, lambda: SEAL, owners=self.owners)

    def register(self, caller: Caller, id_: str, port: int = 0, lease: str = "", **names: str) -> str:
        at = {"host": "10.0.0.5", "port": port or 1 + len(id_) * 1000 + int(id_)}
        instance = pb.Instance(**{"service": "player", "id": id_, **at, **names})
        request = pb.RegisterRequest(instance=instance, lease_id=lease)
        return pb.RegisterResponse.FromString(drive(self.service.register(request, caller))).lease_id

    def leave(self, drain_s: int = 0, **who: Any) -> None:
        request = pb.DeregisterRequest(**who)
        request.drain.FromSeconds(drain_s)
        drive(self.service.deregister(request, ONE))

    def expire(self, by_s: float) -> None:
        timeline = self.core.timeline
        timeline.advance(by_s)
        self.core.feed._beat_at = timeline.now  # it was not stopped meanwhile
        self.memory.tick(timeline.now)

    def counts(self) -> tuple[int, int]:
        return self.owners.instances_of("ipv4:10.0.0.1"), self.owners.instances_of("ipv4:10.0.0.2")


def named(id_: str) -> pb.InstanceKey:
    return pb.InstanceKey(service="player", id=id_)


def test_what_one_has_is_no_limit_for_another() -> None:
    stage = Stage(Quotas(max_instances_per_owner=2))
    lease = stage.register(ONE, "1")
    stage.register(ONE, "2")
    for lease_id in ("", lease):
        with pytest.raises(LimitExceeded, match=r"^max_instances_per_owner: one owner may have 2 instances"):
            stage.register(ONE, "3", lease=lease_id)
    assert stage.core.catalog.size.instances == 2
    stage.register(ONE, "2")  # again, with a new lease
    stage.register(OTHER, "3")
    stage.leave(key=named("1"))
    stage.register(ONE, "4")
    assert stage.counts() == (2, 1)


def test_an_identity_has_what_all_its_peers_register() -> None:
    stage = Stage(Quotas(max_instances_per_owner=2))
    stage.register(ONE._replace(identity="game"), "1")
    stage.register(OTHER._replace(identity="game"), "2")
    with pytest.raises(LimitExceeded):
        stage.register(ONE._replace(identity="game"), "3")
    stage.register(ONE, "3")
    stage.register(ONE._replace(identity="chat"), "4")


def test_an_identity_has_what_it_registered_elsewhere_or_before_this_server_began() -> None:
    """The instances say whose they are; who called without an identity is counted where it called."""
    stage, game = Stage(Quotas(max_instances_per_owner=3)), ONE._replace(identity="game")
    here, core = stage.service, stage.core
    stage.service = RegistryService(core.registrar, core.feed, core.hub, lambda: SEAL)  # of another replica
    stage.register(game, "1")
    stage.register(game, "2")
    stage.register(ONE, "9")
    stage.service = here
    assert (stage.owners.instances_of("game"), *stage.counts()) == (2, 0, 0)
    stage.register(game, "5")
    with pytest.raises(LimitExceeded, match=r"^max_instances_per_owner: "):
        stage.register(game, "6")
    stage.register(game, "2")  # it has that already
    stage.leave(generation=0, key=named("9"))
    stage.expire(16.0)
    assert len(stage.owners) == 0
    stage.register(game, "6")
    assert stage.owners.instances_of("game") == 1


def test_names_of_which_one_owner_was_the_first() -> None:
    """One owner does not take all the names that there may be; who comes to those of others takes none."""
    stage = Stage(Quotas(max_services_per_owner=3, max_namespaces_per_owner=2))
    stage.register(ONE, "1", service="a")
    stage.register(ONE, "1", service="b", namespace="x")
    with pytest.raises(LimitExceeded, match=r"^max_namespaces_per_owner: one owner may be the first in 2 namespaces"):
        stage.register(ONE, "1", service="c", namespace="y")
    stage.register(ONE, "1", service="c")
    with pytest.raises(LimitExceeded, match=r"^max_services_per_owner: one owner may be the first in 3 services"):
        stage.register(ONE, "1", service="d")
    stage.register(OTHER, "1", service="d")
    stage.register(ONE, "2", service="d")
    stage.leave(key=pb.InstanceKey(service="a", id="1"))
    stage.register(ONE, "1", service="e")
    stage.expire(16.0)
    assert len(stage.owners) == 0
    assert not stage.owners._first


def test_leases_of_an_owner() -> None:
    stage = Stage(Quotas(max_leases_per_owner=2))
    lease = stage.register(ONE, "1")
    stage.register(ONE, "2")
    with pytest.raises(LimitExceeded, match=r"^max_leases_per_owner: "):
        stage.register(ONE, "3")
    stage.register(ONE, "3", lease=lease)
    stage.leave(lease_id=lease)
    stage.register(ONE, "4")


def test_who_drains_without_end_has_it_all_the_while() -> None:
    stage = Stage(Quotas(max_instances_per_owner=2))
    for id_ in ("1", "2"):
        stage.leave(drain_s=600, lease_id=stage.register(ONE, id_))
    with pytest.raises(LimitExceeded):
        stage.register(ONE, "3")
    stage.expire(700)
    stage.register(ONE, "3")
    assert stage.counts() == (1, 0)


def test_what_fails_counts_nothing() -> None:
    stage = Stage(Quotas(max_instances_per_owner=1))
    for _ in range(3):
        with pytest.raises(NotFound):
            stage.register(ONE, "1", lease="unknown")
    assert len(stage.owners) == 0
    stage.register(ONE, "1")


@pytest.mark.parametrize("seed", range(30))
def test_it_counts_as_the_catalog_shows(seed: int) -> None:
    """Whatever happens, in whatever order: each lease is of who registered by it last, or had what drains by it."""
    rng, stage = random.Random(seed), Stage()
    leases: dict[str, Caller] = {}
    for _ in range(60):
        caller, id_ = rng.choice((ONE, OTHER)), str(rng.randrange(12))
        match rng.randrange(6):
            case 0 | 1 | 2:
                mine = [lease for lease, its in leases.items() if its is caller and stage.core.catalog.of_lease(lease)]
                lease = rng.choice(["", *(SEAL.close(it, "") for it in mine)])
                sealed = stage.register(caller, id_, 1 + rng.randrange(20), lease)
                leases[sealed.rpartition(".")[0]] = caller
            case 3 if stage.core.catalog.get(Key("default", "player", id_)):
                stage.leave(key=named(id_))
            case 4 if stage.core.catalog.get(Key("default", "player", id_)):
                before = {it.id: leases.get(it.lease_id) for it in entries(stage)}
                stage.leave(drain_s=40, key=named(id_))
                leases.update((it.lease_id, its) for it in entries(stage) if (its := before.get(it.id)) is not None)
            case 5:
                stage.expire(rng.choice((1, 5, 16)))
        found = [leases[it.lease_id] for it in entries(stage)]
        assert stage.counts() == (found.count(ONE), found.count(OTHER))
    stage.expire(3600)
    assert len(stage.owners) == 0, "whoever has nothing is forgotten"
    assert not stage.owners._of_lease


class Held(NamedTuple):
    id: str
    lease_id: str


def entries(stage: Stage) -> list[Held]:
    catalog = stage.core.catalog
    return [Held(key.id, entry.lease_id) for key in list(catalog.keys()) if (entry := catalog.get(key)) is not None]
