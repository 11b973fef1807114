"""All doors show the same: after random histories List, Watch, a registry:// picker and both kinds of xDS agree."""

import asyncio
import collections
import random
from collections.abc import Callable
from fractions import Fraction

import pytest

import registry_client
from registry_api.registry.v1 import registry_pb2 as pb
from tests.support import xds_messages as xds
from tests.support.ads import DELTA, SOTW, Follower, World
from tests.support.raw import Watching
from tests.support.servers import RegistryServer
from tests.support.waiting import eventually_async, until

SERVICES = ("player", "match", "chat")
WEIGHTS = (0, 1, 2, 5)
HOSTS = ("10.0.0.1", "10.0.0.2", "fd00::1")
STEPS = 60
SEEDS = (1, 2, 3)

# HOST:PORT -> which part of the calls it gets.
Shares = dict[str, Fraction]


def shares(weights: dict[str, int]) -> Shares:
    """The parts, of weights."""
    whole = sum(weights.values())
    return {place: Fraction(weight, whole) for place, weight in weights.items() if weight}


def of_instances(instances: list[pb.Instance]) -> Shares:
    """The parts, of what List and Watch show."""
    return shares({address(it.host, it.port): it.weight for it in instances if is_routable(it)})


def is_routable(instance: pb.Instance) -> bool:
    """As the .proto says."""
    return instance.status == pb.ACTIVE and instance.health in (pb.UNKNOWN, pb.HEALTHY) and instance.weight > 0


def address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def of_assignment(assignment: object, *, by_locality: bool) -> Shares:
    """The parts, of what xDS tells: Envoy goes by the weight of an endpoint, gRPC by that of its locality."""
    groups = assignment.endpoints  # type: ignore[attr-defined]
    assert all(group.priority == 0 for group in groups)
    if not by_locality:
        return shares({place: weight for place, (_, weight) in xds.places(assignment).items()})
    found: dict[str, Fraction] = {}
    whole = sum(group.load_balancing_weight.value for group in groups)
    for group in groups:
        for one in group.lb_endpoints:
            where = one.endpoint.address.socket_address
            part = Fraction(group.load_balancing_weight.value, whole) / len(group.lb_endpoints)
            found[address(where.address, where.port_value)] = part
    return found


class Story:
    """Random changes to some services."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.rng = random.Random(seed)
        self.there: set[tuple[str, str]] = set()

    async def step(self) -> None:
        """One change."""
        await self.rng.choice([self.put, self.put, self.put, self.mark, self.weigh, self.remove])()

    async def put(self) -> None:
        service, name = self.rng.choice(SERVICES), f"i{self.rng.randrange(5)}"
        await self.world.client.register(
            name,
            8000 + self.rng.randrange(4),
            service=service,
            host=self.rng.choice(HOSTS),
            weight=self.rng.choice(WEIGHTS),
            ttl_s=3600,
        )
        listed = (await self.world.client.list(service)).instances  # whoever had that address is gone
        self.there = {it for it in self.there if it[0] != service} | {(service, it.id) for it in listed}

    async def mark(self) -> None:
        if self.there:
            service, name = self.rng.choice(sorted(self.there))
            status = self.rng.choice([pb.ACTIVE, pb.ACTIVE, pb.DRAINING, pb.DOWN])
            await self.world.client.update(name, service=service, status=status)

    async def weigh(self) -> None:
        if self.there:
            service, name = self.rng.choice(sorted(self.there))
            await self.world.client.update(name, service=service, weight=self.rng.choice(WEIGHTS))

    async def remove(self) -> None:
        if self.there:
            service, name = self.rng.choice(sorted(self.there))
            self.there.remove((service, name))
            await self.world.client.deregister(name, service=service)


async def picked(registry: registry_client.RegistryClient, service: str, turns: int) -> Shares:
    """The parts, of what is picked in so many turns: the sum of the weights, so that each gets exactly its own."""
    players = registry.balancer(service, policy="weighted_round_robin")
    counted: collections.Counter[str] = collections.Counter()
    try:
        for _ in range(max(1, turns)):
            instance = await players.get()
            counted[address(instance.host, instance.port)] += 1
    except registry_client.NotFound:
        return {}
    return shares(dict(counted))


async def agree(doors: dict[str, Callable[[], Shares | None]], expected: Shares, what: str) -> None:
    """Wait until every door shows the same. Raises AssertionError."""
    for name, door in doors.items():
        await eventually_async(lambda door=door: door() == expected, what=f"{name} of {what}: {expected}")  # type: ignore[misc]


@pytest.mark.parametrize("seed", SEEDS)
async def test_all_doors_show_the_same(server: RegistryServer, world: World, seed: int) -> None:
    story = Story(world, seed)
    grpc_, envoy = Follower(world.open(SOTW), *SERVICES), Follower(world.open(SOTW, xds.ENVOY))
    delta = Follower(world.open(DELTA, xds.ENVOY))
    watch = world.client.watching(*SERVICES)
    async with (
        registry_client.connect(server.address, cache_dir=None) as registry,
        watch,
        grpc_,
        envoy,
        delta,
    ):
        for _ in range(STEPS):
            await story.step()
        for service in SERVICES:
            listed = (await world.client.list(service)).instances
            expected = of_instances(list(listed))
            doors = {
                "Watch": lambda service=service: of_watch(watch, service),
                "SotW of gRPC": lambda service=service: of_follower(grpc_, service, by_locality=True),
                "SotW of Envoy": lambda service=service: of_follower(envoy, service, by_locality=False),
                "incremental of Envoy": lambda service=service: of_follower(delta, service, by_locality=False),
            }
            await agree(doors, expected, service)
            turns = sum(it.weight for it in listed if is_routable(it))

            async def picks(service: str = service, turns: int = turns, expected: Shares = expected) -> bool:
                return await picked(registry, service, turns) == expected

            await until(picks, what=f"the picker of {service}: {expected}")


def of_watch(watch: Watching, service: str) -> Shares:
    return of_instances([it for (of, _), it in watch.view.items() if of == service])


def of_follower(follower: Follower, service: str, *, by_locality: bool) -> Shares | None:
    """None while it does not know."""
    assignment = follower.assignment(service)
    return None if assignment is None else of_assignment(assignment, by_locality=by_locality)


async def test_doors_agree_while_many_write(world: World) -> None:
    """The same after changes that overlap."""
    stories = [Story(world, seed) for seed in (11, 12, 13)]
    follower = Follower(world.open(DELTA, xds.ENVOY))
    async with follower:
        for _ in range(10):
            await asyncio.gather(*(story.put() for story in stories))
        for service in SERVICES:
            expected = of_instances(list((await world.client.list(service)).instances))
            door = {"incremental": lambda service=service: of_follower(follower, service, by_locality=False)}
            await agree(door, expected, service)
