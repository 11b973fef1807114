"""The methods of the registry, from request to encoded answer: pages, headers, leases, drains, health."""

import asyncio
import functools
from typing import Any

import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server import turns
from registry_server.errors import InvalidField, LimitExceeded, NotFound, OwnershipLost, Unavailable
from registry_server.limits.peers import peer_of
from registry_server.model import Query
from registry_server.records import Snapshot
from registry_server.rpc import pages, registry
from registry_server.rpc.health import HAS_LIST, HealthService
from registry_server.rpc.table import Caller
from registry_server.stores.memory import MemoryStore
from tests.support.core import NOBODY, NOON, SEAL, Core, Sink, Watcher, drive, gone, key, put, record, settle, sum_of

FENCE = 1_800_000_000_000_000
SERVING, NOT_SERVING, UNKNOWN = 1, 2, 3


class Served(Core):
    """The core over the embedded store, asked by messages."""

    def __init__(self) -> None:
        super().__init__()
        assert isinstance(self.store, MemoryStore)
        self.memory = self.store
        self.memory._emit = self.feed.emit
        self.feed.emit(Snapshot("e1", 1, (), FENCE))

    def register(self, id_: str = "one", port: int = 7, lease_id: str = "", **fields: Any) -> pb.RegisterResponse:
        instance = pb.Instance(**{"service": "player", "id": id_, "host": "10.0.0.1", "port": port, **fields})
        request = pb.RegisterRequest(instance=instance, lease_id=lease_id)
        return pb.RegisterResponse.FromString(drive(self.service.register(request, NOBODY)))

    def renew(self, *lease_ids: str) -> pb.KeepAliveResponse:
        request = pb.KeepAliveRequest(lease_ids=lease_ids)
        return pb.KeepAliveResponse.FromString(drive(self.service.keep_alive(request, NOBODY)))

    def deregister(self, **fields: Any) -> pb.DeregisterResponse:
        return pb.DeregisterResponse.FromString(drive(self.service.deregister(pb.DeregisterRequest(**fields), NOBODY)))

    def get(self, id_: str = "one") -> pb.GetResponse:
        request = pb.GetRequest(key=pb.InstanceKey(service="player", id=id_))
        return pb.GetResponse.FromString(drive(self.service.get(request, NOBODY)))

    def pass_time(self, by_s: float) -> None:
        self.timeline.advance(by_s)
        self.feed._beat_at = self.timeline.now  # it was not stopped meanwhile
        self.memory.tick(self.timeline.now)


async def test_a_renewal_of_ten_thousand_leases_lets_others_have_their_turns() -> None:
    served, turns = Served(), 0
    renewing = asyncio.create_task(
        served.service.keep_alive(
            pb.KeepAliveRequest(lease_ids=[f"lease-{number}" for number in range(10_000)]), NOBODY
        )
    )
    while not renewing.done():
        turns += 1
        await asyncio.sleep(0)
    answer = pb.KeepAliveResponse.FromString(renewing.result())
    assert [it.lease_id for it in answer.renewals] == [f"lease-{number}" for number in range(10_000)]
    assert {it.state for it in answer.renewals} == {pb.Renewal.UNKNOWN}
    assert answer.header.epoch == "e1"
    assert turns >= 2 * 10


@pytest.fixture
def served() -> Served:
    return Served()


def clean(it: Message) -> str:
    return str(it)


# ---- register, get, keep alive


def test_register_answers_with_what_is_stored(served: Served) -> None:
    answer = served.register()
    assert (answer.header.epoch, answer.header.revision) == ("e1", answer.instance.revision)
    assert (answer.ttl.seconds, answer.instance.ttl.seconds) == (15, 15)
    assert answer.instance.generation == FENCE + answer.header.revision
    assert clean(served.get().instance) == clean(answer.instance)
    assert served.list().instances == [answer.instance]


def test_id_is_made_when_there_is_none(served: Served) -> None:
    first, second = served.register(""), served.register("", 8)
    assert first.instance.id
    assert second.instance.id not in ("", first.instance.id)


