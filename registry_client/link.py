"""SHELL: the way to a registry of several addresses, any of which may be down, ill, or something else altogether."""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import grpc
import grpc.aio

from registry_api.limits import UNIX
from registry_api.registry.v1 import (
    access_pb2_grpc,
    history_pb2_grpc,
    policies_pb2_grpc,
    registry_pb2_grpc,
    why_pb2_grpc,
    xds_pb2_grpc,
)
from registry_api.registry.v1 import registry_pb2 as pb
from registry_api.tracing import Tracing
from registry_client.counts import Counts
from registry_client.errors import (
    ClientClosed,
    InvalidAnswer,
    RegistryError,
    RegistryUnavailable,
    Unauthenticated,
    alone,
    from_rpc_error,
)
from registry_client.homing import LOOK_S, Homing
from registry_client.tls import LOOKS, PREFACE
from registry_client.traces import OK, CallSpans, code_of, spans_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random

    from google.protobuf.message import Message

    from registry_api.registry.v1.access_pb2_grpc import AccessAsyncStub
    from registry_api.registry.v1.history_pb2_grpc import HistoryAsyncStub
    from registry_api.registry.v1.policies_pb2_grpc import PoliciesAsyncStub
    from registry_api.registry.v1.registry_pb2_grpc import ChecksAsyncStub
    from registry_api.registry.v1.registry_pb2_grpc import RegistryAsyncStub as _Registry
    from registry_api.registry.v1.why_pb2_grpc import DiagnosisAsyncStub
    from registry_api.registry.v1.xds_pb2_grpc import XdsAsyncStub
    from registry_client.backoff import Backoff
    from registry_client.papers import Dialer
    from registry_client.tasks import Tasks
    from registry_client.tls import Contents
else:
    _Registry = registry_pb2_grpc.RegistryStub


class _Answer(Protocol):
    @property
    def header(self) -> pb.ResponseHeader: ...


log = logging.getLogger(__name__)

_Request = TypeVar("_Request", bound="Message")
_Response = TypeVar("_Response", bound=_Answer)

# No single try takes longer while there may be another address to ask.
TRY_S = 3.0
# How long nobody has to answer before that is said.
SAY_AFTER_S = 1.0
PROBE_S = 1.0
PROBE_AGAIN_S = 10.0
SPEAKS_TLS = "speaks TLS: connect with credentials (tls=…, registrys://, registryctl --tls)"
# How long a connection is silent before it is given up for a new one.
SILENT_S = 1.0
# How long the calls of a connection that was given up may still take.
GRACE_S = 30.0
# How long connecting may take, until the first word of a registry: so long at first, and after each time that was too
# short twice as long, up to the second. One that is busy, or far away, is not asked for ever in vain.
CONNECT_MS, MAX_CONNECT_MS = 1_000, 16_000
# What gRPC's core says when that was too short.
_TOO_SHORT = ("timed out", "timeout occurred", "endpoint closing")
# How long gRPC's core takes to tell of a call that was cancelled.
_LAST_WORDS_S = 0.05
_OPTIONS: tuple[tuple[str, int], ...] = (
    # A peer that is half dead is noticed within seconds; ping_timeout is what makes that so.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.http2.ping_timeout_ms", 2_000),
    ("grpc.http2.max_pings_without_data", 0),
    # How soon an address that was down is tried again; how often that is useful is decided by our own backoff.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    # A name may lead elsewhere now: it is looked up whenever connecting fails, and not every 30 s at most.
    ("grpc.dns_min_time_between_resolutions_ms", 250),
    # Connections of its own: a registry takes so many streams of each.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    # The largest that a registry sends is 3 MiB. What is larger may be without end.
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
)
# What is said of calls to something that is no registry, or is a broken one: another address may do better.
_BROKEN = frozenset(
    {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}
)
# What gRPC says when a port that speaks TLS is called without it, among other causes.
# ... or one that does not like the certificate which it is shown.
_MAYBE_TLS = ("socket closed", "connection reset by peer", "broken pipe", "unwrap failed", "tsi_")
# The same of a name with several addresses, of which gRPC tells about the last one alone.
_MAYBE_TLS_OF_NAMES = (*_MAYBE_TLS, "connection refused")


