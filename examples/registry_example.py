"""What a registry is for, on one page: `python -m examples.registry_example`.

Registered with tags, metadata and a health check; discovered; chosen by a policy; counted; and a second registry that
takes over when the first one is gone.
"""

import asyncio

import registry_client
from registry_client import Health, HealthCheck, Instance, RegistryClient, testing

CHECK = HealthCheck.tcp(interval=0.2, timeout=0.2, failures=2, successes=1)


async def discover(registry: RegistryClient) -> None:
    """Those with a tag that get traffic; from memory, once the first answer is there."""
    players = registry.discover("player", tags=["eu"], healthy_only=True)
    for _ in range(3):
        print("discovered:", [instance.address for instance in await players.instances()])
    print("statistics:", players.stats())


async def call(registry: RegistryClient) -> None:
    """An instance for each call. What raises, or is marked, counts against the instance."""
    players = registry.balancer("player", policy="least_connections")
    async with players.request() as call:
        print("calling:", call.instance.id)
    async with players.request() as call:
        call.mark_failed()
    print("calls:", {it.address: (it.calls, it.failures) for it in players.stats().nodes})


async def changed(instance: Instance, before: Health, now: Health) -> None:
    print("changed:", instance.id, before, "->", now)


async def check(registry: RegistryClient, server: asyncio.Server) -> None:
    """The registry looks by itself: who does not answer leaves every list."""
    async with asyncio.timeout(20), registry.watch("player", healthy_only=True) as watch:
        async for view in watch:
            if not view.instances:
                break
            if view.instances[0].health == "HEALTHY":
                print("health:", await registry.health("player"))
                server.close()
    print("health:", await registry.health("player"))


async def fail_over() -> None:
    """Registered in two registries; the second answers when the first is gone."""
    with testing.registry() as backup:
        async with testing.registry() as primary:
            registries = registry_client.connect_many({"primary": primary, "backup": backup}, cache_dir=None)
            await registries.__aenter__()
            registered = await registries.register(Instance("chat", "10.0.0.5", 9001)).__aenter__()
            print("registered:", {name: getattr(it, "state", it) for name, it in registered.results.items()})
        print("after the first is gone:", [instance.address for instance in await registries.list("chat")])
        await registries.aclose()


async def main() -> None:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with registry_client.connect("memory:") as registry:
        instance = Instance("player", "127.0.0.1", port, tags=["eu"], metadata={"map": "dust"}, checks=[CHECK])
        registry.on_health("player", changed)
        async with registry.register(instance, ttl=15):
            await discover(registry)
            await call(registry)
            await check(registry, server)
    await fail_over()


if __name__ == "__main__":
    asyncio.run(main())