def test_one_lease_for_several(served: Served) -> None:
    lease_id = served.register().lease_id
    answer = served.register("two", 8, lease_id)
    assert answer.lease_id == lease_id
    (renewal,) = served.renew(lease_id).renewals
    assert (renewal.state, renewal.instances, renewal.ttl.seconds) == (pb.Renewal.RENEWED, 2, 15)


def test_renewals_come_in_the_order_of_the_request(served: Served) -> None:
    one, two = served.register().lease_id, served.register("two", 8).lease_id
    answer = served.renew(two, "unknown", one, two)
    assert [it.lease_id for it in answer.renewals] == [two, "unknown", one, two]
    assert [it.state for it in answer.renewals] == [1, 3, 1, 1]
    assert served.renew().renewals == []


def test_lease_lives_as_long_as_it_is_renewed_and_no_longer(served: Served) -> None:
    lease_id = served.register().lease_id
    for _ in range(5):
        served.pass_time(15.0)
        assert served.renew(lease_id).renewals[0].state == pb.Renewal.RENEWED
    served.pass_time(15.1)
    assert served.list().instances == []
    assert served.renew(lease_id).renewals[0].state == pb.Renewal.UNKNOWN
    with pytest.raises(NotFound):
        served.get()


def test_taken_over_owner_learns_it_by_its_lease(served: Served) -> None:
    old = served.register()
    assert served.register().instance.generation > old.instance.generation
    assert served.renew(old.lease_id).renewals[0].state == pb.Renewal.UNKNOWN


# ---- who writes


def test_writes_may_be_carried_out_by_another_registry(served: Served) -> None:
    """Nothing of a write looks at the view of the server that is asked: what a lease holds, say, is not there."""
    relay = Served()
    relay.service = registry.RegistryService(served.registrar, relay.feed, relay.hub, lambda: SEAL)
    lease_id = relay.register().lease_id
    relay.register("two", 8, lease_id)
    assert [(it.state, it.instances) for it in relay.renew(lease_id).renewals] == [(pb.Renewal.RENEWED, 2)]
    assert relay.deregister(key=pb.InstanceKey(service="player", id="two")).removed == 1
    assert relay.deregister(lease_id=lease_id).removed == 1
    assert relay.list().instances == served.list().instances == []
    with pytest.raises(NotFound, match="no such lease"):
        relay.deregister(lease_id=lease_id)


# ---- deregister


def test_deregister_by_key_and_by_lease(served: Served) -> None:
    lease_id = served.register().lease_id
    served.register("two", 8, lease_id)
    served.register("three", 9)
    answer = served.deregister(key=pb.InstanceKey(service="player", id="three"))
    assert (answer.removed, answer.header.revision) == (1, served.catalog.revision)
    assert served.deregister(lease_id=lease_id).removed == 2
    assert served.list().instances == []
    assert served.renew(lease_id).renewals[0].state == pb.Renewal.UNKNOWN


def test_drain_is_seen_at_once_and_ends_by_itself(served: Served) -> None:
    lease_id = served.register().lease_id
    assert served.deregister(lease_id=lease_id, drain={"seconds": 5}).removed == 1
    assert served.get().instance.status == pb.DRAINING
    assert served.get().instance.leaves_at.ToMilliseconds() - round(NOON * 1000) == 5000
    served.pass_time(5.0)
    assert served.get().instance.status == pb.DRAINING
    served.pass_time(0.2)
    assert served.list().instances == []


def test_deregister_of_a_generation_spares_who_took_the_id_over(served: Served) -> None:
    one = pb.InstanceKey(service="player", id="one")
    old = served.register().instance
    new = served.register().instance
    for drain in (0, 5):
        with pytest.raises(OwnershipLost):
            served.deregister(key=one, generation=old.generation, drain={"seconds": drain})
    assert served.get().instance == new
    assert served.deregister(key=one, generation=new.generation).removed == 1
    assert served.list().instances == []


