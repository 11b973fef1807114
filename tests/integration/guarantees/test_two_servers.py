"""Two registry servers on one etcd are one registry, and either of them may die."""

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlsplit

import grpc
import grpc.aio
import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from registry_client import Registration
from tests.support.raw import RawClient, checksum, clients
from tests.support.servers import RegistryServer
from tests.support.stores import Backends
from tests.support.views import NAMES, address_in_use, at_work, shows_all
from tests.support.waiting import eventually_async, passed, until

ROUNDS = 20
TTL_S = 3.0


async def same_everywhere(replicas: list[RawClient], revision: int) -> pb.ListResponse:
    """What every replica lists at that revision or later, the same everywhere."""

    answers: list[pb.ListResponse] = []

    async def agree() -> bool:
        answers[:] = [await replica.list(min_revision=revision) for replica in replicas]
        return len({answer.checksum for answer in answers}) == 1

    await until(agree, what="all replicas list the same")
    assert len({answer.header.epoch for answer in answers}) == 1
    assert all(list(answer.instances) == list(answers[0].instances) for answer in answers)
    assert answers[0].checksum == checksum(answers[0].instances)
    return answers[0]


async def test_register_on_one_and_watch_on_the_other(replicas: list[RegistryServer]) -> None:
    async with RawClient(replicas[0].address) as one, RawClient(replicas[1].address) as two:  # noqa: SIM117
        async with one.watching() as here, two.watching() as there:
            await asyncio.gather(here.wait_started(), there.wait_started())
            registered = await one.register("a", 7001)
            await asyncio.gather(here.wait_ids("a"), there.wait_ids("a"))
            assert there.view["player", "a"] == registered.instance
            assert (await two.renew_one(registered.lease_id)).state == pb.Renewal.RENEWED
            updated = await two.update("a", weight=7)
            await here.wait(lambda: here.view["player", "a"] == updated.instance, "the update of the other")
            await two.deregister("a")
            await asyncio.gather(here.wait_ids(), there.wait_ids())
            revisions = [[step.revision for step in watch.steps[1:]] for watch in (here, there)]
            assert revisions[0] == revisions[1], "the same changes at the same revisions"


async def test_written_on_one_is_read_on_the_other(replicas: list[RegistryServer]) -> None:
    """With the revision of the write as min_revision, always."""
    async with clients(*(replica.address for replica in replicas)) as pair:
        for number in range(30):
            writer, reader = pair[number % 2], pair[(number + 1) % 2]
            revision = (await writer.register(f"id-{number}", 7000 + number)).header.revision
            listed = await reader.list(min_revision=revision)
            assert f"id-{number}" in {instance.id for instance in listed.instances}


async def test_same_address_on_both_at_the_same_time(replicas: list[RegistryServer], backends: Backends) -> None:
    """One of them holds it in the end, the same one everywhere, in the store too; the other one's owner is told."""
    async with clients(*(replica.address for replica in replicas)) as pair:
        revision, leases = 0, dict[str, str]()
        for number in range(ROUNDS):
            answers = await asyncio.gather(
                *(client.register(f"{name}-{number}", 7000 + number) for client, name in zip(pair, "xy", strict=True))
            )
            revision = max(revision, *(answer.header.revision for answer in answers))
            leases |= {answer.instance.id: answer.lease_id for answer in answers}
        await until(lambda: one_holder_each(pair, revision), what="one holder for every address")
        listed = await same_everywhere(pair, revision)
        holders = {instance.id for instance in listed.instances}
        await until(lambda: in_etcd(backends, replicas[0], holders), what="the losers have left the store")
        for name, lease in leases.items():
            renewals = [await client.renew_one(lease) for client in pair]
            assert all((renewal.instances == 1) == (name in holders) for renewal in renewals), name


async def in_etcd(backends: Backends, server: RegistryServer, names: set[str]) -> bool:
    """Whether the store of that server holds these ids and no others."""
    (prefix,) = parse_qs(urlsplit(server._args[1]).query)["prefix"]
    keys = await backends.etcd().etcdctl_async("get", f"{prefix}/v1/instances/", "--prefix", "--keys-only")
    return {key.rpartition("/")[2] for key in keys.split()} == names


async def one_holder_each(replicas: list[RawClient], revision: int) -> bool:
    """Whether every replica shows exactly one instance at every address."""
    for replica in replicas:
        ports = [instance.port for instance in (await replica.list(min_revision=revision)).instances]
        if sorted(ports) != list(range(7000, 7000 + ROUNDS)):
            return False
    return True


async def test_same_id_on_both_at_the_same_time(replicas: list[RegistryServer]) -> None:
    """One is first and one takes over, whichever; the one who has it no more is told."""
    async with clients(*(replica.address for replica in replicas)) as pair:
        for number in range(ROUNDS):
            name = f"id-{number}"
            answers = await asyncio.gather(
                *(client.register(name, 7000 + 100 * which + number) for which, client in enumerate(pair))
            )
            first, second = sorted(answers, key=lambda answer: answer.instance.generation)
            assert first.instance.generation < second.instance.generation
            assert second.header.revision > first.header.revision
            for client in pair:
                listed = await client.list(min_revision=second.header.revision)
                (owner,) = [instance for instance in listed.instances if instance.id == name]
                assert owner == second.instance
                assert (await client.renew_one(first.lease_id)).state == pb.Renewal.UNKNOWN
                assert (await client.renew_one(second.lease_id)).instances == 1


