"""SHELL: who is at work while everything is harmed: owners, writers, passers-by, watchers; all note what they see."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import grpc
import grpc.aio

import registry_client
from registry_api.registry.v1 import registry_pb2 as pb
from registry_client import Instance, RegistryClient
from tests.faults.history import History, Left, Registered, Renewed, Seen, Stall, Step, Tried, Written
from tests.support.raw import RawClient, checksum, duration
from tests.support.waiting import until

SERVICE = "player"
TTL_S = 6.0
CALL_S = 4.0
TICK_S = 0.05
# A standstill of this process that is worth noting.
STALL_S = 0.5
COUNTER = "counter"


def now() -> float:
    """The clock of every history."""
    return time.monotonic()


@dataclass
class Cast:
    """All who are at work against the `replicas`, each in a task of its own until cancelled."""

    replicas: Sequence[str]
    history: History
    rng: Random
    port: int = 9000
    clients: dict[str, RawClient] = field(default_factory=dict)

    def any_client(self) -> RawClient:
        """A connection to some replica."""
        return self.clients[self.rng.choice(self.replicas)]

    def after(self, client: RawClient) -> RawClient:
        """A connection to the next replica."""
        return self.clients[self.replicas[(self.replicas.index(client.address) + 1) % len(self.replicas)]]

    def next_port(self) -> int:
        """A port that no other instance of this history listens on."""
        self.port += 1
        return self.port


async def notice_stalls(history: History) -> None:
    """Note when this process itself did not run."""
    before = now()
    while True:
        await asyncio.sleep(TICK_S)
        late_s = now() - before - TICK_S
        before += late_s + TICK_S
        if late_s > STALL_S:
            history.add(Stall(before, late_s))


# ---- those who stay


async def stay(cast: Cast, registry: RegistryClient, id_: str) -> None:
    """Keep an instance registered with the library."""
    instance = Instance(service=SERVICE, id=id_, host="10.1.0.1", port=cast.next_port())
    async with registry.register(instance, ttl=TTL_S, drain=0.0):
        try:
            await asyncio.Event().wait()
        finally:
            cast.history.add(Left(now(), id_))


async def stay_by_hand(cast: Cast, id_: str) -> None:
    """The same with nothing but the .proto: renew every third of the ttl, go to another replica when one does not
    answer, when it says HELD for a third of the ttl, or ends the stream; register again when the lease is unknown."""
    instance = pb.Instance(service=SERVICE, id=id_, host="10.1.0.2", port=cast.next_port())
    client, lease_id = cast.any_client(), ""
    try:
        while True:
            client = cast.after(client)
            with contextlib.suppress(grpc.aio.AioRpcError, TimeoutError, asyncio.InvalidStateError):
                if not lease_id:
                    sent = now()
                    answer = await client.stub.Register(
                        pb.RegisterRequest(instance=instance, ttl=duration(TTL_S)), timeout=CALL_S
                    )
                    lease_id, instance.generation = answer.lease_id, answer.instance.generation
                    cast.history.add(
                        Registered(sent, now(), id_, id_, lease_id, instance.generation, answer.header.revision)
                    )
                lease_id = await _renew_at(cast, client, id_, lease_id)
            await asyncio.sleep(0.05)
    finally:
        cast.history.add(Left(now(), id_))


async def _renew_at(cast: Cast, client: RawClient, id_: str, lease_id: str) -> str:
    """Renew over one stream as long as that is of use; the lease to go on with, empty if there is none any more."""
    call = client.stub.KeepAlive()
    held_since: float | None = None
    try:
        while True:
            sent = now()
            async with asyncio.timeout(TTL_S / 6):
                await call.write(pb.KeepAliveRequest(lease_ids=[lease_id]))
                answer = await call.read()
            if not isinstance(answer, pb.KeepAliveResponse):
                return lease_id
            (renewal,) = answer.renewals
            state = pb.Renewal.State.Name(renewal.state)
            ttl_s = renewal.ttl.ToNanoseconds() / 1e9 or TTL_S
            cast.history.add(Renewed(sent, now(), client.address, id_, lease_id, state, ttl_s))
            if state == "UNKNOWN" or (state == "RENEWED" and renewal.instances == 0):
                return ""
            held_since = None if state == "RENEWED" else held_since or sent
            if held_since is not None and now() - held_since > TTL_S / 3:
                return lease_id
            await asyncio.sleep(TTL_S / (3 if held_since is None else 12))
    finally:
        call.cancel()


# ---- those who write


async def write(cast: Cast, id_: str) -> None:
    """Count upwards in the metadata of an instance that stays for the whole time, through any replica."""
    counter = 0
    instance = pb.Instance(service=SERVICE, id=id_, host="10.1.0.3", port=cast.next_port(), metadata={COUNTER: "0"})
    await until(lambda: _registered(cast, instance), timeout_s=60.0, what=f"{id_} is registered")
    while True:
        counter += 1
        request = pb.UpdateRequest(instance=pb.Instance(service=SERVICE, id=id_, metadata={COUNTER: str(counter)}))
        request.update_mask.paths.append("metadata")
        sent = now()
        cast.history.add(Tried(sent, id_, counter))
        with contextlib.suppress(grpc.aio.AioRpcError):
            answer = await cast.any_client().stub.Update(request, timeout=CALL_S)
            cast.history.add(Written(sent, now(), id_, counter, answer.header.revision))
        await asyncio.sleep(cast.rng.uniform(0.02, 0.2))


async def _registered(cast: Cast, instance: pb.Instance) -> bool:
    try:
        await cast.any_client().stub.Register(pb.RegisterRequest(instance=instance, ttl=duration(3600)), timeout=CALL_S)
    except grpc.aio.AioRpcError:
        return False
    return True


async def pass_by(cast: Cast, id_: str, name: str) -> None:
    """Take an id again and again, from whoever has it; then leave, or just go and let the lease end."""
    visits = 0
    while True:
        visits += 1
        owner = f"{name}-{visits}"
        instance = pb.Instance(service="seats", id=id_, host="10.1.0.4", port=cast.next_port())
        sent = now()
        with contextlib.suppress(grpc.aio.AioRpcError):
            request = pb.RegisterRequest(instance=instance, ttl=duration(2))
            answer = await cast.any_client().stub.Register(request, timeout=CALL_S)
            stored = answer.instance
            cast.history.add(
                Registered(sent, now(), id_, owner, answer.lease_id, stored.generation, answer.header.revision)
            )
            await asyncio.sleep(cast.rng.uniform(0.0, 1.0))
            if cast.rng.random() < 0.5:
                goodbye = pb.DeregisterRequest(lease_id=answer.lease_id)
                await cast.any_client().stub.Deregister(goodbye, timeout=CALL_S)
        await asyncio.sleep(cast.rng.uniform(0.05, 1.5))


# ---- those who look


class Watcher:
    """Follows the Watch streams of one replica, with tokens, and notes every step."""

    def __init__(self, cast: Cast, client: RawClient, name: str) -> None:
        self._cast = cast
        self._client = client
        self._name = name
        self._stream = 0
        self._view: dict[str, pb.Instance] = {}
        self._token = ""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._stream += 1
            with contextlib.suppress(grpc.aio.AioRpcError, TimeoutError):
                await self._follow()
            await asyncio.sleep(0.1)

    async def _follow(self) -> None:
        parts: list[pb.WatchResponse] = []
        call = self._client.stub.Watch(pb.WatchRequest(services=[SERVICE], resume_token=self._token))
        try:
            while True:
                async with asyncio.timeout(15.0):
                    response = await call.read()
                if not isinstance(response, pb.WatchResponse):
                    return
                parts.append(response)
                if not response.more:
                    self._take(parts)
                    parts = []
        finally:
            call.cancel()

    def _take(self, parts: list[pb.WatchResponse]) -> None:
        """Fold one step as the .proto says, and note what it did to the set."""
        last, before = parts[-1], self._view
        view = {} if parts[0].reset else dict(before)
        for part in parts:
            view |= {instance.id: instance for instance in part.upserts}
            for key in part.removed:
                view.pop(key.id, None)
        is_sound = checksum(view.values()) == last.checksum
        counters = {it.id: int(it.metadata[COUNTER]) for it in view.values() if COUNTER in it.metadata}
        upserts = {id_: count for id_, count in counters.items() if view[id_] != before.get(id_)}
        self._cast.history.add(
            Step(
                now(),
                self._name,
                self._stream,
                self._client.address,
                last.header.epoch,
                last.header.revision,
                parts[0].reset,
                is_sound,
                frozenset(before.keys() - view.keys()),
                upserts,
            )
        )
        self._view, self._token = (view, last.resume_token) if is_sound else ({}, "")


async def look(cast: Cast, name: str, ready: asyncio.Event) -> None:
    """Watch with the library, over all replicas, and note every view. Sets `ready` once all the living are there."""
    async with registry_client.connect(cast.replicas, cache_dir=None) as registry, registry.watch(SERVICE) as watch:
        async for view in watch:
            ids = frozenset(instance.id for instance in view.instances)
            cast.history.add(Seen(now(), name, ids, frozenset(it.id for it in view.changes.removed)))
            if cast.history.living <= ids:
                ready.set()