def test_deregister_of_a_lease_takes_no_generation(served: Served) -> None:
    lease_id = served.register().lease_id
    with pytest.raises(InvalidField, match=r"^generation: goes with a key"):
        served.deregister(lease_id=lease_id, generation=1)


@pytest.mark.parametrize("fields", [{}, {"key": {"service": "player", "id": "one"}, "lease_id": "x"}])
def test_deregister_needs_one_of_two(served: Served, fields: dict[str, Any]) -> None:
    served.register()
    with pytest.raises(InvalidField, match="either key or lease_id"):
        served.deregister(**fields)
    assert len(served.list().instances) == 1


# ---- update


def test_update_answers_with_what_is_now(served: Served) -> None:
    lease_id = served.register(weight=5).lease_id
    request = pb.UpdateRequest(instance=pb.Instance(service="player", id="one", tags=["x"]))
    request.update_mask.paths[:] = ["tags", "weight"]
    answer = pb.UpdateResponse.FromString(drive(served.service.update(request, NOBODY)))
    assert (answer.instance.weight, list(answer.instance.tags)) == (100, ["x"])
    assert answer.header.revision == answer.instance.revision == served.catalog.revision
    assert clean(served.get().instance) == clean(answer.instance)
    assert served.renew(lease_id).renewals[0].instances == 1


# ---- list


def filled(core: Core, count: int, **fields: Any) -> None:
    core.feed.emit(put(50, *(key(f"{number:04}", f"s{number % 3}") for number in range(count)), **fields))


@pytest.mark.parametrize("size", [1, 2, 7, 10, 11])
def test_pages_together_are_the_whole_in_order(served: Served, size: int) -> None:
    filled(served, 10)
    whole, token = served.list(), ""
    found: list[pb.Instance] = []
    for _ in range(20):
        page = served.list(page_size=size, page_token=token)
        assert len(page.instances) <= size
        assert page.checksum == whole.checksum == sum_of(whole.instances)
        found += page.instances
        token = page.next_page_token
        if not token:
            break
    assert found == list(whole.instances)
    assert [(it.service, it.id) for it in found] == sorted((it.service, it.id) for it in found)
    assert len(found) == 10


def test_default_page_is_a_thousand(served: Served) -> None:
    filled(served, 1001)
    assert len(served.list(page_size=0).instances) == 1000
    assert served.list(page_size=0).next_page_token


def test_instances_that_come_and_go_between_pages_disturb_no_other(served: Served) -> None:
    filled(served, 9)
    first = served.list(page_size=4)
    served.feed.emit(put(51, key("0000a", "s0")))
    second = served.list(page_size=100, page_token=first.next_page_token)
    ids = [it.id for it in (*first.instances, *second.instances)]
    assert len(ids) == len(set(ids)) == 9


def test_page_fits_into_what_clients_take(served: Served) -> None:
    filled(served, 400, metadata={"k": "v" * 16_000})
    sizes, token = [], ""
    while True:
        page = served.list(page_token=token)
        assert page.ByteSize() < 4 << 20
        sizes.append(len(page.instances))
        token = page.next_page_token
        if not token:
            break
    assert sum(sizes) == 400
    assert len(sizes) == 3


def test_filter_and_namespace(served: Served) -> None:
    served.feed.emit(Snapshot("e1", 50, (record(key("a"), 5, tags=["x"]), record(key("b"), 6))))
    served.feed.emit(put(51, key("c", namespace="prod")))
    assert [it.id for it in served.list(filter=pb.Filter(tags=["x"])).instances] == ["a"]
    assert [it.id for it in served.list(namespace="prod").instances] == ["c"]
    assert served.list(service="nobody").instances == []


def test_services_with_their_numbers(served: Served) -> None:
    served.feed.emit(put(50, key("a"), key("b")))
    served.feed.emit(put(51, key("c"), weight=0))
    served.feed.emit(put(52, key("d", "match"), key("e", "other", "prod")))
    answer = pb.ListServicesResponse.FromString(drive(served.service.list_services(pb.ListServicesRequest(), NOBODY)))
    assert [(it.namespace, it.service, it.instances, it.routable) for it in answer.services] == [
        ("default", "match", 1, 1),
        ("default", "player", 3, 2),
    ]
    assert answer.header.revision == 52


