"""SHELL: looks at the instances that have checks, and writes what changes: their health, or that they leave.

Every replica knows all of them and asks, when it is time for a look, whether that one is its own to look at
(`sharing.py`): nobody hands anything over. Who begins to look goes on from what is written. Steps up count at once;
steps down wait a moment, in which they are held against what else was found (`doubt.py`).
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from registry_api.registry.v1 import registry_pb2 as pb
from registry_checks.ask import Found, ask
from registry_checks.ladder import LATE_S
from registry_checks.looks import Looks
from registry_checks.probes import Failed, Probe, Probes, Target
from registry_checks.rules import BadCheck
from registry_server.changes import Change
from registry_server.errors import RequestError, Unavailable
from registry_server.health.doubt import Cutoff, Evidence, is_cut_off
from registry_server.health.examined import Examined, ExaminedCheck
from registry_server.health.replicas import Replica
from registry_server.health.sharing import prober_of
from registry_server.model import Entry
from registry_server.records import Key, Kind
from registry_server.settings import SettingChange

log = logging.getLogger(__name__)

# How long a step down waits for what else is found meanwhile, and how often it is looked at while it waits longer.
DOUBT_S = 0.3
WRITERS = 32
RETRY_S = 1.0


class Findings(Protocol):
    """Who writes what was found."""

    async def found(self, key: Key, generation: int, results: Sequence[pb.CheckResult]) -> None:
        """Write results of an instance, if it has that generation. Raises RequestError."""

    async def remove_sick(self, key: Key, generation: int) -> None:
        """Remove an instance, if it has that generation. Raises RequestError."""


class Statistics(NamedTuple):
    """What the prober does, in numbers: checks that there are, looks so far, those that failed, and results and
    removals written; whether it takes itself for cut off."""

    checks: int
    looks: int
    failures: int
    written: int
    is_cut_off: bool


class Prober:
    """Told by the feed of every instance. `clock` gives monotonic seconds, `now` those of the wall clock.

    `is_blind`: whether the store has not confirmed the view for a while. What is found meanwhile may be the fault of
    the same that keeps the store away, and somebody else may be looking by now: it counts for nothing.
    """

    def __init__(
        self,
        findings: Findings,
        replica: Replica,
        probes: Probes,
        cutoff: Cutoff,
        looks: Looks,
        clock: Callable[[], float],
        now: Callable[[], float],
        is_blind: Callable[[], bool],
    ) -> None:
        self._findings = findings
        self._replica = replica
        self._probes = probes
        self._cutoff = cutoff
        self._looks = looks
        self.clock = clock
        self._now = now
        self._is_blind = is_blind
        self._was_blind = False
        self._examined: dict[Key, list[_Look]] = {}
        self._replicas: Sequence[str] | None = None
        # What was said by `is_mine` of those that are examined, among these replicas.
        self._whose: dict[Key, bool] = {}
        self._doubted: dict[_Look, None] = {}
        self._in_doubt = asyncio.Event()
        self._cut_off = False
        # Each at most once, however often it changes before it is written.
        self._unwritten: OrderedDict[Key, Examined] = OrderedDict()
        self._writing: set[Key] = set()
        self._may_write = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()
        self.looked = self.failed = self.written = 0

    def statistics(self) -> Statistics:
        """See Statistics."""
        return Statistics(len(self._looks), self.looked, self.failed, self.written, self._cut_off)

    # ---- as a Listener

    def changed(self, changes: Sequence[Change]) -> None:
        """See Listener."""
        for change in changes:
            if change.after is not None and change.after.has_checks:
                self._take(change.after)
            elif change.key in self._examined:
                self._forget(change.key)

    def settings_changed(self, changes: Sequence[SettingChange]) -> None:
        """See Listener."""
        if any(change.key.kind is Kind.REPLICA for change in changes):
            self._replicas = None

    def refresh_all(self) -> None:
        """See Listener. Instances that are not what they were have another generation."""

    def _take(self, entry: Entry) -> None:
        instance = entry.parse()
        if (known := self._examined.get(entry.key)) and known[0].examined.is_still(instance):
            known[0].examined.seen(instance, self.clock())
            return
        self._forget(entry.key)
        try:
            examined = Examined(entry.key, instance)
        except BadCheck as flaw:
            log.warning("%a is not looked at: checks%s", str(entry.key)[:200], flaw)
            return
        looks = [_Look(self, examined, check, self._probe(examined, check)) for check in examined.checks]
        self._replica.want()
        self._examined[entry.key] = looks
        for look in looks:
            self._looks.add(look, look.check.initial_delay_s)

    def _probe(self, examined: Examined, check: ExaminedCheck) -> Probe | None:
        try:
            return self._probes.of(Target(examined.host, examined.port), check.asked)
        except Exception as error:
            return _Unmade(error)

    def _forget(self, key: Key) -> None:
        self._whose.pop(key, None)
        for look in self._examined.pop(key, ()):
            self._looks.discard(look)
            self.rest(look)

    def rest(self, look: "_Look") -> None:
        """It is not looked at from here any more, or not just now."""
        self._doubted.pop(look, None)
        if look.probe is not None:
            task = asyncio.ensure_future(look.probe.aclose())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    # ---- whose it is

    def has_work(self, name: Key) -> bool:
        """Whether other work that replicas share, of that name, is this server's; it is among them from now on."""
        self._replica.want()
        return prober_of(name, self._replica.all()) == self._replica.name

    def is_mine(self, key: Key) -> bool:
        """Whether this server looks at the instance."""
        if self._replicas is None:
            self._replicas = self._replica.all()
            self._whose.clear()
        is_mine = self._whose.get(key)
        if is_mine is None:
            is_mine = prober_of(key, self._replicas) == self._replica.name
            if key in self._examined:
                self._whose[key] = is_mine
        return is_mine

    def want(self) -> None:
        """There is something to look at: from now on this server is among those that do."""
        self._replica.want()

    # ---- running

    async def run(self) -> None:
        """Look and write until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._replica.run())
            tasks.create_task(self._looks.run())
            tasks.create_task(self._judge())
            for _ in range(WRITERS):
                tasks.create_task(self._write())

    async def aclose(self) -> None:
        """After `run`: others take over, and every connection is closed."""
        await self._replica.leave()
        for key in list(self._examined):
            self._forget(key)
        await asyncio.gather(*self._closing, return_exceptions=True)

    def settle(self, look: "_Look") -> None:
        """A look is over: what follows from it."""
        now = self.clock()
        wanted = look.check.wants(now)
        if wanted is not None and look.check.is_down(wanted):
            self._doubted[look] = None
            self._in_doubt.set()
            return
        self._doubted.pop(look, None)
        if wanted is not None:
            look.check.move(now, self._now())
            self._note(look.examined)
        elif not look.examined.is_written(look.check) and not self._is_writing(look.examined.key):
            # Another replica that looked before was late with what it found, or somebody wrote there by hand.
            look.check.say(self._now())
            self._note(look.examined)

    # ---- steps down

    async def _judge(self) -> None:
        while True:
            await self._in_doubt.wait()
            await asyncio.sleep(DOUBT_S)
            self._decide(self.clock())
            if not self._doubted and not self._cut_off:
                self._in_doubt.clear()

    def _decide(self, now: float) -> None:
        for look in [it for it in self._doubted if not it.has_evidence]:  # it begins anew since then
            del self._doubted[look]
        if self._is_blind():
            self._was_blind = True
            return
        if self._was_blind:
            self._was_blind = False
            self._forgive(now)
        is_lost = bool(self._doubted) and self._is_cut_off()
        if self._cut_off and not is_lost:  # what was seen until now was seen by somebody who could not tell
            self._forgive(now)
        self._conclude(is_lost)
        if not is_lost:
            for look in self._doubted:
                if look.check.move(now, self._now()):
                    self._note(look.examined)
            self._doubted.clear()

    def _forgive(self, now: float) -> None:
        for look in self._all():
            look.check.forgive(now)

    def _is_cut_off(self) -> bool:
        # What is doubted has looked, and failed.
        since = min(evidence.failing_since for evidence in self._evidence(self._doubted))
        return is_cut_off(self._evidence(self._all()), self._cutoff, since)

    def _evidence(self, looks: "Iterator[_Look] | dict[_Look, None]") -> Iterator[Evidence]:
        return (look.check.evidence for look in looks if look.is_mine and look.check.evidence is not None)

    def _all(self) -> "Iterator[_Look]":
        return (look for looks in self._examined.values() for look in looks)

    def _conclude(self, is_lost: bool) -> None:
        if is_lost == self._cut_off:
            return
        self._cut_off = is_lost
        self._replica.tell(self._now() if is_lost else None)
        if is_lost:
            log.warning(
                "most of what is looked at fails at once, %d checks the latest: this server takes itself for cut off, "
                "and reports nobody until it can tell",
                len(self._doubted),
            )
        else:
            log.warning("what is looked at can be told from here again: what fails is reported")

    # ---- writing

    def _note(self, examined: Examined) -> None:
        self._unwritten[examined.key] = examined
        self._may_write.set()

    async def _write(self) -> None:
        while True:
            await self._may_write.wait()
            if not self._unwritten:
                self._may_write.clear()
                continue
            key, examined = self._unwritten.popitem(last=False)
            if not self._is_current(examined) or not self.is_mine(key):
                continue  # who looks now goes on from what is written
            self._writing.add(key)
            try:
                await self._write_of(examined)
                self.written += 1
            except Unavailable:
                examined.resume_all(self.clock())
            except Exception as error:  # whatever a store raises that somebody else wrote
                level = logging.DEBUG if isinstance(error, RequestError) else logging.WARNING
                log.log(level, "%s: what its checks found is not written yet: %r", key, error)
                await asyncio.sleep(RETRY_S)
                self._note(examined)
            finally:
                self._writing.discard(key)

    def _is_current(self, examined: Examined) -> bool:
        looks = self._examined.get(examined.key)
        return looks is not None and looks[0].examined is examined

    def _is_writing(self, key: Key) -> bool:
        return key in self._writing or key in self._unwritten

    async def _write_of(self, examined: Examined) -> None:
        if examined.is_to_leave:
            await self._findings.remove_sick(examined.key, examined.generation)
        else:
            await self._findings.found(examined.key, examined.generation, examined.take_results())


class _Look:
    """One check, as it is looked at again and again."""

    def __init__(self, prober: Prober, examined: Examined, check: ExaminedCheck, probe: Probe | None) -> None:
        self._prober = prober
        self.examined = examined
        self.check = check
        self.probe = probe
        self.is_mine = False
        self.interval_s = check.interval_s

    @property
    def has_evidence(self) -> bool:
        """Whether it has looked since this server does so, or began anew."""
        return self.is_mine and self.check.evidence is not None

    async def look(self) -> None:
        """See Looked."""
        was_mine, self.is_mine = self.is_mine, self._prober.is_mine(self.examined.key)
        if not self.is_mine:
            if was_mine:
                self._prober.rest(self)
            return
        began, loop = self._prober.clock(), asyncio.get_running_loop()
        if not was_mine:
            self.examined.resume(self.check, began)
        began_at = loop.time()
        found = await ask(self.probe, self.check.timeout_s) if self.probe is not None else self._listen(began)
        took_s = loop.time() - began_at
        if found is not None and (found.passed or took_s < self.check.timeout_s + LATE_S):
            self._prober.looked += 1
            self._prober.failed += not found.passed
            self.check.found(*found, began)
            self._prober.settle(self)

    def _listen(self, now: float) -> Found | None:
        """Whether its owner has reported in time; None if nobody can tell."""
        silence_s = now - self.check.heard_at
        if silence_s < 0.9 * self.interval_s:
            return None
        self.check.heard_at = now
        if silence_s > 2 * self.interval_s + LATE_S:  # nobody has listened
            return None
        return Found(False, f"its owner has not reported within {self.interval_s:g} s")


class _Unmade:
    """In place of a probe that cannot be made."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def look(self) -> str:
        raise Failed(str(self._error))

    async def aclose(self) -> None:
        """Nothing is there."""
