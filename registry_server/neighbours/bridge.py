"""SHELL: keeps a neighbour and this registry showing each other's instances.

One replica does it at a time: which one, the replicas agree on as they do for checks (health/sharing.py), and another
takes over within seconds when it is gone. What comes from the neighbour is held by one lease that whoever does it
renews, also a successor: so it changes hands without anybody noticing, and is gone when nobody does it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.changes import Change
from registry_server.errors import Contended, InvalidField, LimitExceeded, NotFound, OwnershipLost, RequestError
from registry_server.illness import Pulse
from registry_server.model import Entry
from registry_server.neighbours.base import Neighbour, NeighbourAway
from registry_server.neighbours.sides import Sides, Taken
from registry_server.records import Key, Outcome
from registry_server.settings import SettingChange
from registry_server.stores.together import together
from registry_server.writer import Writer

log = logging.getLogger(__name__)

# What comes from a neighbour lives for so long when nobody bridges: longer than it takes another replica to begin.
TTL_S = 30.0
RENEW_S = 5.0
# How often it is asked whether this replica is the one.
LOOK_S = 0.5
# A standstill of this process that is longer may have been long enough for another replica to begin.
LATE_S = 3.0
# So long after a beginning, or after an outage of the neighbour, what has not been seen since is not taken for gone:
# after a restart owners come back, too.
WARM_UP_S = 15.0
# The pause between two rounds of publishing, and after something failed.
REST_S = 0.2
AGAIN_S, AGAIN_MAX_S = 0.5, 4.0
# So many writes at a time, and so many instances that are looked at in one go.
WRITES = 32
SLICE = 100


class Bridge:
    """Told by the feed of every instance. `is_mine` says whether this replica is the one; `clock` is monotonic."""

    def __init__(
        self, neighbour: Neighbour, writer: Writer, is_mine: Callable[[], bool], clock: Callable[[], float]
    ) -> None:
        self._neighbour = neighbour
        self._writer = writer
        self._is_mine = is_mine
        self._clock = clock
        self._sides = Sides(neighbour.name)
        self._ours_changed = asyncio.Event()
        self._theirs_changed = asyncio.Event()
        self._wanted: Mapping[Key, pb.Instance] | None = None
        self._seen: set[Key] = set()
        self._lease_id = ""
        self._warm_at = clock() + WARM_UP_S
        self._is_away = False

    # ---- as a Listener

    def changed(self, changes: Sequence[Change]) -> None:
        """See Listener."""
        if self._sides.take(changes):
            self._ours_changed.set()
        self._theirs_changed.set()

    def settings_changed(self, changes: Sequence[SettingChange]) -> None:
        """See Listener. Whose it is, is asked all the time."""

    def refresh_all(self) -> None:
        """See Listener. Nothing is remembered by revision but by the neighbour, which is told of what changed."""

    # ---- running

    async def run(self) -> None:
        """Bridge whenever that is this replica's, until cancelled."""
        again_s = AGAIN_S
        while True:
            if not self._is_mine():
                await asyncio.sleep(LOOK_S)
                continue
            began = self._clock()
            try:
                await self._serve()
                continue
            except (NeighbourAway, OSError) as lost:
                self._note_away(str(lost) or repr(lost))
            except Exception as unexpected:
                log.exception("the neighbour %s said what could not be taken in", self._neighbour.name)
                self._note_away(repr(unexpected))
            again_s = AGAIN_S if self._clock() - began > AGAIN_MAX_S else min(2 * again_s, AGAIN_MAX_S)
            await self._hold(again_s)

    async def aclose(self) -> None:
        """After `run`: what is shown on both sides stays until another replica goes on, or for as long as it may."""
        await self._neighbour.aclose()

    async def _serve(self) -> None:
        """Bridge until it is somebody else's. Raises what ended it otherwise."""
        self._warm_at = max(self._warm_at, self._clock() + WARM_UP_S)
        self._seen.clear()
        try:
            await together(self._follow(), self._settle(), self._publish(), self._is_lost(), least=NeighbourAway)
        except _NotMineError:
            self._wanted = None

    async def _is_lost(self) -> None:
        pulse = Pulse(self._clock(), LOOK_S, LATE_S)
        while self._is_mine():
            await asyncio.sleep(LOOK_S)
            if pulse.beat(self._clock()):  # another may do it by now, and what was heard is old
                raise NeighbourAway("this process stood still")
        raise _NotMineError

    async def _hold(self, for_s: float) -> None:
        """Wait; what came from the neighbour is still there meanwhile."""
        until = self._clock() + for_s
        while self._is_mine() and (left_s := until - self._clock()) > 0:
            if self._wanted is not None:
                with contextlib.suppress(Exception):  # it is tried again, and what goes wrong is told elsewhere
                    await self._renew()
            await asyncio.sleep(min(left_s, RENEW_S))

    # ---- from there to here

    async def _follow(self) -> None:
        async with contextlib.aclosing(self._neighbour.watch()) as sets:
            async for found in sets:
                self._note_back()
                taken = Taken(self._neighbour.name, self._wanted or {})
                for start in range(0, len(found), SLICE):
                    taken.take(found[start : start + SLICE])
                    await asyncio.sleep(0)  # in between, everybody else has a turn
                if refused := taken.refused:
                    log.debug("%d instances of %s are left out, %s", len(refused), self._neighbour.name, refused[0])
                self._wanted = taken.wanted
                self._seen |= taken.wanted.keys()
                self._theirs_changed.set()
        raise NeighbourAway("it ended the telling")

    async def _settle(self) -> None:
        """Bring what is here in line with what is there, and renew the lease."""
        renew_at = self._clock()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, renew_at - self._clock())):
                    await self._theirs_changed.wait()
            self._theirs_changed.clear()
            await asyncio.sleep(REST_S)
            if self._clock() >= renew_at:
                await self._renew()
                renew_at = self._clock() + RENEW_S
            try:
                await self._adjust()
            except RequestError as error:
                log.debug("what %s has is not registered yet: %s", self._neighbour.name, error)
                await asyncio.sleep(AGAIN_S)
                self._theirs_changed.set()

    async def _adjust(self) -> None:
        if self._wanted is None:
            return
        self._lease_id = self._lease_id or self._sides.lease_id()
        steps = self._sides.steps(self._wanted, self._lease_id)
        first = 0
        if steps.register and not self._lease_id:
            await self._register(steps.register[0])
            first = 1
        for start in range(first, len(steps.register), WRITES):
            await _all(map(self._register, steps.register[start : start + WRITES]))
        is_warm = self._clock() >= self._warm_at
        remove = [entry for entry in steps.remove if is_warm or entry.key in self._seen]
        for start in range(0, len(remove), WRITES):
            await _all(map(self._remove, remove[start : start + WRITES]))

    async def _register(self, instance: pb.Instance) -> None:
        try:
            registered = await self._writer.register(instance, TTL_S, self._lease_id)
        except NotFound:  # the lease: what it held leaves by itself
            self._lease_id = ""
            raise
        except (InvalidField, OwnershipLost, LimitExceeded, Contended) as refused:  # the others go on
            log.debug("%s/%s of %s: %s", instance.service, instance.id, self._neighbour.name, refused)
            return
        self._lease_id = registered.lease.id

    async def _remove(self, entry: Entry) -> None:
        with contextlib.suppress(NotFound, OwnershipLost):
            await self._writer.deregister(entry.key, entry.owner.generation, 0.0)

    async def _renew(self) -> None:
        self._lease_id = self._lease_id or self._sides.lease_id()
        if not self._lease_id:
            return
        with contextlib.suppress(RequestError):
            [renewal] = await self._writer.keep_alive([self._lease_id])
            if renewal.outcome is Outcome.UNKNOWN:
                self._lease_id = ""
                self._theirs_changed.set()

    # ---- from here to there

    async def _publish(self) -> None:
        while True:
            self._ours_changed.clear()
            is_whole = self._clock() >= self._warm_at
            await self._neighbour.publish(dict(self._sides.ours), is_whole=is_whole)
            await asyncio.sleep(REST_S)
            until_whole_s = self._neighbour.refresh_s if is_whole else self._warm_at - self._clock()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(self._neighbour.refresh_s, until_whole_s))):
                    await self._ours_changed.wait()

    # ---- what is said of it

    def _note_away(self, reason: str) -> None:
        if not self._is_away:
            log.warning("the neighbour %s is away: %s", self._neighbour.name, reason)
        self._is_away = True

    def _note_back(self) -> None:
        if self._is_away:
            log.warning("the neighbour %s is back; what left it meanwhile stays a while", self._neighbour.name)
        self._is_away = False


async def _all(work: Iterable[Awaitable[None]]) -> None:
    """Do all of it, and raise the first error when it is over: nothing goes on behind anybody's back."""
    for error in await asyncio.gather(*work, return_exceptions=True):
        if error is not None:
            raise error


class _NotMineError(Exception):
    """Another replica does it."""