async def test_lists_that_look_through_much_take_turns_also_after_they_waited(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of one peer: nobody gets out of it by a revision that is to come, or is there already."""
    at_work = most = 0
    inner = served.service._found

    async def found(*args: Any) -> Any:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(0)
        at_work -= 1
        return await inner(*args)

    async def most_of(*looks: Any, on_the_way: Any = lambda: None) -> int:
        nonlocal most
        most, tasks = 0, [asyncio.create_task(look) for look in looks]
        await asyncio.sleep(0)
        on_the_way()
        await asyncio.gather(*tasks)
        return most

    def look(min_revision: int = 0, caller: Caller = NOBODY, **more: Any) -> Any:
        return served.service.list(pb.ListRequest(service="player", min_revision=min_revision, **more), caller)

    monkeypatch.setattr(served.service, "_found", found)
    tagged, other = pb.Filter(tags=["x"]), NOBODY._replace(peer="ipv4:192.0.2.9:1")
    revisions = [0, 1, *[2] * 3]
    assert await most_of(*(look(it, filter=tagged) for it in revisions), on_the_way=served.register) == 1
    assert await most_of(look(filter=tagged), look(2, other, filter=tagged), look(), look(2)) == 4


async def test_who_waits_too_long_for_its_own_lists_is_told_so(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "MAX_WAITING", 0)
    async with served.service._looking.of([(peer_of(NOBODY.peer),)]):
        with pytest.raises(LimitExceeded, match=r"^max_requests_per_peer: too many that take long"):
            await served.service.list(pb.ListRequest(filter=pb.Filter(tags=["x"])), NOBODY)
        await served.service.list(pb.ListRequest(), NOBODY)


def services(served: Served, **question: Any) -> pb.ListServicesResponse:
    request = pb.ListServicesRequest(**question)
    return pb.ListServicesResponse.FromString(drive(served.service.list_services(request, NOBODY)))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8])
def test_pages_of_services_together_are_the_whole_in_order(served: Served, size: int) -> None:
    served.feed.emit(put(50, *(key("a", f"s{number}") for number in range(7))))
    found, token, count = [], "", 0
    while count == 0 or token:
        page = services(served, page_size=size, page_token=token)
        assert 0 < len(page.services) <= size
        found += [it.service for it in page.services]
        token, count = page.next_page_token, count + 1
    assert found == [f"s{number}" for number in range(7)]
    assert count == -(-7 // size)


def test_page_of_services_fits_into_what_clients_take(served: Served) -> None:
    names = [f"{number:05}-{'s' * 122}" for number in range(14_000)]
    space = "n" * 128
    served.feed.emit(put(50, *(key("a", name, space) for name in names)))
    assert len(services(served, namespace=space).services) == 1000
    page = services(served, namespace=space, page_size=10_000)
    assert page.ByteSize() < 4 << 20
    assert page.next_page_token
    rest = services(served, namespace=space, page_size=10_000, page_token=page.next_page_token)
    assert [it.service for it in (*page.services, *rest.services)] == names
    assert not rest.next_page_token


def test_page_of_services_with_the_longest_names(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "MAX_PAGE_BYTES", 2000)
    served.feed.emit(put(50, *(key("a", f"{number}-{'s' * 126}", "n" * 128) for number in range(10))))
    page = services(served, namespace="n" * 128)
    assert len(page.services) == 7
    assert page.ByteSize() < 2000 + 200


@pytest.mark.parametrize("question", [{"page_size": -1}, {"page_size": 10_001}, {"page_token": "a/b"}])
def test_bad_pages_of_services(served: Served, question: dict[str, Any]) -> None:
    with pytest.raises(InvalidField, match="^" + next(iter(question))):
        services(served, **question)


async def test_revision_that_does_not_come_is_unavailable(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MAX_WAIT_S", 0.01)
    with pytest.raises(Unavailable, match="revision 999 is not reached yet"):
        await served.service.list(pb.ListRequest(min_revision=999), NOBODY)


def test_revision_that_is_there_is_not_waited_for(served: Served) -> None:
    filled(served, 1)
    assert len(served.list(min_revision=50).instances) == 1


# ---- health


class Told:
    """A health watch, and the statuses it was told."""

    def __init__(self, served: Served, health: HealthService, name: str) -> None:
        self.core, self.sink = served, Sink()
        self.reader = health.watch(health_pb2.HealthCheckRequest(service=name), NOBODY, self.sink)

    def take(self) -> list[int]:
        settle(self.core, [])
        found: list[int] = []
        while self.sink.is_writing:
            self.sink.is_writing = False
            found += [health_pb2.HealthCheckResponse.FromString(part).status for part in self.sink.take()]
            self.reader.free()
            settle(self.core, [])
        return found


@pytest.fixture
def health(served: Served) -> HealthService:
    return HealthService(served.catalog, served.hub)


def test_health_of_a_service_is_whether_anybody_takes_traffic(served: Served, health: HealthService) -> None:
    served.feed.emit(put(50, key("a"), weight=0))
    assert health.status("player") == NOT_SERVING
    served.feed.emit(put(51, key("b")))
    assert health.status("player") == health.status("default/player") == SERVING
    assert health.status("prod/player") == health.status("nobody") == UNKNOWN
    assert health.status("") == health.status("registry.v1.Registry") == SERVING


def test_health_watch_tells_changes_of_the_status_alone(served: Served, health: HealthService) -> None:
    told = Told(served, health, "player")
    assert told.take() == [UNKNOWN]
    served.feed.emit(put(50, key("a")))
    assert told.take() == [SERVING]
    served.feed.emit(put(51, key("b")))
    assert told.take() == []
    served.feed.emit(put(52, key("a"), key("b"), weight=0))
    assert told.take() == [NOT_SERVING]


def test_server_that_stops_tells_so(served: Served) -> None:
    health = HealthService(served.catalog, served.hub)
    told = [Told(served, health, name) for name in ("", "registry.v1.Registry", "player")]
    assert [it.take() for it in told] == [[SERVING], [SERVING], [UNKNOWN]]
    health.stop()
    assert [it.take() for it in told] == [[NOT_SERVING], [NOT_SERVING], []]


async def test_health_check_of_nobody(health: HealthService) -> None:
    with pytest.raises(NotFound, match="no such service: nobody"):
        await health.check(health_pb2.HealthCheckRequest(service="nobody"), NOBODY)


async def test_health_list_has_a_limit(served: Served, health: HealthService) -> None:
    if not HAS_LIST:
        assert "List" not in health.service().methods
        return
    served.feed.emit(put(50, *(key("a", f"s{number}") for number in range(98))))
    listed = health_pb2.HealthListResponse.FromString(await health.list(health_pb2.HealthListRequest(), NOBODY))
    assert len(listed.statuses) == 100
    served.feed.emit(put(51, key("a", "one-more", "prod")))
    with pytest.raises(LimitExceeded, match="101"):
        await health.list(health_pb2.HealthListRequest(), NOBODY)


# ---- namespaces


def namespaces(served: Served, **question: Any) -> pb.ListNamespacesResponse:
    request = pb.ListNamespacesRequest(**question)
    return pb.ListNamespacesResponse.FromString(drive(served.service.list_namespaces(request, NOBODY)))


def spread(served: Served) -> None:
    """Instances in three namespaces, and one that came and went in a fourth."""
    names = [key(id_, service, space) for space in ("default", "prod", "b") for service in "xy" for id_ in "12"]
    served.feed.emit(put(50, *names, key("one", "left", "gone")))
    served.feed.emit(gone(51, key("one", "left", "gone")))
    served.feed.emit(gone(52, key("2", "y", "prod")))


def test_namespaces_with_their_numbers(served: Served) -> None:
    spread(served)
    answer = namespaces(served)
    assert [(it.namespace, it.services, it.instances) for it in answer.namespaces] == [
        ("b", 2, 4),
        ("default", 2, 4),
        ("prod", 2, 3),
    ]
    assert (answer.header.revision, answer.next_page_token) == (52, "")


@pytest.mark.parametrize("size", [1, 2, 3])
def test_pages_of_namespaces_together_are_the_whole_in_order(served: Served, size: int) -> None:
    spread(served)
    page = namespaces(served, page_size=size)
    found = [it.namespace for it in page.namespaces]
    while page.next_page_token:
        page = namespaces(served, page_size=size, page_token=page.next_page_token)
        assert 0 < len(page.namespaces) <= size
        found += [it.namespace for it in page.namespaces]
    assert found == ["b", "default", "prod"]


@pytest.mark.parametrize("question", [{"page_size": -1}, {"page_size": 10_001}, {"page_token": "a/b"}])
def test_bad_pages_of_namespaces(served: Served, question: dict[str, Any]) -> None:
    with pytest.raises(InvalidField, match="^" + next(iter(question))):
        namespaces(served, **question)


@pytest.mark.parametrize("size", [1, 3, 10_000])
@pytest.mark.parametrize("service", ["", "x"])
def test_pages_of_all_namespaces_together_are_the_whole_in_order(served: Served, size: int, service: str) -> None:
    spread(served)
    parts, token, question = [], "", {"all_namespaces": True, "service": service, "page_size": size}
    while not parts or token:
        page = served.list(page_token=token, **question)
        parts.append([(it.namespace, it.service, it.id) for it in page.instances])
        token = page.next_page_token
        assert page.checksum == sum_of(served.list(all_namespaces=True, service=service).instances)
    found = [name for part in parts for name in part]
    query = Query("", frozenset([service] if service else []))
    assert found == sorted(entry.key[:3] for entry in served.catalog.select(query))
    assert len(found) == (6 if service else 11)
    assert max(map(len, parts)) <= size


@pytest.mark.parametrize("size", [1, 2, 10_000])
def test_pages_of_services_of_all_namespaces(served: Served, size: int) -> None:
    spread(served)
    page = services(served, all_namespaces=True, page_size=size)
    found = [(it.namespace, it.service) for it in page.services]
    while page.next_page_token:
        page = services(served, all_namespaces=True, page_size=size, page_token=page.next_page_token)
        found += [(it.namespace, it.service) for it in page.services]
    assert found == [(space, service) for space in ("b", "default", "prod") for service in "xy"]


def test_all_namespaces_and_one_cannot_both_be_meant(served: Served) -> None:
    asked = {"all_namespaces": True, "namespace": "prod"}
    for ask in (served.list, functools.partial(services, served), functools.partial(served.watch, Sink())):
        with pytest.raises(InvalidField, match=r"^namespace: must be empty when all_namespaces is set"):
            ask(**asked)


def test_a_token_of_one_list_is_none_of_the_other(served: Served) -> None:
    spread(served)
    one, all_ = served.list(page_size=1), served.list(page_size=1, all_namespaces=True)
    for token, question in ((one.next_page_token, {"all_namespaces": True}), (all_.next_page_token, {})):
        with pytest.raises(InvalidField, match=r"^page_token: is not one that this list gave out"):
            served.list(page_token=token, **question)


def test_a_watch_of_all_namespaces_hears_of_each(served: Served) -> None:
    spread(served)
    watcher = Watcher(served, all_namespaces=True)
    watcher.catch_up()
    served.feed.emit(put(60, key("new", "z", "another")))
    served.feed.emit(gone(61, key("1", "x", "b")))
    watcher.catch_up()
    assert watcher.fold.resets == 1
    assert set(watcher.fold.instances) == set(served.catalog.keys())
    assert {name.namespace for name in watcher.fold.instances} == {"another", "b", "default", "prod"}