class Stub(_Registry):
    """The methods of registry.v1.Registry, and beside them those of its other services."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        super().__init__(channel)
        self.checks: ChecksAsyncStub = registry_pb2_grpc.ChecksStub(channel)
        self.xds: XdsAsyncStub = xds_pb2_grpc.XdsStub(channel)
        self.access: AccessAsyncStub = access_pb2_grpc.AccessStub(channel)
        self.history: HistoryAsyncStub = history_pb2_grpc.HistoryStub(channel)
        self.policies: PoliciesAsyncStub = policies_pb2_grpc.PoliciesStub(channel)
        self.diagnosis: DiagnosisAsyncStub = why_pb2_grpc.DiagnosisStub(channel)


@dataclass(frozen=True, slots=True, eq=False)
class Connection:
    """One address of the registry and the stub that talks to it."""

    address: str
    channel: grpc.aio.Channel
    stub: Stub
    dialer: Dialer
    contents: Contents | None  # of the files of TLS that the channel was made of


class Reach:
    """Whether a client gets any answer of use from its registry. An outage is said once, not once for each part."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._trouble = ""
        self._asking = ""
        self._since_s: float | None = None  # when the first question without an answer was asked
        self._said = False
        self._failures = 0  # since then
        self._timer: asyncio.TimerHandle | None = None
        self._proof_at_s: float | None = None
        self.epoch = ""
        """Of the state that the last answer came from, and its revision."""
        self.revision = 0
        self.counts = Counts()

    @property
    def is_up(self) -> bool:
        """False while there is a question that nobody has answered."""
        return self._since_s is None

    @property
    def trouble(self) -> str:
        """What was tried last and why it failed; empty while all is well."""
        return self._trouble

    @property
    def stale_for(self) -> float | None:
        """Seconds since the view of the last answer was confirmed by the store; None if it was fresh."""
        return None if self._proof_at_s is None else max(0.0, self._clock() - self._proof_at_s)

    def asking(self, address: str) -> None:
        """Something was asked that is answered at once, or not at all."""
        self._asking = address
        if self._since_s is None:
            self._since_s = self._clock()
            self._timer = asyncio.get_running_loop().call_later(SAY_AFTER_S, self._say)

    def failed(self, address: str, failure: RegistryError) -> None:
        """There was no answer, or one of no use."""
        text = str(failure)
        self._trouble = text if address in text else f"{address}: {text}"
        self._failures += 1
        self.asking(address)

    def answered(self, address: str, header: pb.ResponseHeader) -> None:
        """There was an answer, which is of use if the one who answers is in touch with the store."""
        self.epoch, self.revision = header.epoch, header.revision
        if header.HasField("stale_for"):
            self._proof_at_s = self._clock() - header.stale_for.ToNanoseconds() / 1e9
            return
        self._proof_at_s = None
        if self._since_s is None:
            return
        if self._said:
            text = "the registry answers again: %s, after %.1f s in which %d tries failed"
            log.info(text, address, self._clock() - self._since_s, self._failures)
        self.close()

    def _say(self) -> None:
        self._said = True
        log.warning("no help from the registry: %s; trying on", self._trouble or f"{self._asking}: no answer yet")

    def close(self) -> None:
        """Nothing is waited for any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._since_s, self._said, self._trouble, self._failures = None, None, False, "", 0


class Link:
    """Channels to the addresses of one registry, and which of them is in use.

    A failure moves new calls on to the next address; what runs on the former one is left alone, because the failure of
    one call says little about another.
    """

    def __init__(
        self,
        dialers: Mapping[str, Dialer],
        backoff: Backoff,
        rng: Random,
        reach: Reach,
        tasks: Tasks,
        first: int = 0,
    ) -> None:
        """Begins with one of the `first` addresses, by chance, and goes back to them when they work again; 0: any."""
        self._addresses = list(dialers)
        self._dialers = dialers
        self._backoff = backoff
        self._rng = rng
        self._reach = reach
        self._tasks = tasks
        self._index = rng.randrange(first or len(self._addresses))
        self._preferred = self._addresses[:first]
        self._homing = Homing()
        self._tracing = Tracing("registry_client")
        self._looking: asyncio.Task[None] | None = None
        self._calls = 0  # that wait for their answers
        self._last_words_until_s = -math.inf
        self._connections: dict[str, Connection] = {}
        self._is_closed = False
        self._retired: list[Connection] = []
        self._connect_ms = dict.fromkeys(self._addresses, CONNECT_MS)
        self._tls_troubles: dict[str, str] = {}
        self._probe_again_s: dict[str, float] = {}

    @property
    def addresses(self) -> tuple[str, ...]:
        """All addresses of the registry."""
        return tuple(self._addresses)

    @property
    def trouble(self) -> str:
        """What was tried last and why it failed; empty while all is well."""
        return self._reach.trouble

    @property
    def counts(self) -> Counts:
        """What became of what was asked, of the whole client."""
        return self._reach.counts

    @property
    def connections(self) -> int:
        """How many there are, with those that are given up and still have calls."""
        return len(self._connections) + len(self._retired)

    @property
    def current(self) -> Connection:
        """The address in use. Raises ClientClosed once the link is closed: who still tries is told."""
        return self._at(self._addresses[self._index])

    def _at(self, address: str) -> Connection:
        connection = self._connections.get(address)
        if connection is None:
            connection = self._connections[address] = self._connect(address)
        return connection

    def _connect(self, address: str) -> Connection:
        if self._is_closed:
            raise ClientClosed("the client was closed meanwhile")
        dialer = self._dialers[address]
        contents = dialer.contents_now(address)
        options = (*_OPTIONS, ("grpc.min_reconnect_backoff_ms", self._connect_ms[address]))
        channel = dialer.channel(address, contents, options)
        return Connection(address, channel, Stub(channel), dialer, contents)

    def rotate(self, failed: Connection) -> None:
        """Go on to the next address, unless somebody has moved on from the failed one already."""
        if self._addresses[self._index] != failed.address:
            return
        self._index = (self._index + 1) % len(self._addresses)
        if self._is_away and (self._looking is None or self._looking.done()):
            self._homing.left(asyncio.get_running_loop().time())
            self._looking = self._tasks.start(self._look_homeward(), "registry-lookout")

    def retire(self, silent: Connection, silent_s: float) -> None:
        """Who asks that address again does so over another connection, after looking its name up again.

        A connection that is silent may lead to a process that hangs while others are behind the same name by now. A
        short silence is no reason.
        """
        if silent_s >= SILENT_S:
            self._give_up(silent)

    def _give_up(self, connection: Connection) -> bool:
        """False if that was done before."""
        if self._connections.get(connection.address) is not connection:
            return False
        del self._connections[connection.address]
        self._retired.append(connection)
        self._tasks.start(self._close(connection), "registry-connection")
        return True

    async def _close(self, connection: Connection) -> None:
        await connection.channel.close(GRACE_S)
        self._retired.remove(connection)

    # ---- the way back

    @property
    def _is_away(self) -> bool:
        """Whether another registry than the preferred one is in use."""
        return bool(self._preferred) and self._addresses[self._index] not in self._preferred

    def has_returned_from(self, connection: Connection) -> bool:
        """Whether that one stands for another registry than the preferred one, which works again."""
        return not self._is_away and bool(self._preferred) and connection.address not in self._preferred

    async def _look_homeward(self) -> None:
        """Look at the preferred registry, while another one is in use, until it has worked for a while."""
        while self._is_away:
            await asyncio.sleep(LOOK_S * self._rng.uniform(0.75, 1.25))
            for index, address in enumerate(self._preferred):
                epoch, now = await self._epoch_at(address), asyncio.get_running_loop().time()
                if not epoch:
                    self._homing.failed(address)
                elif self._homing.answered(address, epoch, now) and self._is_away:
                    log.info("the preferred registry works again: %s", address)
                    self._index = index
                    return

    async def _epoch_at(self, address: str) -> str:
        """The epoch of an address that works; else nothing."""
        connection = self._at(address)
        try:
            with_it = await connection.dialer.metadata()
            request = pb.ListServicesRequest(page_size=1)
            answer = await connection.stub.ListServices(request, timeout=PROBE_S, metadata=with_it)
        except RegistryError:
            return ""
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                self.retire(connection, PROBE_S)
            return ""
        return "" if answer.header.HasField("stale_for") else answer.header.epoch

    # ---- what comes of asking

    def asking(self, connection: Connection) -> None:
        """Something was asked there that is answered at once, or not at all."""
        self._reach.asking(connection.address)

    def answered(self, connection: Connection, header: pb.ResponseHeader) -> None:
        """It answered."""
        self._reach.answered(connection.address, header)
        self._connect_ms[connection.address] = CONNECT_MS
        if connection.address in self._preferred:
            self._homing.used(connection.address, header.epoch)

    def failed(self, connection: Connection, failure: RegistryError) -> None:
        """It gave no answer, or one of no use. Goes on to the next address.

        If the files of TLS have changed, who asks that address again does so with what is in them now; and if it did
        not say a word in the time that connecting may take, it gets more.
        """
        self._reach.failed(connection.address, failure)
        if any(hint in str(failure).lower() for hint in _TOO_SHORT) and self._give_up(connection):
            self._connect_ms[connection.address] = min(2 * self._connect_ms[connection.address], MAX_CONNECT_MS)
        elif connection.contents != connection.dialer.contents_now(connection.address):
            self._give_up(connection)
        self.rotate(connection)

    async def judge(self, connection: Connection, error: grpc.aio.AioRpcError, doing: str = "") -> RegistryError:
        """The exception for a call that failed there, with what can be found out about the cause."""
        failure = from_rpc_error(error, doing)
        if not isinstance(failure, RegistryUnavailable):
            return failure
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return _told(failure, doing, connection.address, "no answer in time")
        if trouble := await self._tls_trouble(connection, str(failure).lower()):
            return _told(failure, doing, connection.address, trouble)
        return failure

    async def judge_ended(self, connection: Connection, call: grpc.aio.Call) -> RegistryError:
        """The same for a stream that has ended, in whatever way."""
        code, text = await call.code(), await call.details()
        if code is grpc.StatusCode.OK:
            return RegistryUnavailable("it ended the stream")
        trailers = await call.trailing_metadata()
        return await self.judge(connection, grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, text))

    async def _tls_trouble(self, connection: Connection, failure: str) -> str:
        """What is wrong with TLS there. Looked at now and then, when a failure looks as if something were."""
        address = connection.address
        hints = _MAYBE_TLS if is_ip(address) else _MAYBE_TLS_OF_NAMES
        if not any(hint in failure for hint in hints):
            return ""
        now = asyncio.get_running_loop().time()
        if now >= self._probe_again_s.get(address, now):
            self._probe_again_s[address] = now + PROBE_AGAIN_S
            if connection.dialer.speaks_tls:
                self._tls_troubles[address] = await connection.dialer.trouble_at(address)
            else:
                self._tls_troubles[address] = SPEAKS_TLS if await speaks_tls(address) is True else ""
        return self._tls_troubles.get(address, "")

    # ---- calls

    async def call(
        self,
        method: Callable[[Stub], grpc.aio.UnaryUnaryMultiCallable[_Request, _Response]],
        request: _Request,
        timeout: float,
        doing: str,
        *,
        check: Callable[[_Response], None] | None = None,
        cap_s: float = float("inf"),
        tell: Callable[[RegistryError], object] = lambda failure: None,
    ) -> _Response:
        """Call a method, on another address if one is down, for at most `timeout` seconds in all.

        `check` looks at the answer, and raises RegistryError for one that is of no use: RegistryUnavailable to ask
        again, InvalidAnswer for what cannot be. `cap_s`: the longest pause. `tell` is told of each failure
        that is not the last. Raises RegistryError; RegistryUnavailable when the time is over.
        """
        spans = spans_of(self._tracing, request)
        calls = self.counts.calls
        try:
            with spans or nullcontext():
                answer = await self._until_answered(method, request, timeout, doing, check, cap_s, tell, spans)
        except BaseException as error:
            calls[code_of(error)] += 1
            if isinstance(error, RegistryError | asyncio.CancelledError):
                raise alone(error)  # noqa: B904 - of nothing
            raise
        calls[OK] += 1
        return answer

    async def _until_answered(
        self,
        method: Callable[[Stub], grpc.aio.UnaryUnaryMultiCallable[_Request, _Response]],
        request: _Request,
        timeout: float,
        doing: str,
        check: Callable[[_Response], None] | None,
        cap_s: float,
        tell: Callable[[RegistryError], object],
        spans: CallSpans | None,
    ) -> _Response:
        backoff, left_s, tries = self._backoff.capped(cap_s), timeout, 0
        while True:
            connection = self.current
            share_s = left_s if len(self._addresses) == 1 else min(left_s, TRY_S)
            begun = asyncio.get_running_loop().time()
            try:
                return await self._try(connection, method, request, share_s, doing, check, spans)
            except RegistryError as error:
                failure = alone(error)
            if failure.code is grpc.StatusCode.DEADLINE_EXCEEDED:
                self.retire(connection, share_s)
            # A try takes no longer than its share; if it seems so, this process stood still, and nobody is to blame.
            left_s -= min(asyncio.get_running_loop().time() - begun, share_s)
            tries += 1
            if not self._is_worth_another(failure, tries) and not may_try_anew(connection, failure):
                raise failure
            self.failed(connection, failure)
            tell(failure)
            # One round over all addresses goes without a pause.
            pause_s = self._pause_s(backoff, failure, tries) if tries % len(self._addresses) == 0 else 0.0
            if pause_s >= left_s:
                raise failure
            await asyncio.sleep(pause_s)
            left_s -= pause_s
            self.counts.retries += 1

    async def _try(
        self,
        connection: Connection,
        method: Callable[[Stub], grpc.aio.UnaryUnaryMultiCallable[_Request, _Response]],
        request: _Request,
        timeout: float,
        doing: str,
        check: Callable[[_Response], None] | None,
        spans: CallSpans | None,
    ) -> _Response:
        with nullcontext(()) if spans is None else spans.attempt(connection.address) as traced:
            try:
                with_it = (*(await connection.dialer.metadata()), *traced)
                answer = await self._answer_of(method(connection.stub)(request, timeout=timeout, metadata=with_it))
            except grpc.aio.AioRpcError as error:
                raise await self.judge(connection, error, doing) from None
            if check is not None:
                check(answer)
        self.answered(connection, answer.header)
        return answer

    def _pause_s(self, backoff: Backoff, failure: RegistryError, tries: int) -> float:
        """After a round without an answer; no shorter than a server asks for, as far as that makes sense."""
        asked_s = failure.retry_after_s if isinstance(failure, RegistryUnavailable) else None
        return max(backoff.delay(tries // len(self._addresses) - 1, self._rng), min(asked_s or 0.0, backoff.cap_s))

    def _is_worth_another(self, failure: RegistryError, tries: int) -> bool:
        """A registry that is away may come back; something that is none, or a broken one, is asked once."""
        if isinstance(failure, RegistryUnavailable):
            return True
        is_broken = isinstance(failure, InvalidAnswer) or failure.code in _BROKEN
        return is_broken and tries < len(self._addresses)

    async def _answer_of(self, call: grpc.aio.UnaryUnaryCall[_Request, _Response]) -> _Response:
        self._calls += 1
        try:
            return await call
        except asyncio.CancelledError:
            self._cut_short()
            raise
        finally:
            self._calls -= 1

    async def end(self, call: grpc.aio.Call) -> None:
        """Cancel a call, unless it is over, and wait until it has ended."""
        self._cut_short()
        call.cancel()
        await call.code()

    def _cut_short(self) -> None:
        # Of a call that was cancelled gRPC's core tells a little later, to any loop of the process, and not without a
        # noise if the loop of the call is gone by then.
        self._last_words_until_s = asyncio.get_running_loop().time() + _LAST_WORDS_S

    async def aclose(self) -> None:
        """Close all channels. Calls under way are cancelled."""
        self._is_closed = True
        connections, self._connections = [*self._connections.values(), *self._retired], {}
        for connection in connections:
            await connection.channel.close()
        if self._calls:
            self._cut_short()
        await asyncio.sleep(self._last_words_until_s - asyncio.get_running_loop().time())


def may_try_anew(connection: Connection, failure: RegistryError) -> bool:
    """Whether the registry did not know a token, and there may be another one by now."""
    return isinstance(failure, Unauthenticated) and connection.dialer.refused()


def _told(failure: RegistryUnavailable, doing: str, address: str, why: str) -> RegistryUnavailable:
    """The same failure in better words."""
    told = RegistryUnavailable(f"{doing}: {address}: {why}" if doing else f"{address}: {why}")
    told.code, told.retry_after_s = failure.code, failure.retry_after_s
    return told


def is_ip(address: str) -> bool:
    """Whether the address names one place, and not as many as a name may lead to."""
    host = address.rpartition(":")[0]
    return address.startswith(UNIX) or host.startswith("[") or host.replace(".", "").isdecimal()


async def speaks_tls(address: str) -> bool | None:
    """Whether whoever listens there speaks TLS; None if nobody can tell."""
    if address.startswith(UNIX):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without authorities, which take a while to load
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2", LOOKS])
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(PROBE_S):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=context)
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")  # who sends an alert speaks TLS, though not with everybody
    except (OSError, ValueError):
        return None
    writer.write(PREFACE)
    writer.close()
    return True
