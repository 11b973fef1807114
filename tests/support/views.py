"""Users of registry_client at work: registrations, and watches that note every view that is shorter than it may be."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import registry_client
from registry_client import Instance, Registration, RegistryClient, State, View
from tests.support.waiting import eventually_async, until

TTL_S = 3.0
NAMES = [f"game-{number}" for number in range(6)]
WAIT_S = 25.0


class Views:
    """Every view that a watch gave, as the names in it, from the first on that had all of them."""

    def __init__(self) -> None:
        self.latest: View | None = None
        self.shorter: list[list[str]] = []
        self.stale: list[bool] = []
        self._was_full = False

    async def follow(self, registry: RegistryClient, service: str = "player") -> None:
        """Until cancelled."""
        async with registry.watch(service) as watch:
            async for view in watch:
                self.take(view)

    def take(self, view: View) -> None:
        """Note one view."""
        names = [instance.id for instance in view.instances]
        self._was_full |= set(names) >= set(NAMES)
        if self._was_full and not set(names) >= set(NAMES):
            self.shorter.append(names)
        self.latest = view
        self.stale.append(view.stale_for is not None)

    async def wait(self, condition: Callable[[View], bool], what: str) -> None:
        """Wait until the latest view is like that."""
        await eventually_async(lambda: self.latest is not None and condition(self.latest), timeout_s=WAIT_S, what=what)

    async def wait_full(self) -> None:
        """Wait until the latest view has all."""
        await self.wait(lambda view: {it.id for it in view.instances} >= set(NAMES), "all are there")

    async def wait_stale(self) -> None:
        """Wait until the latest view is old."""
        await self.wait(lambda view: view.stale_for is not None, "what is known is shown as old")

    async def wait_confirmed(self) -> None:
        """Wait until the latest view has all, and a registry says so."""
        await self.wait(lambda view: view.stale_for is None and not view.unconfirmed, "it is confirmed again")
        await self.wait_full()


@contextlib.asynccontextmanager
async def at_work(*addresses: str, ttl_s: float = TTL_S) -> AsyncIterator[tuple[list[Registration], list[Views]]]:
    """A client with six registrations, and two others that watch."""
    async with (
        registry_client.connect(addresses, cache_dir=None) as owner,
        registry_client.connect(addresses, cache_dir=None) as one,
        registry_client.connect(addresses, cache_dir=None) as two,
        contextlib.AsyncExitStack() as stack,
    ):
        registrations = [
            await stack.enter_async_context(owner.register(player(number), ttl=ttl_s, drain=0.0))
            for number in range(len(NAMES))
        ]
        views = [Views(), Views()]
        following = [asyncio.create_task(them.follow(client)) for them, client in zip(views, (one, two), strict=True)]
        try:
            await asyncio.gather(*(them.wait_full() for them in views))
            yield registrations, views
        finally:
            for task in following:
                task.cancel()
            ends = await asyncio.gather(*following, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends
        assert [them.shorter for them in views] == [[], []]


def address_in_use(registrations: list[Registration]) -> str:
    """Which registry the owner of all of them talks to just now."""
    return registrations[0]._keeper._link.current.address


def player(number: int) -> Instance:
    """One of the six."""
    return Instance(service="player", id=NAMES[number], host="10.0.0.5", port=8001 + number)


async def shows_all(registrations: list[Registration], address: str) -> None:
    """The registry itself shows them all, asked by somebody who knows nothing, and their owners know it."""
    async with registry_client.connect(address, cache_dir=None) as newcomer:

        async def listed() -> bool:
            return {instance.id for instance in await newcomer.list("player")} == set(NAMES)

        await until(listed, timeout_s=WAIT_S, what="every registration is back")
    await eventually_async(lambda: all(it.state is State.REGISTERED for it in registrations), timeout_s=WAIT_S)
