"""SHELL: the xDS streams of a server: what they ask is told their sessions, and what changed goes out to them.

What changed is told in the rounds of the hub, as to everybody who watches: one reader stands there for all xDS streams,
and is not free again before each that is concerned was handed what is new. So while much changes, a round takes long,
the rest after it is long, and more is told at once. Who asks is answered at once.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from operator import attrgetter

from registry_api.registry.xds.v1 import ads_pb2 as ads
from registry_server.changes import Change
from registry_server.errors import Unavailable
from registry_server.hub import Chunks, Hub, Interest, Reader, Ready
from registry_server.rarely import Rarely
from registry_server.records import Kind
from registry_server.rpc.table import Caller, Needs, Outlet, Service, Session
from registry_server.rpc.xds import OpenStream
from registry_server.settings import SettingChange
from registry_server.xds.admission import Admission
from registry_server.xds.described import ADS_NAME
from registry_server.xds.encoding import Encoder
from registry_server.xds.index import Index
from registry_server.xds.names import ALL_CLUSTERS, EVERYTHING, ServiceKey, shown
from registry_server.xds.resources import Resources
from registry_server.xds.session import AdsSession

log = logging.getLogger(__name__)

# What the one reader in the hub waits for. No service has such a name.
CHANGES: Interest = ("xds", "is told", "of changes")
# So many streams are handed what is new before others have their turn.
SLICE = 64
# For so long, owners of a registry that lost its memory have the time to come back: the usual time to live.
WARM_UP_S = 15.0
# What is asked for by name is looked at one by one.
_NEEDS = Needs("read", is_some=True)

Clock = Callable[[], float]


class AdsStream:
    """One stream: a table.Dialogue."""

    def __init__(self, service: "XdsService", session: AdsSession, sink: Outlet, caller: Caller) -> None:
        self.session = session
        self.caller = caller
        self.opened_at = service.now()
        self._service = service
        self._sink = sink
        self._is_writing = self._is_preparing = False
        self._is_over = False

    async def received(self, request: ads.DiscoveryRequest | ads.DeltaDiscoveryRequest) -> None:
        """See table.Dialogue."""
        if self.session.client is None and (wait_s := self._service.admission.enter(self._service.loop.time())):
            await asyncio.sleep(wait_s)
        if self._is_over:
            return
        now = self._service.now()
        if isinstance(request, ads.DiscoveryRequest):
            self.session.asked(request, now)
        else:
            self.session.asked_delta(request, now)
        if self.session.rejected is not None:
            self._service.tell_rejection(self.session)
        if self.session.is_quiet:
            return
        if self.session.has_much_to_tell:
            await self._prepare()
        self.flush()

    async def _prepare(self) -> None:
        """Make what there is to send, and let others have their turn meanwhile, if it is much."""
        self._is_preparing = True
        try:
            for count, _ in enumerate(self.session.preparations(), 1):
                if count % SLICE == 0:
                    await asyncio.sleep(0)
                if self._is_over:
                    break
        finally:
            self._is_preparing = False

    def flush(self) -> None:
        """Send what there is to send, if the stream is free."""
        if self._is_writing or self._is_preparing or self._is_over or self.session.is_quiet:
            return
        response = self.session.next()
        self._service.tell_flaws()
        if response is not None:
            self._is_writing = True
            if self.session.told is not None:
                self.session.told.told_at = self._service.now()
            self._sink.send(response.chunks)

    def push(self) -> None:
        """As flush, where nobody stands behind it to whom an error could be raised: it is the end of this stream."""
        try:
            self.flush()
        except Exception:
            log.exception("an xDS stream is given up")
            self._sink.refuse(Unavailable("the server made a mistake; its log has the details"))

    def free(self) -> None:
        """See table.Subscription."""
        self._is_writing = False
        self.push()

    def leave(self) -> None:
        """See table.Subscription."""
        if not self._is_over:
            self._is_over = True
            self._service.left(self)


class XdsService:
    """ADS: StreamAggregatedResources (state of the world) and DeltaAggregatedResources (incremental).

    A listeners.Listener: what changes in the catalog is noted at once and told in the hub's next round. `clock` gives
    seconds since 1970; `forgotten` is told of services that nobody knows any more.
    """

    def __init__(self, resources: Resources, hub: Hub, clock: Clock, forgotten: Callable[[ServiceKey], None]) -> None:
        self._forgotten = forgotten
        self.now = clock
        self.loop = asyncio.get_running_loop()
        self.admission = Admission()
        self._rejections = Rarely(partial(log.warning, "%s"))
        self._resources = resources
        self._hub = hub
        self._index = Index(resources)
        self._encoder = Encoder("grpc-registry")
        self._streams: dict[AdsSession, AdsStream] = {}
        self._topic = _News()
        self._fan = _Fan(self)
        # Services that changed, and whether more of them than their endpoints did.
        self._dirty: dict[ServiceKey, bool] = {}

    def service(self) -> Service:
        """What a table says of it."""
        return Service(
            ADS_NAME,
            {
                "StreamAggregatedResources": Session(ads.DiscoveryRequest, self._open(is_delta=False), _NEEDS),
                "DeltaAggregatedResources": Session(ads.DeltaDiscoveryRequest, self._open(is_delta=True), _NEEDS),
            },
        )

    def _open(self, *, is_delta: bool) -> Callable[[Caller, Outlet], AdsStream]:
        def open_(caller: Caller, sink: Outlet) -> AdsStream:
            session = AdsSession(self._resources, self._encoder, self._index, caller.rights, is_delta=is_delta)
            stream = self._streams[session] = AdsStream(self, session, sink, caller)
            self._fan.join(self._hub, self._topic)
            return stream

        return open_

    def streams(self) -> Iterator[OpenStream]:
        """Those that are open, the oldest first."""
        for session, stream in self._streams.items():
            yield OpenStream(session, stream.caller, stream.opened_at)

    def streams_of(self, key: ServiceKey) -> list[OpenStream]:
        """Those that are told of a service."""
        found = self._open_ones(tuple(self._index.of(key)))
        return [OpenStream(it.session, it.caller, it.opened_at) for it in found]

    def has_news_of(self, key: ServiceKey) -> bool:
        """Whether something of a service has changed that no stream was told of yet."""
        return key in self._dirty

    def left(self, stream: AdsStream) -> None:
        """A stream is over."""
        stream.session.close()
        del self._streams[stream.session]
        if not self._streams:
            self._fan.leave()
            for key in self._dirty:
                self._resources.weights_changed(key)
            self._dirty.clear()
            self._resources.is_ahead = False

    # ---- what changed

    def changed(self, changes: Sequence[Change]) -> None:
        """See listeners.Listener."""
        for key, is_all in self._resources.changed(changes).items():
            self._note(key, is_all=is_all)

    def settings_changed(self, changes: Sequence[SettingChange]) -> None:
        """See listeners.Listener."""
        for change in changes:
            if change.key.kind is Kind.POLICY:
                self._resources.policy_changed(change.key[:2])
                self._note(change.key[:2], is_all=True)

    def refresh_all(self) -> None:
        """See listeners.Listener. What is told is state, so another order of it means nothing here."""

    def moved(self, key: ServiceKey) -> None:
        """The endpoints of a service are elsewhere: a host has another address."""
        self._resources.moved(key)
        self._note(key, is_all=False)

    # ---- a server that began without anything

    async def run(self, loaded: asyncio.Event) -> None:
        """Until the catalog is loaded, and for a while longer where it began without anything, clients that were told
        of something earlier keep what they have, until it is here again."""
        await loaded.wait()
        if self._resources.is_empty:
            await asyncio.sleep(WARM_UP_S)
        self._resources.is_warming = False
        for session, stream in list(self._streams.items()):
            session.warmed()
            stream.push()

    def _note(self, key: ServiceKey, *, is_all: bool) -> None:
        if self._streams:
            self._dirty[key] = self._dirty.get(key, False) or is_all
            self._resources.is_ahead |= is_all
            self._topic.version += 1
            self._hub.wake(CHANGES)
        else:  # what was made is kept for streams to come
            self._resources.weights_changed(key)

    def news(self) -> Iterator[AdsStream]:
        """The streams that have to look whether there is something for them, by what changed up to now."""
        try:
            yield from self._news()
        finally:
            was_ahead, self._resources.is_ahead = self._resources.is_ahead, any(self._dirty.values())
        if was_ahead:  # their routes had to wait
            yield from self._open_ones(tuple(self._index.of(EVERYTHING)))

    def _news(self) -> Iterator[AdsStream]:
        dirty, self._dirty = self._dirty, {}
        for key in self._resources.forgotten():
            self._forgotten(key)
            dirty[key] = True
        for key, is_all in dirty.items():
            if self._has_other_weights(key) or is_all:  # it is to be looked at in any case
                yield from self._open_ones(self._touched(key))
                continue
            for stream in sorted(self._open_ones(tuple(self._index.of(key))), key=_PEER):
                stream.session.touch(key, all_of_it=False)
                yield stream

    def _has_other_weights(self, key: ServiceKey) -> bool:
        try:
            return self._resources.weights_changed(key)
        except Exception:  # what nobody expected of one service takes nothing from the others
            log.exception("the parts of %s are not known", shown(key))
            return False

    def tell_rejection(self, session: AdsSession) -> None:
        """Say that a client did not take what it was told; not each time, for it may do that as often as it likes."""
        flow, session.rejected = session.rejected, None
        if flow is None or flow.rejection is None or session.client is None:
            return
        id_, agent, reason = session.client.id[:64], session.client.agent[:64], flow.rejection.reason[:200]
        what = f"{flow.kind.name.lower()} of version {flow.rejection.version}"
        text = f"the xDS client {id_!a} ({agent!a}) did not take {what}, and keeps what it had: {reason!a}"
        self._rejections.tell(text, self.loop.time())

    def tell_flaws(self) -> None:
        """Say which policies are not followed because of a mistake of ours, and which endpoints are told to nobody."""
        for named in self._resources.take_crowded():
            log.warning(
                "%s: xDS clients are told of the endpoints that one answer holds, not of the rest", shown(*named)
            )
        for key, flaw in self._resources.take_flaws().items():
            log.error("the policy of %s is not followed by xDS clients: %s", shown(key), flaw)

    def _touched(self, key: ServiceKey) -> Collection[AdsSession]:
        """The sessions that are concerned when all of a service changed. Each knows of all before it is told of any."""
        found: dict[AdsSession, None] = {}
        for touched in (key, EVERYTHING):
            for session in self._index.of(touched):
                session.touch(touched, all_of_it=True)
                found[session] = None
        for session in self._index.of(ALL_CLUSTERS):
            session.touch_clusters(self._resources.clusters_of(key, ever=True))
            found[session] = None
        return found

    def _open_ones(self, sessions: Iterable[AdsSession]) -> Iterator[AdsStream]:
        for session in sessions:
            if (stream := self._streams.get(session)) is not None:
                yield stream


# Those of one connection in a row: it writes for all of them at once.
_PEER = attrgetter("caller.peer")


class _News:
    """What the one reader in the hub is told: that there is news. A hub.Topic."""

    interests = (CHANGES,)

    def __init__(self) -> None:
        self.version = 0

    def advance(self) -> bool:
        """There is nothing to be taken in."""
        return True

    def expect(self, claim: object) -> None:
        """It knows nothing."""

    def known(self, claim: object) -> None:
        """It knows nothing."""

    def step(self, since: int | None) -> Ready | None:
        """That there is news, unless that is known."""
        return None if since == self.version else Ready(self.version, b"")

    def bookmark(self) -> None:
        """There is none."""


class _Fan:
    """The one reader in the hub: hands what is new to every stream, some at a time. A hub.Sink."""

    def __init__(self, service: XdsService) -> None:
        self._service = service
        self._reader: Reader | None = None
        self._due: Iterator[AdsStream] = iter(())

    def join(self, hub: Hub, topic: _News) -> None:
        """Be told from now on."""
        if self._reader is None:
            self._reader = hub.join(CHANGES, lambda: topic, self)

    def leave(self) -> None:
        """There is nobody to hand anything to."""
        if self._reader is not None:
            self._reader.leave()
            self._reader = None

    def send(self, chunks: Chunks) -> None:
        """See hub.Sink."""
        self._due = self._service.news()
        asyncio.get_running_loop().call_soon(self._go_on, self._reader)

    def _some(self) -> list[AdsStream]:
        try:
            return list(islice(self._due, SLICE))
        except Exception:  # what nobody expected of one service takes nothing from what changes later
            log.exception("what changed is told to nobody")
            return []

    def _go_on(self, reader: Reader | None) -> None:
        """Hand it to some more; none if there is another reader by now."""
        if reader is not self._reader or reader is None:
            return
        streams = self._some()
        for stream in streams:
            stream.push()
        if len(streams) == SLICE:
            asyncio.get_running_loop().call_soon(self._go_on, reader)
        else:
            reader.free()