async def test_writers_on_both_and_watchers_on_both_end_up_the_same(replicas: list[RegistryServer]) -> None:
    """Random writes through both at once, over few ids and addresses so that they collide: no watch breaks a
    guarantee, and at the end all agree."""
    async with clients(*(replica.address for replica in replicas)) as pair, contextlib.AsyncExitStack() as stack:
        watches = [await stack.enter_async_context(client.watching()) for client in pair for _ in range(2)]
        revisions = await asyncio.gather(*(collide(client, seed) for seed, client in enumerate([*pair, *pair])))
        listed = await same_everywhere(pair, max(revisions))
        wanted = {(it.service, it.id): it for it in listed.instances}
        for watch in watches:
            await watch.wait(lambda watch=watch: watch.view == wanted, "what List says")  # type: ignore[misc]
        ports = collections.Counter(instance.port for instance in listed.instances)
        assert set(ports.values()) == {1}


async def collide(client: RawClient, seed: int) -> int:
    """Registers few ids at few addresses, in an order of its own; tries again where others came first too often."""
    revision = number = 0
    while number < 40:
        draw = (seed * 31 + number * 7) % 97
        try:
            answer = await client.register(f"id-{draw % 6}", 7000 + draw % 5)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.ABORTED:
                raise
        else:
            revision = max(revision, answer.header.revision)
            number += 1
    return revision


def by_use(replicas: list[RegistryServer], registrations: list[Registration], which: str) -> list[RegistryServer]:
    """The replica that the owner uses and then the other one, or the other way round."""
    used = address_in_use(registrations)
    return sorted(replicas, key=lambda replica: (replica.address == used) == (which == "other"))


@pytest.mark.parametrize("which", ["used", "other"])
async def test_either_is_killed_under_load(replicas: list[RegistryServer], which: str) -> None:
    """kill -9 while owners renew, watchers watch and others write: clients with both addresses go on, and no list gets
    shorter."""
    async with at_work(*(replica.address for replica in replicas), ttl_s=TTL_S) as (registrations, views):
        dies, stays = by_use(replicas, registrations, which)
        async with load(stays) as written:
            await eventually_async(lambda: len(written) > 50, what="there is load")
            dies.kill()
            before = len(written)
            await passed(2 * TTL_S)  # whoever had been renewed by the dead one alone would be gone by now
            assert len(written) > before
        await shows_all(registrations, stays.address)
        await asyncio.gather(*(them.wait_confirmed() for them in views))
        await dies.start_async()
        await shows_all(registrations, dies.address)
        assert not any(any(them.stale) for them in views), "there was always one that answered"


@pytest.mark.parametrize("which", ["used", "other"])
async def test_either_stands_still(replicas: list[RegistryServer], which: str) -> None:
    """SIGSTOP: its connections stay and nobody answers. Owners renew through the other in time, and what the frozen one
    makes of it when it goes on is no shorter either."""
    async with at_work(*(replica.address for replica in replicas), ttl_s=TTL_S) as (registrations, views):
        freezes, stays = by_use(replicas, registrations, which)
        await shows_all(registrations, stays.address)
        async with RawClient(stays.address) as client, client.watching() as watch:
            await watch.wait_ids(*NAMES)
            freezes.pause()
            await passed(1.5 * TTL_S)
            await shows_all(registrations, stays.address)
            freezes.resume()
            await shows_all(registrations, freezes.address)
            await passed(TTL_S)
            assert {step.ids for step in watch.steps} == {frozenset(NAMES)}
        await asyncio.gather(*(them.wait_confirmed() for them in views))


@contextlib.asynccontextmanager
async def load(server: RegistryServer) -> AsyncIterator[list[int]]:
    """Constant updates through one server, while the block lasts; the revisions of all so far."""
    written: list[int] = []
    stopping = asyncio.Event()

    async def write(client: RawClient) -> None:
        await client.register("loaded", 7999, service="other")
        while not stopping.is_set():
            answer = await client.update("loaded", service="other", weight=len(written) % 1000)
            written.append(answer.header.revision)

    async with RawClient(server.address) as client, asyncio.TaskGroup() as tasks:
        tasks.create_task(write(client))
        try:
            yield written
        finally:
            stopping.set()


WRITERS, WRITES = 32, 10


@pytest.mark.parametrize("what", ["update", "register", "same-address", "mixed"])
async def test_many_writers_of_one_instance_all_have_their_way(replicas: list[RegistryServer], what: str) -> None:
    """Over two servers at once: nobody is told ABORTED, and no write is lost."""
    async with clients(*(replica.address for replica in replicas)) as pair:
        first = await pair[0].register("one", 7001)
        lease = first.lease_id
        await pair[1].list(min_revision=first.header.revision)

        async def write(writer: int) -> list[int]:
            client, revisions = pair[writer % 2], []
            for number in range(WRITES):
                kind = ["update", "register"][number % 2] if what == "mixed" else what
                if kind == "update":
                    answer = await client.update("one", metadata={"by": f"{writer}", "number": f"{number}"})
                    revisions.append(answer.header.revision)
                else:
                    name = f"one-{writer}" if kind == "same-address" else "one"
                    revisions.append((await client.register(name, 7001, lease_id=lease)).header.revision)
            return revisions

        written = await asyncio.gather(*(write(writer) for writer in range(WRITERS)))
        revisions = [revision for own in written for revision in own]
        assert len(set(revisions)) == WRITERS * WRITES, "every write is a revision of its own"
        assert all(own == sorted(own) for own in written)
        listed = await same_everywhere(pair, max(revisions))
        (shown,) = listed.instances
        assert shown.revision == max(revisions)
