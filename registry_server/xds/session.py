"""CORE: one stream of xDS, of either protocol: what its client wants, what it has, and what it is told next.

Each type of resource is a conversation of its own: names that are wanted, the last response and what became of it.
Nothing is told twice: a resource is sent when its client lacks it, or has another version of it. At most one response
of a type is under way; what changes meanwhile is told after it was accepted or rejected. What was rejected is not sent
again until it changes.

The order is that of ResourceType, so a route is told after the cluster that it leads to. On the way out it is the
reverse: a cluster that left is told of once the routes without it were taken.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple, Protocol

from registry_api.registry.xds.v1 import ads_pb2 as ads
from registry_server.errors import InvalidField, LimitExceeded
from registry_server.rights import Rights
from registry_server.xds.encoding import NOT_FOUND, PERMISSION_DENIED, Content, Encoder, Lack, Response
from registry_server.xds.kinds import BY_URL, ClientKind, ResourceType, XdsClient, client_of
from registry_server.xds.names import ALL_CLUSTERS, ALL_ROUTES, EVERYTHING, WILDCARD, Named, ServiceKey, read
from registry_server.xds.packed import Packed, read_version, written
from registry_server.xds.resources import Resources

# The names that one stream may want, of all types together; and, among them, the services that nobody ever registered,
# parts that there never were, and names that can mean nothing.
MAX_NAMES, MAX_UNKNOWN = 50_000, 1_000
# So many resources are made without letting others have their turn; so many are as much work as the ways to a service.
MAX_AT_ONCE, FEW = 200, 4
# A response that may be told in parts has so many resources at the most, and so much of them, unless one has more.
PART_COUNT, PART_BYTES = 2_000, 2 * 1024 * 1024
# What is kept of the reason of a rejection, in characters.
MAX_REASON = 1_024
_MODULUS = 1 << 64


class Rejection(NamedTuple):
    """What a client did not take: the version that it was sent, why, and when (in the seconds of the caller)."""

    version: str
    reason: str
    at: float


class Interests(Protocol):
    """Who keeps which session wants to hear of which service."""

    def add(self, key: ServiceKey, session: "AdsSession") -> None:
        """It does."""

    def remove(self, key: ServiceKey, session: "AdsSession") -> None:
        """It does no more."""


@dataclass(eq=False, slots=True)
class Flow:
    """The conversation about one type."""

    kind: ResourceType
    is_whole: bool
    names: set[str] = field(default_factory=set)
    is_wildcard: bool = False
    has_named: bool = False  # so that no names mean none, and not all
    has_asked: bool = False
    # What the client has been told of, by name: None for what is not there.
    sent: dict[str, Packed | None] = field(default_factory=dict)
    digest: int = 0  # of all of it
    # What is to be told: whatever it has, if it has changed, once no route leads there, once the server knows it; and
    # whether an answer is owed.
    asked: dict[str, None] = field(default_factory=dict)
    touched: dict[str, None] = field(default_factory=dict)
    leaving: dict[str, None] = field(default_factory=dict)
    held: dict[str, None] = field(default_factory=dict)
    owes: bool = False
    has_earlier: bool = False  # the client says that it has something from an earlier stream
    # The last response: its number, the digest with it, whether the client has said what became of it.
    number: int = 0
    nonce: str = ""
    told: int = 0
    awaits: bool = False
    accepted: int | None = None
    accepted_nonce: str = ""
    rejection: Rejection | None = None
    told_at: float = 0.0  # when it was told last, in seconds since 1970

    @property
    def is_due(self) -> bool:
        """Whether there may be something to tell, but for what left."""
        return bool(self.owes or self.asked or self.touched)

    @property
    def is_busy(self) -> bool:
        """Whether it has something to tell, or to hear."""
        return self.awaits or self.is_due

    @property
    def is_at_rest(self) -> bool:
        """Whether the client was told of it, and has said what became of all of that; or wants nothing of it."""
        return self.number > 0 and (not self.awaits or (self.has_named and not self.names and not self.is_wildcard))

    @property
    def is_quiet(self) -> bool:
        """Whether there is nothing to tell until something happens."""
        return self.awaits or not (self.touched or self.asked or self.owes or self.leaving)

    @property
    def is_rejected(self) -> bool:
        """Whether the client did not take the last response."""
        return self.rejection is not None and not self.awaits and self.accepted != self.told

    def is_told(self, name: str) -> bool:
        """Whether nothing is to be told of a resource that the client does not know."""
        return name in self.sent and not any(name in due for due in (self.asked, self.touched, self.held))

    def keep(self, name: str, resource: Packed | None) -> None:
        """The client is told of a resource, or that there is none."""
        self.digest = (self.digest - _digest(self.sent.get(name)) + _digest(resource)) % _MODULUS
        self.sent[name] = resource

    def drop(self, name: str) -> None:
        """The client knows nothing of it any more."""
        self.digest = (self.digest - _digest(self.sent.pop(name, None))) % _MODULUS
        for due in (self.asked, self.touched, self.leaving, self.held):
            due.pop(name, None)

    def has_another(self, name: str, resource: Packed | None) -> bool:
        """Whether what the client has of that name is something else than that."""
        if name not in self.sent:
            return resource is not None or name in self.names
        return _digest(self.sent[name]) != _digest(resource)


def _digest(resource: Packed | None) -> int:
    return resource.digest if resource is not None else 0


class AdsSession:
    """One stream. `rights` are those of its client; `is_delta` says which of both protocols it speaks."""

    def __init__(
        self, resources: Resources, encoder: Encoder, interests: Interests, rights: Rights, *, is_delta: bool
    ) -> None:
        self.client: XdsClient | None = None
        self.rejected: Flow | None = None  # the last of which a response was rejected
        self.told: Flow | None = None  # the last of which there was something to send
        self.is_delta = is_delta
        self.flows = {kind: Flow(kind, kind.is_whole) for kind in ResourceType}
        self._all = tuple(self.flows.values())
        self._endpoints = self.flows[ResourceType.ENDPOINTS]
        self._resources = resources
        self._encoder = encoder
        self._interests = interests
        self._rights = rights
        # The names that are wanted of each service.
        self._of: dict[ServiceKey, set[tuple[ResourceType, str]]] = {}
        self._names = 0
        self._unknown: set[Named] = set()

    # ---- what its client says

    def asked(self, request: ads.DiscoveryRequest, now: float) -> None:
        """Take in a request of the state of the world. Raises InvalidField and LimitExceeded."""
        names = request.resource_names
        _check_count(names)
        self._introduce(request.node)
        flow = self._flow(request.type_url)
        if flow is None:
            return
        if not request.response_nonce and flow.is_at_rest:
            self._begun_anew(flow, names)
            return
        is_stale = flow.number > 0 and request.response_nonce != flow.nonce
        flow.has_asked = True
        if not flow.number:
            flow.has_earlier = bool(request.version_info)
        was_open = self._judge(flow, request, now, is_known=not is_stale)
        is_the_same = flow.has_named and not flow.is_wildcard and flow.names == set(names)
        added = self._want_all(flow, names) if not is_the_same or len(flow.sent) < len(names) else ()
        if is_stale:
            return  # what it lacks is found out by the request that answers the last response
        is_repeated = (
            flow.kind is ResourceType.ENDPOINTS
            and not was_open
            and is_the_same
            and flow.accepted_nonce == flow.nonce != ""
            and not request.HasField("error_detail")
        )
        # Envoy asks again for the endpoints of a cluster that changed, with words that say nothing else.
        if added or is_repeated:
            flow.asked.update(dict.fromkeys(added or flow.names))

    def _begun_anew(self, flow: Flow, names: Sequence[str]) -> None:
        """Take in a request of a client that begins with a type again, as on a new stream: some forget that they had
        begun with it as soon as they want nothing of it."""
        self._want_all(flow, names)
        flow.asked.update(dict.fromkeys(name for name in names if name in flow.names))
        flow.awaits, flow.owes = False, flow.is_wildcard

    def asked_delta(self, request: ads.DeltaDiscoveryRequest, now: float) -> None:
        """Take in an incremental request. Raises InvalidField and LimitExceeded."""
        names, left = request.resource_names_subscribe, request.resource_names_unsubscribe
        _check_count(names)
        _check_count(left)
        self._introduce(request.node)
        flow = self._flow(request.type_url)
        if flow is None:
            return
        if request.response_nonce:
            self._judge(flow, request, now, is_known=request.response_nonce == flow.nonce)
        is_first, flow.has_asked = not flow.has_asked, True
        if is_first:
            flow.has_earlier = bool(request.initial_resource_versions)
            self._resume(flow, request.initial_resource_versions)
            if not names and not left:
                self._set_wildcard(flow, is_wanted=True)
        self._subscribe(flow, names)
        self._unsubscribe(flow, left)
        if is_first and not flow.is_wildcard:
            for name in [name for name in flow.sent if name not in flow.names]:
                flow.drop(name)

    # ---- what happens

    def touch(self, key: ServiceKey, *, all_of_it: bool) -> None:
        """A service changed: its endpoints, or all that there is of it."""
        endpoints = self._endpoints
        for kind, name in self._of.get(key, ()):
            if kind is ResourceType.ENDPOINTS:
                (endpoints.asked if name in endpoints.held else endpoints.touched)[name] = None
                endpoints.held.pop(name, None)
            elif all_of_it:
                self.flows[kind].touched[name] = None

    def touch_clusters(self, names: Iterable[str]) -> None:
        """Clusters came, changed or left: news for who wants all there is."""
        self.flows[ResourceType.CLUSTER].touched.update(dict.fromkeys(names))

    def warmed(self) -> None:
        """The server is warm: what was held back is told."""
        for flow in self.flows.values():
            flow.asked.update(flow.held)
            flow.held.clear()

    def close(self) -> None:
        """The stream is over."""
        for key in self._of:
            self._interests.remove(key, self)
        self._of.clear()
        if self.flows[ResourceType.CLUSTER].is_wildcard:
            self._interests.remove(ALL_CLUSTERS, self)

    # ---- what is asked about it

    def names_of(self, key: ServiceKey, kind: ResourceType) -> list[str]:
        """The resources of a service that its client wants, of that type."""
        return sorted(name for wanted, name in self._of.get(key, ()) if wanted is kind)

    def may_read(self, key: ServiceKey) -> bool:
        """Whether its client may know of a service."""
        return self._rights.may("read", *key)

    # ---- what it is told

    @property
    def is_quiet(self) -> bool:
        """Whether there is nothing to tell for now, as after nearly every acknowledgement."""
        return all(flow.is_quiet for flow in self._all)

    @property
    def has_much_to_tell(self) -> bool:
        """Whether it takes longer than a moment to make what is about to be told."""
        routes = self.flows[ResourceType.ROUTES]
        return ALL_ROUTES in routes.asked or any(len(it.asked) + len(it.touched) > MAX_AT_ONCE for it in self._all)

    def preparations(self) -> Iterator[None]:
        """Make what is about to be told, one after the other, where that is much; whoever asks for the next one may let
        others have their turn first."""
        for flow in self._all:
            if len(flow.asked) + len(flow.touched) > MAX_AT_ONCE:
                for count, name in enumerate((*flow.asked, *flow.touched)):
                    self._get(flow, name)
                    if count % FEW == 0:  # most are made already where they are told in parts
                        yield
            if flow.kind is ResourceType.ROUTES and (ALL_ROUTES in flow.asked or ALL_ROUTES in flow.touched):
                yield from self._resources.preparations(self._rights)

    def next(self) -> Response | None:
        """What is to be sent now, if there is anything. It counts as sent."""
        if self.client is None:
            return None
        response = self._next_of(self._all)
        clusters = self.flows[ResourceType.CLUSTER]
        if response is None and clusters.leaving:  # there may have been no routes to change
            response = self._next_of((clusters,))
        return response

    def _next_of(self, flows: Iterable[Flow]) -> Response | None:
        for flow in flows:
            if flow.is_quiet or self._has_to_wait(flow):
                continue
            if (content := self._content(flow)) is not None:
                return self._send(flow, content)
        return None

    def _has_to_wait(self, flow: Flow) -> bool:
        """Whether it is not the time for it. Routes to all that there is wait for the clusters to which they lead, and
        until it is known which these are; who asks is answered then. All that there is, is told when the server knows
        it."""
        if flow.kind is ResourceType.ENDPOINTS:
            return False
        if self._resources.is_warming and flow.has_earlier and (flow.is_wildcard or ALL_ROUTES in flow.names):
            return True
        if flow.kind is not ResourceType.ROUTES:
            return False
        if self._resources.is_ahead and ALL_ROUTES in flow.names:
            return True
        clusters = self.flows[ResourceType.CLUSTER]
        if flow.asked or flow.owes:  # of clusters that come in several parts the last is told first
            return clusters.is_wildcard and clusters.is_due and ALL_ROUTES in flow.names
        return clusters.is_wildcard and clusters.is_busy

    def _send(self, flow: Flow, content: Content) -> Response:
        response = self._encoder.response(content, flow.number, is_delta=self.is_delta)
        self.told = flow
        flow.number, flow.nonce = response.number, response.nonce
        flow.told, flow.awaits, flow.owes = content.digest, True, False
        return response

    def _content(self, flow: Flow) -> Content | None:
        """What there is to tell of one type; None for nothing."""
        news, gone, lacks = self._look(flow)
        if flow.kind is ResourceType.CLUSTER and self.client is not None and self.client.kind is ClientKind.ENVOY:
            self._warm(resource.name for resource in news if flow.sent.get(resource.name) is not None)
        for resource in news:
            flow.keep(resource.name, resource)
        for name in gone:
            flow.keep(name, None)
            if name not in flow.names:
                flow.drop(name)
        if not (news or gone or lacks or flow.owes):
            return None
        if self.is_delta:
            return Content(flow.kind, flow.digest, tuple(news), tuple(gone), tuple(lacks))
        if not flow.is_whole:
            return Content(flow.kind, flow.digest, tuple(news), (), tuple(lacks)) if news or lacks else None
        everything = tuple(resource for resource in flow.sent.values() if resource is not None)
        return Content(flow.kind, flow.digest, everything, (), tuple(lacks))

    def _look(self, flow: Flow) -> tuple[list[Packed], list[str], list[Lack]]:
        """What is to be told, or so much of it as goes in one response: resources, names that are gone, and why others
        are not there."""
        news: list[Packed] = []
        gone: list[str] = []
        lacks: list[Lack] = []
        size = 0
        may_be_in_parts = self.is_delta or not flow.is_whole
        for name, is_asked in self._take_due(flow):
            resource = self._get(flow, name)
            if self._is_too_early(flow, name, is_asked=is_asked):
                flow.held[name] = None
                continue
            if not is_asked and not flow.has_another(name, resource):
                continue
            if resource is not None:
                if may_be_in_parts and news and size + len(resource.any) > PART_BYTES:
                    (flow.asked if is_asked else flow.touched)[name] = None
                    break
                news.append(resource)
                size += len(resource.any)
            elif not is_asked and name not in flow.names and self._is_still_led_to(flow):
                flow.leaving[name] = None
            else:
                gone.append(name)
                if name in flow.names and flow.sent.get(name, _NEVER) is not None:
                    lacks.append(self._lack(name))
            if may_be_in_parts and len(news) == PART_COUNT:
                break
        return news, gone, lacks

    def _take_due(self, flow: Flow) -> Iterator[tuple[str, bool]]:
        """The names to look at, which are no more due then, and whether they are to be told whatever is known."""
        if not self._is_still_led_to(flow):
            flow.touched.update(flow.leaving)
            flow.leaving.clear()
        for due, is_asked in ((flow.asked, True), (flow.touched, False)):
            while due:
                name = next(iter(due))
                due.pop(name)
                flow.touched.pop(name, None)
                yield name, is_asked

    def _is_still_led_to(self, flow: Flow) -> bool:
        """Whether clusters may have routes that lead to them, which the client is about to lose."""
        if flow.kind is not ResourceType.CLUSTER:
            return False
        routes = self.flows[ResourceType.ROUTES]
        if ALL_ROUTES not in routes.names:
            return False
        return routes.is_busy or self._resources.is_ahead

    def _get(self, flow: Flow, name: str) -> Packed | None:
        assert self.client is not None  # noqa: S101 - nothing is wanted before
        if name not in flow.names and not self._resources.is_listed(flow.kind, name):
            return None  # a part of all there is, and there no more
        return self._resources.get(flow.kind, self.client, name, self._rights)

    def _is_too_early(self, flow: Flow, name: str, *, is_asked: bool) -> bool:
        """Whether the client has endpoints of a service from before the server began without any: it keeps them until
        the service is here again. And whether it asks for endpoints whose hosts are being looked up."""
        is_warming = self._resources.is_warming and flow.has_earlier
        if flow.kind is not ResourceType.ENDPOINTS or not (is_asked or is_warming) or (named := read(name)) is None:
            return False
        if is_asked and self._resources.is_finding(named.key):
            return True
        return is_warming and not self._resources.is_known(named.key)

    def _lack(self, name: str) -> Lack:
        named = read(name)
        if named is not None and named.key != EVERYTHING and not self._rights.may("read", *named.key):
            return Lack(name, PERMISSION_DENIED, f"{name}: not yours to see")
        return Lack(name, NOT_FOUND, f"{name}: not the name of a service")

    def _warm(self, changed: Iterable[str]) -> None:
        """Envoy takes a cluster that changed into use once it is told its endpoints again, changed or not."""
        flow = self._endpoints
        flow.asked.update(dict.fromkeys(name for name in changed if flow.sent.get(name) is not None))

    # ---- within: requests

    def _introduce(self, node: ads.Node) -> None:
        if self.client is None:
            self.client = client_of(node)

    def _flow(self, url: str) -> Flow | None:
        """The conversation that a request belongs to; None for a type that is unknown, which harms no other."""
        if not url:
            raise InvalidField("type_url", "is required")
        kind = BY_URL.get(url)
        return self.flows[kind] if kind is not None else None

    def _judge(
        self, flow: Flow, request: ads.DiscoveryRequest | ads.DeltaDiscoveryRequest, now: float, *, is_known: bool
    ) -> bool:
        """Note what became of the last response, if that is what the request is about; give whether that was open."""
        was_open = flow.awaits
        if not is_known or not flow.number:
            return was_open
        flow.awaits = False
        if request.HasField("error_detail"):
            flow.rejection = Rejection(written(flow.told), request.error_detail.message[:MAX_REASON], now)
            self.rejected = flow
        elif was_open:
            flow.accepted, flow.accepted_nonce = flow.told, flow.nonce
        return was_open

    def _want_all(self, flow: Flow, names: Sequence[str]) -> list[str]:
        """From now on just those names are wanted; give those that the client was not told of."""
        wanted = set(names)
        is_wildcard = WILDCARD in wanted or (not wanted and not flow.has_named)
        flow.has_named = flow.has_named or bool(wanted)
        wanted.discard(WILDCARD)
        for name in flow.names - wanted:
            self._let_go(flow, name)
        for name in wanted - flow.names:
            self._take_up(flow, name)
        self._set_wildcard(flow, is_wanted=is_wildcard)
        return [name for name in names if name in wanted and name not in flow.sent]

    def _set_wildcard(self, flow: Flow, *, is_wanted: bool) -> None:
        assert self.client is not None  # noqa: S101 - it has introduced itself
        if flow.kind not in (ResourceType.LISTENER, ResourceType.CLUSTER) or self.client.kind.is_grpc:
            is_wanted = False  # gRPC wants what it names; older Javas say nothing where they want nothing
        if is_wanted and self.client.kind is ClientKind.OTHER:
            self.client = self.client._replace(kind=ClientKind.ENVOY)  # whatever it calls itself, it asks as Envoy does
        if is_wanted and not flow.is_wildcard:
            flow.owes = True
            flow.touched.update(dict.fromkeys(self._resources.all_of(flow.kind, self._rights)))
            flow.touched.update(dict.fromkeys(name for name in flow.sent if name not in flow.names))
        elif flow.is_wildcard and not is_wanted:
            for name in [name for name in flow.sent if name not in flow.names]:
                flow.drop(name)
            flow.touched = dict.fromkeys(flow.names)
            flow.owes = False
        if flow.kind is ResourceType.CLUSTER and is_wanted != flow.is_wildcard:
            (self._interests.add if is_wanted else self._interests.remove)(ALL_CLUSTERS, self)
        flow.is_wildcard = is_wanted

    def _subscribe(self, flow: Flow, names: Sequence[str]) -> None:
        """Those are wanted, too. Each is told, whatever the client has: it may have forgotten it, or wait for it."""
        for name in names:
            if name == WILDCARD:
                self._set_wildcard(flow, is_wanted=True)
                continue
            self._take_up(flow, name)
            flow.asked[name] = None

    def _unsubscribe(self, flow: Flow, names: Sequence[str]) -> None:
        for name in names:
            if name == WILDCARD:
                self._set_wildcard(flow, is_wanted=False)
            elif name in flow.names:
                self._let_go(flow, name)
                if flow.is_wildcard:
                    flow.asked[name] = None  # it may be wanted still, as one of all

    def _resume(self, flow: Flow, versions: Mapping[str, str]) -> None:
        """The client has that of an earlier stream. Versions that are none of ours are as good as none."""
        for name, version in islice(versions.items(), MAX_NAMES):
            flow.keep(name, Packed(name, read_version(version), b""))

    def _take_up(self, flow: Flow, name: str) -> None:
        if name in flow.names:
            return
        named = read(name)
        if (stranger := self._stranger(flow.kind, name)) is not None and stranger not in self._unknown:
            self._take_up_stranger(stranger)
        if self._names >= MAX_NAMES:
            raise _too_many()
        self._names += 1
        flow.names.add(name)
        if named is not None:
            wanted = self._of.get(named.key)
            if wanted is None:
                wanted = self._of[named.key] = set()
                self._interests.add(named.key, self)
            wanted.add((flow.kind, name))

    def _stranger(self, kind: ResourceType, name: str) -> Named | None:
        """What a name says that is not there: a service, a part of one, or nothing (then without a namespace)."""
        named = read(name)
        if named is None:
            return Named(("", kind.name), name)
        if named.key == EVERYTHING or self._resources.has_part(named):
            return None
        return named if self._resources.is_known(named.key) else Named(named.key)

    def _take_up_stranger(self, stranger: Named) -> None:
        """Raises LimitExceeded; but of a server that has just begun, and knows nobody yet, anything may be wanted."""
        if not self._resources.is_warming:
            if self._resources.is_full and not stranger.part:
                raise LimitExceeded("resource_names", "too many services are asked for that nobody registered")
            if len(self._unknown) >= MAX_UNKNOWN:
                self._count_strangers()
            if len(self._unknown) >= MAX_UNKNOWN:
                raise LimitExceeded(
                    "resource_names", f"a stream may want {MAX_UNKNOWN} services that nobody registered"
                )
        self._unknown.add(stranger)

    def _count_strangers(self) -> None:
        """Some may be there by now, and some are wanted no more."""
        are_none = {it for it in self._unknown if not it.key[0]}
        wanted = {self._stranger(*it) for names in self._of.values() for it in names}
        self._unknown = are_none | {it for it in wanted if it is not None}

    def _let_go(self, flow: Flow, name: str) -> None:
        self._names -= 1
        flow.names.discard(name)
        if flow.is_wildcard:  # it may be one of all that there is
            flow.touched[name] = None
        else:
            flow.drop(name)
        named = read(name)
        if named is None:
            self._unknown.discard(Named(("", flow.kind.name), name))
            return
        wanted = self._of[named.key]
        wanted.discard((flow.kind, name))
        if named.part:
            self._unknown.discard(named)
        if not wanted:
            self._unknown.discard(Named(named.key))
            del self._of[named.key]
            self._interests.remove(named.key, self)


def _check_count(names: Sequence[str]) -> None:
    """Raises LimitExceeded, before anything is done for any of them: one name may be there a million times."""
    if len(names) > MAX_NAMES:
        raise _too_many()


def _too_many() -> LimitExceeded:
    return LimitExceeded("resource_names", f"a stream may want {MAX_NAMES}")


_NEVER = Packed("", 0, b"")
