"""Random subscriptions and changes beside a naive model: whoever asks for everything anew holds the same.

Two streams, one of each kind, live through the same history; they acknowledge, reject and lag as it says. At
the end each must hold what a stream is told that was not there before; and on the way no answer broke a rule that holds
for all of them (tests/support/ads.py): nothing is sent twice, nothing that was not asked for, nothing that clients
would reject.
"""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry_api.registry.v1 import registry_pb2 as pb
from tests.support.ads import DELTA, SOTW, AdsStream, Names, World
from tests.support.waiting import passed
from tests.support.xds_messages import CDS, EDS, LDS, RDS, SHORT

SERVICES = 3
PORTS = (8001, 8002, 8003)
EXAMPLES = 25
WAIT_S = 10.0


@dataclass(frozen=True)
class Put:
    """An instance comes, or changes."""

    service: int
    port: int
    weight: int

    async def happen(self, history: "History") -> None:
        await history.world.put(history.names[self.service].lds, self.port, weight=self.weight)
        history.there.add((self.service, self.port))


@dataclass(frozen=True)
class Remove:
    """An instance goes, if it is there."""

    service: int
    port: int

    async def happen(self, history: "History") -> None:
        if (self.service, self.port) in history.there:
            history.there.remove((self.service, self.port))
            await history.world.remove(history.names[self.service].lds, self.port)


@dataclass(frozen=True)
class Mark:
    """An instance is drained, or taken back, if it is there."""

    service: int
    port: int
    status: int

    async def happen(self, history: "History") -> None:
        if (self.service, self.port) in history.there:
            await history.world.change(history.names[self.service].lds, self.port, status=self.status)


@dataclass(frozen=True)
class Rule:
    """A service gets a policy that concerns its cluster or its routes, or both."""

    service: int
    max_requests: int
    seconds: int

    async def happen(self, history: "History") -> None:
        fields: dict[str, Any] = {"circuit_breaking": {"max_requests": self.max_requests}} if self.max_requests else {}
        fields |= {"timeout": {"seconds": self.seconds}}
        await history.world.policy(history.names[self.service].lds, **fields)


@dataclass(frozen=True)
class Want:
    """Another set of names of one type; of LDS and CDS no empty set first, which means everything."""

    kind: str
    services: frozenset[int]

    async def happen(self, history: "History") -> None:
        names = [history.names[it].of(self.kind) for it in sorted(self.services)]
        for stream in history.streams:
            interest = stream.of[self.kind]  # the same names again would be how Envoy asks anew
            if set(names) != interest.wanted and (names or interest.named):
                await stream.want(self.kind, *names)


@dataclass(frozen=True)
class Reply:
    """What has come is acknowledged, or rejected."""

    accepts: bool

    async def happen(self, history: "History") -> None:
        for stream in history.streams:
            while stream.answers:
                answer = await stream.next()
                await (stream.ack(answer) if self.accepts else stream.nack(answer))


@dataclass(frozen=True)
class Stale:
    """A request with a nonce that is not the newest, and the same names as before."""

    kind: str

    async def happen(self, history: "History") -> None:
        for stream in history.streams:
            interest = stream.of[self.kind]
            if interest.named and interest.nonce:
                names = {"resource_names": sorted(interest.wanted)} if stream.path.startswith("Stream") else {}
                await stream.send(type_url=self.kind, response_nonce="of-long-ago", **names)


@dataclass(frozen=True)
class Pause:
    """The server gets to tell what it has to tell."""

    async def happen(self, history: "History") -> None:
        await asyncio.sleep(0)
        await history.world.client.list(history.names[0].lds)


Event = Put | Remove | Mark | Rule | Want | Reply | Stale | Pause
_SERVICE = st.integers(0, SERVICES - 1)
_PORT = st.sampled_from(PORTS)
_KIND = st.sampled_from([EDS, EDS, EDS, CDS, LDS, RDS])
EVENTS: st.SearchStrategy[list[Event]] = st.lists(
    st.one_of(
        st.builds(Put, _SERVICE, _PORT, st.sampled_from([0, 1, 100])),
        st.builds(Remove, _SERVICE, _PORT),
        st.builds(Mark, _SERVICE, _PORT, st.sampled_from([pb.ACTIVE, pb.DRAINING])),
        st.builds(Rule, _SERVICE, st.integers(0, 2), st.integers(1, 2)),
        st.builds(Want, _KIND, st.frozensets(_SERVICE)),
        st.builds(Want, _KIND, st.frozensets(_SERVICE)),
        st.builds(Reply, st.sampled_from([True, True, True, False])),
        st.builds(Stale, _KIND),
        st.builds(Pause),
    ),
    min_size=4,
    max_size=25,
)


class History:
    """Services that nobody else has, and two streams that live through what happens."""

    def __init__(self, world: World, names: list[Names], *streams: AdsStream) -> None:
        self.world = world
        self.names = names
        self.streams = streams
        self.there: set[tuple[int, int]] = set()

    async def converge(self) -> None:
        """Each stream comes to hold what a new one is told. Raises AssertionError if it does not."""
        for stream in self.streams:
            for kind, interest in stream.of.items():
                if interest.wanted:
                    await self._converge(stream, kind, await self.fresh(stream, kind))
        await passed(0.02)
        await Reply(accepts=True).happen(self)  # to what was on its way when it was dropped

    async def fresh(self, like: AdsStream, kind: str) -> dict[str, Any]:
        """What a stream is told that asks for the same for the first time."""
        protocol = SOTW if like.path.startswith("Stream") else DELTA
        async with self.world.open(protocol, like.node.user_agent_name, quiet_s=0) as stream:
            return await stream.get(kind, *sorted(like.of[kind].wanted))

    async def _converge(self, stream: AdsStream, kind: str, expected: dict[str, Any]) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAIT_S):
                while stream.of[kind].held != expected or stream.answers:
                    await stream.ack(await stream.next(timeout_s=WAIT_S + 1))
        held = stream.of[kind].held
        assert held == expected, f"{stream.path} {SHORT[kind]}: holds {held}, where a new stream is told {expected}"


@given(events=EVENTS)
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
async def test_who_is_told_differences_holds_the_whole(world: World, events: list[Event]) -> None:
    names = [await world.names(world.fresh()) for _ in range(SERVICES)]
    async with world.open(SOTW, quiet_s=0.03) as sotw, world.open(DELTA, quiet_s=0.03) as delta:
        history = History(world, names, sotw, delta)
        for event in events:
            await event.happen(history)
        await history.converge()
