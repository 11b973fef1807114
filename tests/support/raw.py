"""Clients of registry.v1 with nothing between the test and the server but the generated stub.

`Watching` folds a Watch stream by the rules of the .proto, keeps every step, and notes whatever breaks a guarantee.
`Owner` does what the .proto asks of an owner, and no more. Both are written from the .proto alone.
"""

import asyncio
import collections
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2_grpc

from registry_api.registry.v1 import registry_pb2 as pb
from registry_api.registry.v1 import registry_pb2_grpc
from tests.support.waiting import eventually_async

if TYPE_CHECKING:
    from registry_api.registry.v1.registry_pb2_grpc import RegistryAsyncStub

WAIT_S = 15.0
CALL_S = 10.0
RETRY_S = 0.1
OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 300),
)
_MODULUS = 1 << 64

# Service and id; every test of one Watching stays in one namespace.
Name = tuple[str, str]


def duration(seconds: float) -> Duration:
    """Seconds as a Duration."""
    message = Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message


def checksum(instances: Iterable[pb.Instance]) -> int:
    """As the .proto defines it."""
    texts = (f"{it.namespace}/{it.service}/{it.id}@{it.revision}" for it in instances)
    return sum(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") for text in texts) % _MODULUS


def detail(error: grpc.aio.AioRpcError, kind: Any) -> Any:
    """The google.rpc detail of that kind which an error carries. Raises AssertionError when there is none."""
    raw = dict([*(error.trailing_metadata() or ())]).get("grpc-status-details-bin")
    assert isinstance(raw, bytes), f"no details: {error!r}"
    for packed in status_pb2.Status.FromString(raw).details:
        message = kind()
        if packed.Unpack(message):
            return message
    raise AssertionError(f"no {kind.__name__}: {error!r}")


def retry_info(error: grpc.aio.AioRpcError) -> float:
    """Seconds after which the server wants to be asked again. Raises AssertionError when it does not say."""
    seconds: float = detail(error, error_details_pb2.RetryInfo).retry_delay.ToNanoseconds() / 1e9
    return seconds


class RawClient:
    """One connection to one server, and the calls of the tests in few words. Use it with `async with`."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.channel = grpc.aio.insecure_channel(address, options=OPTIONS)
        self.stub: RegistryAsyncStub = registry_pb2_grpc.RegistryStub(self.channel)
        self.health: Any = health_pb2_grpc.HealthStub(self.channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.channel.close()

    async def register(
        self,
        name: str = "",
        port: int = 8001,
        *,
        ttl_s: float = 30.0,
        lease_id: str = "",
        service: str = "player",
        **fields: Any,
    ) -> pb.RegisterResponse:
        """Register `name` at 10.0.0.5:`port`."""
        instance = pb.Instance(service=service, id=name, **{"host": "10.0.0.5", "port": port, **fields})
        request = pb.RegisterRequest(instance=instance, ttl=duration(ttl_s), lease_id=lease_id)
        return await self.stub.Register(request, timeout=CALL_S)

    async def update(self, name: str, *, service: str = "player", **fields: Any) -> pb.UpdateResponse:
        """Change the named fields."""
        instance = pb.Instance(service=service, id=name, **fields)
        return await self.stub.Update(
            pb.UpdateRequest(instance=instance, update_mask=FieldMask(paths=list(fields))), timeout=CALL_S
        )

    async def deregister(
        self, name: str = "", *, lease_id: str = "", drain_s: float = 0.0, service: str = "player", generation: int = 0
    ) -> pb.DeregisterResponse:
        """Remove one, or all of a lease."""
        key = pb.InstanceKey(service=service, id=name) if name else None
        request = pb.DeregisterRequest(key=key, lease_id=lease_id, drain=duration(drain_s), generation=generation)
        return await self.stub.Deregister(request, timeout=CALL_S)

    async def list(
        self, service: str = "player", *, min_revision: int = 0, filter_: pb.Filter | None = None
    ) -> pb.ListResponse:
        """One page, of up to 10,000."""
        request = pb.ListRequest(service=service, min_revision=min_revision, filter=filter_, page_size=10_000)
        return await self.stub.List(request, timeout=CALL_S)

    async def ids(self, service: str = "player") -> set[str]:
        """The ids that List shows."""
        return {instance.id for instance in (await self.list(service)).instances}

    async def renew(self, *lease_ids: str) -> Sequence[pb.Renewal]:
        """One KeepAlive stream with one request, ended in order."""
        call = self.stub.KeepAlive(timeout=CALL_S)
        await call.write(pb.KeepAliveRequest(lease_ids=lease_ids))
        answer = await call.read()
        await call.done_writing()
        assert isinstance(answer, pb.KeepAliveResponse)
        assert await call.read() == grpc.aio.EOF
        return answer.renewals

    async def renew_one(self, lease_id: str) -> pb.Renewal:
        """The answer for one lease."""
        (renewal,) = await self.renew(lease_id)
        return renewal

    def watching(self, *services: str, token: str = "", **options: Any) -> "Watching":
        """A Watch of these services, or `player`; to be used with `async with`."""
        request = pb.WatchRequest(
            services=services or ["player"], resume_token=token, filter=options.pop("filter_", None)
        )
        return Watching(self, request, **options)


# ---- watching


@dataclass(frozen=True, slots=True)
class Step:
    """One whole step of a watch, and the set it led to. `at` is on the monotonic clock."""

    at: float
    epoch: str
    revision: int
    reset: bool
    upserts: Mapping[Name, pb.Instance]
    removed: frozenset[Name]
    names: frozenset[Name]
    stale_for_s: float | None

    @property
    def ids(self) -> frozenset[str]:
        """The ids in the set."""
        return frozenset(name for _, name in self.names)


@dataclass(slots=True)
class _Parts:
    """The responses of a step that is not whole yet."""

    responses: list[pb.WatchResponse] = field(default_factory=list)

    def whole(self) -> tuple[list[pb.Instance], list[Name], bool]:
        """What all of them say, and whether the first resets."""
        upserts = [it for response in self.responses for it in response.upserts]
        removed = [(it.service, it.id) for response in self.responses for it in response.removed]
        return upserts, removed, self.responses[0].reset


class Watching:
    """One Watch stream, read and folded by a task of its own from `async with` on.

    `steps` are the steps with something in them, `view` is the set now, `bookmarks` counts. What breaks a guarantee is
    in `mistakes`, and raised when the block ends. `error` is what the stream ended with, None while it goes on.
    """

    def __init__(
        self,
        client: RawClient,
        request: pb.WatchRequest,
        *,
        view: Mapping[Name, pb.Instance] | None = None,
        on_step: Callable[[Step], None] | None = None,
    ) -> None:
        self.steps: list[Step] = []
        self.view: dict[Name, pb.Instance] = dict(view or {})
        self.token = request.resume_token
        self.revision = 0
        self.epoch = ""
        self.bookmarks = 0
        self.stale_for_s: float | None = None
        self.error: grpc.aio.AioRpcError | None = None
        self.ended_at = 0.0
        self.mistakes: list[str] = []
        self._client = client
        self._request = request
        self._on_step = on_step
        self._parts = _Parts()
        self._is_first = True
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._waiters: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None

    # ---- what tests ask

    @property
    def ids(self) -> set[str]:
        """The ids in the set now."""
        return {name for _, name in self.view}

    def stop_reading(self) -> None:
        """Take nothing from the stream any more: the window of its flow control closes, and the server cannot write."""
        self._may_read.clear()

    def read_on(self) -> None:
        """Take again what comes."""
        self._may_read.set()

    async def wait(self, condition: Callable[[], object], what: str, timeout_s: float = WAIT_S) -> None:
        """Wait until what comes, or the end of the stream, makes the condition true. Raises AssertionError."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    waiter = asyncio.get_running_loop().create_future()
                    self._waiters.append(waiter)
                    await waiter
        except TimeoutError:
            last = [(step.revision, sorted(step.ids)[:10]) for step in self.steps[-3:]]
            raise AssertionError(f"not within {timeout_s:g} s: {what}; last: {last}, error {self.error!r}") from None

    async def wait_ids(self, *ids: str, timeout_s: float = WAIT_S) -> None:
        """Wait until the set is exactly these."""
        await self.wait(lambda: not self._is_first and self.ids == set(ids), f"exactly {sorted(ids)}", timeout_s)

    async def wait_revision(self, revision: int, timeout_s: float = WAIT_S) -> None:
        """Wait until the stream has told of everything up to a revision."""
        await self.wait(lambda: self.revision >= revision, f"revision {revision}", timeout_s)

    async def wait_started(self) -> None:
        """Wait for the first step."""
        await self.wait(lambda: not self._is_first or self.error, "a first step")

    async def wait_ended(self, timeout_s: float = WAIT_S) -> grpc.aio.AioRpcError:
        """Wait for the end of the stream, and return it."""
        await self.wait(lambda: self.error, "the end of the stream", timeout_s)
        assert self.error is not None
        return self.error

    def check(self) -> None:
        """Raises AssertionError when a guarantee was broken."""
        assert not self.mistakes, self.mistakes[:5]

    # ---- its life

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.result()
        if error is None:
            self.check()

    async def _read(self) -> None:
        call = self._client.stub.Watch(self._request)
        try:
            while True:
                await self._may_read.wait()
                response = await call.read()
                if not isinstance(response, pb.WatchResponse):
                    self.mistakes.append("the stream ended without an error")
                    return
                self._take(response)
                self._wake()
        except grpc.aio.AioRpcError as error:
            self.error, self.ended_at = error, time.monotonic()
        finally:
            call.cancel()
            self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # ---- folding

    def _take(self, response: pb.WatchResponse) -> None:
        self._parts.responses.append(response)
        if response.more:
            self._expect(not response.resume_token, "a part that is not the last has a token")
            return
        parts, self._parts = self._parts, _Parts()
        upserts, removed, reset = parts.whole()
        self._check_order(response, upserts, reset)
        self._fold(upserts, removed, reset)
        self._expect(response.checksum == checksum(self.view.values()), f"checksum at {response.header.revision}")
        self._expect(bool(response.resume_token), "no token")
        self._note(response, upserts, removed, reset)

    def _check_order(self, response: pb.WatchResponse, upserts: list[pb.Instance], reset: bool) -> None:
        header = response.header
        if self._is_first:
            self._expect(reset or bool(self.token), "ResetFirst: a stream without a token began with a difference")
            return
        if reset:
            return
        self._expect(header.epoch == self.epoch, "an epoch changed without a reset")
        self._expect(header.revision >= self.revision, f"Ordered: {header.revision} after {self.revision}")
        old = [it.id for it in upserts if not self.revision < it.revision <= header.revision]
        self._expect(not old, f"Ordered: {old} in the step {self.revision} to {header.revision}")
        if response.bookmark:
            self._expect(not upserts and not response.removed, "a bookmark with something in it")

    def _fold(self, upserts: list[pb.Instance], removed: list[Name], reset: bool) -> None:
        if reset:
            self.view.clear()
        for instance in upserts:
            name = instance.service, instance.id
            known = self.view.get(name)
            self._expect(known != instance, f"sent twice: {name}")
            self.view[name] = instance
        for name in removed:
            self._expect(self.view.pop(name, None) is not None, f"removed without being there: {name}")

    def _note(self, response: pb.WatchResponse, upserts: list[pb.Instance], removed: list[Name], reset: bool) -> None:
        header = response.header
        self.epoch, self.revision, self.token = header.epoch, header.revision, response.resume_token
        self.stale_for_s = header.stale_for.ToNanoseconds() / 1e9 if header.HasField("stale_for") else None
        self.bookmarks += response.bookmark
        is_first, self._is_first = self._is_first, False
        if not (upserts or removed or reset or is_first):
            self._expect(response.bookmark, "a step with nothing in it")
            return
        named = {(it.service, it.id): it for it in upserts}
        step = Step(
            at=time.monotonic(),
            epoch=header.epoch,
            revision=header.revision,
            reset=reset,
            upserts=named,
            removed=frozenset(removed),
            names=frozenset(self.view),
            stale_for_s=self.stale_for_s,
        )
        if self._on_step is None:
            self.steps.append(step)
        else:
            self._on_step(step)

    def _expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.mistakes.append(otherwise)


# ---- owning


class Owner:
    """Keeps one instance registered, as the .proto asks: renews every third of the ttl, goes on when HELD or cut off,
    registers again with the generation it held when UNKNOWN, and under its lease when that does not hold it any more.
    Use it with `async with`; the end of the block stops the renewals and deregisters nothing.

    `others` are clients of other replicas: it goes on to the next when one refuses it or does not answer. `states` are
    the answers to its renewals. `lost` is the error by which it learned that a newer owner has the id.
    """

    def __init__(
        self,
        client: RawClient,
        name: str,
        port: int,
        *,
        ttl_s: float,
        service: str = "player",
        others: Sequence[RawClient] = (),
    ) -> None:
        self.id = name
        self.lease_id = ""
        self.generation = 0
        self._registered_at: Timestamp | None = None
        self.registrations = 0
        self.states: list[int] = []
        self.lost: grpc.aio.AioRpcError | None = None
        self._clients = collections.deque([client, *others])
        self._port = port
        self._ttl_s = ttl_s
        self._service = service
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._register()
        self._task = asyncio.create_task(self._keep())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Renew no more. May be called more than once."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            if not self._task.cancelled():
                self._task.result()

    async def wait_state(self, state: pb.Renewal.State.ValueType, *, after: int = 0, timeout_s: float = WAIT_S) -> None:
        """Wait for such an answer that is not among the first `after`."""
        await eventually_async(
            lambda: state in self.states[after:], timeout_s=timeout_s, what=f"{pb.Renewal.State.Name(state)}"
        )

    async def _register(self, lease_id: str = "") -> None:
        held = {"generation": self.generation, "registered_at": self._registered_at}
        answer = await self._clients[0].register(
            self.id, self._port, ttl_s=self._ttl_s, lease_id=lease_id, service=self._service, **held
        )
        self.lease_id, self.generation = answer.lease_id, answer.instance.generation
        self._registered_at = answer.instance.registered_at
        self.registrations += 1

    async def _keep(self) -> None:
        while self.lost is None:
            try:
                await self._renew_over_one_stream()
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                    self.lost = error
            except TimeoutError:
                pass  # no answer
            self._clients.rotate(-1)
            await asyncio.sleep(RETRY_S)

    async def _renew_over_one_stream(self) -> None:
        call = self._clients[0].stub.KeepAlive()
        try:
            while True:
                async with asyncio.timeout(self._ttl_s / 3 if len(self._clients) > 1 else None):
                    await call.write(pb.KeepAliveRequest(lease_ids=[self.lease_id]))
                    answer = await call.read()
                if not isinstance(answer, pb.KeepAliveResponse):
                    return
                (renewal,) = answer.renewals
                self.states.append(renewal.state)
                if renewal.state == pb.Renewal.UNKNOWN:
                    await self._register()
                elif renewal.state == pb.Renewal.RENEWED and not renewal.instances:
                    await self._register(self.lease_id)
                await asyncio.sleep(self._ttl_s / 3)
        except asyncio.InvalidStateError:
            return
        finally:
            call.cancel()


@contextlib.asynccontextmanager
async def clients(*addresses: str) -> AsyncIterator[list[RawClient]]:
    """One client for each address."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(RawClient(address)) for address in addresses]


async def owners(
    stack: contextlib.AsyncExitStack, client: RawClient, names: Iterable[str], *, ttl_s: float
) -> list[Owner]:
    """Owners at ports of their own, for as long as the stack."""
    return [
        await stack.enter_async_context(Owner(client, name, 9000 + number, ttl_s=ttl_s))
        for number, name in enumerate(names)
    ]


async def refusal(call: Awaitable[object], code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    """The error that a call raises, which must have that code."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is code, caught.value
    return caught.value
