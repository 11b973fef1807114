"""What a prober has written, and what it has not, whoever is slow, away or wrong meanwhile."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from registry_checks.looks import Looks
from registry_checks.probes import Failed, Probes, Reach
from registry_checks.rules import settle_all
from registry_checks.text import parse
from registry_server.changes import Change
from registry_server.errors import Unavailable
from registry_server.health import findings, prober
from registry_server.health.doubt import Cutoff
from registry_server.health.prober import DOUBT_S, Prober
from registry_server.model import Entry
from registry_server.records import Key, Kind, Record
from registry_server.settings import SettingChange
from tests.support.core import key
from tests.support.waiting import eventually_async, passed

NAME, OTHER = key(), key("other")


class Stage:
    """One prober, one instance with one check, and a registry that does what it is told."""

    def __init__(self) -> None:
        self.is_well = True
        self.is_away = self.is_blind = False
        self.error: Exception | None = None
        self.may_answer, self.may_write = asyncio.Event(), asyncio.Event()
        self.may_answer.set()
        self.may_write.set()
        self.names = ["me"]
        self.asked = 0
        self.tries: list[pb.CheckResult] = []
        self.written: list[pb.Health.ValueType] = []
        self.revision = 10
        self.instance = pb.Instance(host="10.0.0.1", port=8001, checks=[parse("custom:own interval=0.1 successes=1")])
        settle_all(self.instance.checks)
        looks = Looks(time.monotonic, random.Random(1), 8)
        probes = Probes(Reach(), {"own": self._look})
        self.prober = Prober(
            self, self, probes, Cutoff(), looks, time.monotonic, time.time, lambda: self.is_blind  # type: ignore[arg-type]
        )  # fmt: skip

    async def _look(self, host: str, port: int, settings: Any) -> str:
        self.asked += 1
        await self.may_answer.wait()
        if not self.is_well:
            raise Failed("ill")
        return "well"

    # as Findings

    async def found(self, key: Key, generation: int, results: Sequence[pb.CheckResult]) -> None:
        self.tries += results
        await self.may_write.wait()
        if self.is_away:
            raise Unavailable("the store is away")
        if self.error is not None:
            raise self.error
        findings.take_in(self.instance, results)
        self.written.append(self.instance.health)
        self.show()

    async def remove_sick(self, key: Key, generation: int) -> None:
        raise AssertionError("nobody is to be removed")

    # as Replica

    name = "me"

    def all(self) -> list[str]:
        return self.names

    def want(self) -> None:
        """It is there already."""

    def tell(self, cut_off_at: float | None) -> None:
        raise AssertionError("nobody is cut off")

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def leave(self) -> None:
        """Nobody is told."""

    # what happens

    def show(self) -> None:
        """The view shows the instance as it is now."""
        self.revision += 1
        made = Record(NAME, self.instance.SerializeToString(), "lease", self.revision, 10)
        self.prober.changed([Change(self.revision, self.revision, NAME, None, Entry.of(made))])

    def replicas(self, *names: str) -> None:
        """These are there now."""
        self.names = list(names)
        self.prober.settings_changed([SettingChange(5, Key("", "", "any", Kind.REPLICA), None, None)])

    async def looked(self, times: int = 4) -> None:
        before = self.asked
        await eventually_async(lambda: self.asked >= before + times)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.prober.run())
        self.show()
        try:
            await eventually_async(lambda: self.written == [pb.HEALTHY])
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self.prober.aclose()


async def test_what_could_not_be_written_is_not_made_up_for() -> None:
    stage = Stage()
    async with stage.running():
        stage.is_well, stage.is_away = False, True
        await eventually_async(lambda: stage.tries[-1].health == pb.UNHEALTHY)
        stage.is_well, stage.is_away = True, False
        await stage.looked()
        assert stage.written == [pb.HEALTHY]
        stage.is_well = False
        await eventually_async(lambda: stage.written == [pb.HEALTHY, pb.UNHEALTHY])


async def test_whatever_a_store_raises_that_somebody_else_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prober, "RETRY_S", 0.05)
    stage = Stage()
    async with stage.running():
        stage.error = RuntimeError("no such thing")
        stage.is_well = False
        await eventually_async(lambda: [it.health for it in stage.tries].count(pb.UNHEALTHY) >= 3)
        stage.error = None
        await eventually_async(lambda: stage.written == [pb.HEALTHY, pb.UNHEALTHY])


async def test_a_write_that_fails_while_more_is_in_doubt_ends_nothing() -> None:
    """A full store takes no write and tells all the same: what is in doubt by then was found for nothing."""
    stage = Stage()
    async with stage.running():
        stage.may_write.clear()
        stage.is_well = False
        await eventually_async(lambda: stage.tries[-1].health == pb.UNHEALTHY)
        stage.is_well = True
        await eventually_async(lambda: stage.tries[-1].health == pb.HEALTHY)
        stage.is_well = False
        await eventually_async(lambda: bool(stage.prober._doubted))
        stage.may_answer.clear()
        stage.is_away = True
        stage.may_write.set()
        await passed(3 * DOUBT_S)
        stage.is_away = False
        stage.may_answer.set()
        await eventually_async(lambda: stage.written == [pb.HEALTHY, pb.UNHEALTHY])


@pytest.mark.parametrize(
    "more",
    [
        pb.HealthCheck(name="a", tcp={}, interval={"seconds": 0}),
        pb.HealthCheck(name="a", tcp={}, interval={"seconds": -(2**62)}),
        pb.HealthCheck(name="a", tcp={}, interval={"nanos": 2**31 - 1}),
        pb.HealthCheck(name="a", tcp={}, timeout={"seconds": 2**62}),
        pb.HealthCheck(name="a", tcp={}, initial_delay={"seconds": -5}),
        pb.HealthCheck(name="a", tcp={}, failures=2**31),
        pb.HealthCheck(name="a", tcp={"port": 70_000}),
        pb.HealthCheck(name="a", http={"path": "no path"}),
        pb.HealthCheck(name="custom", ttl={}),
        pb.HealthCheck(tcp={}),
        pb.HealthCheck(name="a"),
    ],
    ids=lambda it: " ".join(str(it).split()),
)
async def test_what_somebody_wrote_into_the_store_that_is_no_check(
    more: pb.HealthCheck, caplog: pytest.LogCaptureFixture
) -> None:
    """Its instance is not looked at, and all others are."""
    stage = Stage()
    async with stage.running():
        other = pb.Instance(host="10.0.0.2", port=8001, checks=[*stage.instance.checks, more])
        made = Record(OTHER, other.SerializeToString(), "lease", 30, 30)
        for entry in (Entry.of(made), Entry.of(made._replace(revision=31)), None):
            stage.prober.changed([Change(30, 30, OTHER, None, entry)])
        assert stage.prober.statistics().checks == 1
        await stage.looked()
    assert "is not looked at: checks[1]." in caplog.text


async def test_a_check_that_says_no_more_than_what_it_is_has_the_usual_times() -> None:
    """Also in a record that somebody wrote by hand: of 0 looks in a row there would be no end."""
    stage = Stage()
    bare = pb.HealthCheck(name="mine", custom={"type": "own"}, interval=stage.instance.checks[0].interval)
    del stage.instance.checks[:]
    stage.instance.checks.append(bare)
    async with stage.running():
        asked, stage.is_well = stage.asked, False
        await eventually_async(lambda: stage.written == [pb.HEALTHY, pb.UNHEALTHY])
        assert stage.asked >= asked + 3
        assert stage.prober.statistics().checks == 1


async def test_who_is_blind_reports_nobody_and_begins_anew_when_it_sees() -> None:
    stage = Stage()
    async with stage.running():
        stage.is_well, stage.is_blind = False, True
        await stage.looked(6)
        await passed(0.5)
        assert [it.health for it in stage.tries] == [pb.HEALTHY]
        stage.is_blind, stage.is_well = False, True
        await stage.looked()
        assert stage.written == [pb.HEALTHY]
        stage.is_well = False
        await eventually_async(lambda: stage.written == [pb.HEALTHY, pb.UNHEALTHY])


async def test_what_another_one_writes_late_is_put_right() -> None:
    stage = Stage()
    async with stage.running():
        late = findings.result(stage.instance.checks[0].name, findings.rung_of(pb.UNHEALTHY), "late", 1.0, 3)
        findings.take_in(stage.instance, [late])
        assert stage.instance.health == pb.UNHEALTHY
        stage.show()
        await eventually_async(lambda: stage.instance.health == pb.HEALTHY)
        await stage.looked()
        assert stage.written == [pb.HEALTHY, pb.HEALTHY], "once, and not with every look"
        assert stage.instance.check_results[0].output == "well"


async def test_what_is_anothers_by_now_is_not_written() -> None:
    stage = Stage()
    async with stage.running():
        asked = stage.asked
        stage.is_well = False
        await eventually_async(lambda: stage.asked >= asked + 2)
        stage.replicas("other")
        asked = stage.asked
        await passed(0.6)
        assert stage.written == [pb.HEALTHY]
        assert stage.asked <= asked + 1
        stage.replicas("me")
        await eventually_async(lambda: stage.written == [pb.HEALTHY, pb.UNHEALTHY])
