"""SHELL: the traffic policy of one service, followed for as long as somebody goes by it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from typing import TYPE_CHECKING, Protocol

import grpc
import grpc.aio

from registry_api.registry.v1 import policies_pb2 as pb
from registry_client.errors import RegistryError, RegistryUnavailable, alone, from_rpc_error
from registry_client.link import may_try_anew

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry_client.cache import PolicyFile
    from registry_client.link import Connection, Link
    from registry_client.place import Place
    from registry_client.tasks import Tasks
    from registry_client.watcher import Means

log = logging.getLogger(__name__)

# How long the first calls wait for the policy: a registry that has an answer gives it at once.
FIRST_ANSWER_S = 2.0
# How soon a registry is asked again that has no policies, or tells nothing of them.
NONE_THERE_S = 60.0
LASTING_S = 5.0
DISK_S = 1.0  # how long what is on disk is waited for
KEEP_EVERY_S = 1800.0
_NO_USE = frozenset({grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED})


class PolicyFollower(Protocol):
    """Who goes by a policy."""

    def told(self, policy: pb.Policy | None) -> None:
        """The policy as it is now; None for none. Not called before something is known, or nothing will be soon."""


class Traffic:
    """What holds for the traffic of a service just now. Lives as long as somebody holds it, no longer than its client.

    A registry that is away, or knows of no policies, is one without: what was known goes on.
    """

    def __init__(self, means: Means, tasks: Tasks, question: pb.PoliciesWatchRequest, file: PolicyFile | None) -> None:
        """`question`: about one service. `file`: where its policy is kept for a start without a registry."""
        self._pump = pump = _Pump(means, question, file)
        self.place: Place = means.place
        task = tasks.start(pump.run(), "registry-policy")
        weakref.finalize(self, _cancel_soon, task).atexit = False

    @property
    def policy(self) -> pb.Policy | None:
        """The policy; nobody changes it."""
        return self._pump.policy

    async def known(self) -> None:
        """Wait until it is known, or that it will not be soon."""
        await self._pump.known.wait()

    def follow(self, follower: PolicyFollower) -> None:
        """Tell it what is known, and whatever comes; until `unfollow`."""
        self._pump.followers[follower] = None
        if self._pump.known.is_set():
            follower.told(self._pump.policy)

    def unfollow(self, follower: PolicyFollower) -> None:
        """Tell it no more, if it was told."""
        self._pump.followers.pop(follower, None)


class _Pump:
    """What the task of a `Traffic` needs, so that it does not hold the `Traffic` itself."""

    def __init__(self, means: Means, question: pb.PoliciesWatchRequest, file: PolicyFile | None) -> None:
        self.policy: pb.Policy | None = None
        self.known = asyncio.Event()
        self.followers: dict[PolicyFollower, None] = {}
        self._means = means
        self._request = question
        self._service = question.services[0]
        self._file = file
        self._saved: Sequence[pb.Policy] = ()  # what an earlier process knew
        self._is_confirmed = False
        self._keeping: asyncio.TimerHandle | None = None
        self._complained = ""

    async def run(self) -> None:
        link, loop, attempt = self._means.links.take(), asyncio.get_running_loop(), 0
        first = loop.call_later(DISK_S + FIRST_ANSWER_S, self._go_on)
        try:
            await self._restore()
            first.cancel()
            first = loop.call_later(FIRST_ANSWER_S, self._go_on)
            while True:
                began = loop.time()
                failure = await self._follow(link)
                self._go_on()
                attempt = 0 if loop.time() - began >= LASTING_S else attempt + 1
                pause_s = self._means.backoff.delay(max(0, attempt - 1), self._means.rng)
                await asyncio.sleep(NONE_THERE_S if failure.code in _NO_USE else pause_s)
        except asyncio.CancelledError as error:
            raise alone(error)  # noqa: B904 - of nothing
        finally:
            first.cancel()
            if self._keeping is not None:
                self._keeping.cancel()
            self._go_on()
            self._means.links.give_back(link)

    async def _follow(self, link: Link) -> RegistryError:
        """Read one stream to its end; why it ended."""
        connection = link.current
        try:
            await self._read(link, connection)
            failure: RegistryError = RegistryUnavailable(f"{connection.address} ended the stream")
        except TimeoutError:
            failure = RegistryUnavailable(f"{connection.address} does not answer")
        except grpc.aio.AioRpcError as error:
            failure = from_rpc_error(error, f"follow the policy of {self._service}")
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            failure = RegistryUnavailable(f"{connection.address}: the connection was closed")
        except RegistryError as error:
            failure = error
        except Exception as error:
            log.exception("a mistake in this client: the policy of %s is asked for anew", self._service)
            failure = RegistryUnavailable(f"{connection.address}: {error}")
        if failure.code in _NO_USE and not may_try_anew(connection, failure):
            self._complain(failure)
            self._saved = ()
            if failure.code is grpc.StatusCode.UNIMPLEMENTED:
                self._take(None)
        else:
            link.rotate(connection)
        return failure

    async def _read(self, link: Link, connection: Connection) -> None:
        """Raises TimeoutError for a stream that does not begin, AioRpcError for one that breaks."""
        call = connection.stub.policies.Watch(self._request, metadata=await connection.dialer.metadata())
        found: pb.Policy | None = None
        try:
            async with asyncio.timeout(FIRST_ANSWER_S) as patience:
                while isinstance(answer := await call.read(), pb.PoliciesWatchResponse):
                    patience.reschedule(None)
                    found = next((it for it in answer.policies if it.service == self._service), found)
                    if not answer.more:
                        self._take(found)
                        found = None
        finally:
            self._is_confirmed = False
            await link.end(call)

    def _take(self, policy: pb.Policy | None) -> None:
        if policy is not None and policy.flaw:
            self._complain(policy.flaw)
            policy = None
        is_news = policy != self.policy or not self.known.is_set()
        self.policy, self._is_confirmed = policy, True
        self._keep()
        if is_news:
            self._tell()

    def _go_on(self) -> None:
        """Nothing will be known soon: whoever waits goes on with what there is."""
        if not self.known.is_set():
            self.policy = next(iter(self._saved), None)
            self._tell()

    async def _restore(self) -> None:
        """What an earlier process knew is for a registry that does not answer."""
        if self._file is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DISK_S):
                    self._saved = await self._means.disk.read(self._file) or ()

    def _keep(self) -> None:
        """Have it written down while a registry stands by it, now and from time to time."""
        if self._keeping is not None:
            self._keeping.cancel()
        if self._file is not None and self._is_confirmed:
            self._means.disk.write_policy(self._file, self.policy)
            self._keeping = asyncio.get_running_loop().call_later(KEEP_EVERY_S, self._keep)

    def _tell(self) -> None:
        self.known.set()
        for follower in list(self.followers):
            follower.told(self.policy)

    def _complain(self, why: object) -> None:
        text = str(why)
        if text != self._complained:
            self._complained = text
            log.info("no traffic policy is followed for %s: %s", self._service, text)


def _cancel_soon(task: asyncio.Task[None]) -> None:
    loop = task.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(task.cancel)
