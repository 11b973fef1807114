"""CORE: the instances that have checks, and what is known of each check: no clock, no connections."""

from collections.abc import Sequence

from registry_api.registry.v1 import registry_pb2 as pb
from registry_checks.ladder import Rung, Standing, is_worse, looked, settle
from registry_checks.rules import BadCheck, limits_of, seconds_of, settle_all
from registry_server.health import findings
from registry_server.health.doubt import Evidence
from registry_server.records import Key


class Examined:
    """One instance, from when its owner registered it with these checks. Raises BadCheck if one cannot be run."""

    def __init__(self, key: Key, instance: pb.Instance) -> None:
        self.key = key
        self.generation = instance.generation
        self.host, self.port = instance.host, instance.port
        self._asked = list(instance.checks)
        self.checks = [ExaminedCheck(check) for check in _settled(instance)]
        self._results: dict[str, pb.CheckResult] = {}
        self._health = pb.UNKNOWN
        self.seen(instance, 0.0)

    def is_still(self, instance: pb.Instance) -> bool:
        """Whether that is the same, and to be looked at in the same way."""
        same = (self.generation, self.host, self.port) == (instance.generation, instance.host, instance.port)
        return same and self._asked == list(instance.checks)

    def seen(self, instance: pb.Instance, now: float) -> None:
        """It stands like this in the view; a ttl check hears of it when its owner reported."""
        self._health = instance.health
        self._results = {it.name: it for it in instance.check_results}
        for check in self.checks:
            if check.is_ttl and (result := self._results.get(check.name)) is not None and not result.failures:
                check.reported(result, now)

    def resume(self, check: "ExaminedCheck", now: float) -> None:
        """Go on where whoever looked before has left off."""
        result = self._results.get(check.name)
        rung = findings.rung_of(result.health if result is not None else self._health)
        check.begin(Standing(rung, now, failures=result.failures if result is not None else 0))

    def resume_all(self, now: float) -> None:
        """Nothing that was found since counts."""
        for check in self.checks:
            self.resume(check, now)

    def is_written(self, check: "ExaminedCheck") -> bool:
        """Whether the view shows the check where it stands. What nobody has written is as good as that."""
        result = self._results.get(check.name)
        return result is None or findings.rung_of(result.health) is check.standing.rung

    @property
    def is_to_leave(self) -> bool:
        """Whether one of its checks has failed for too long."""
        return any(check.standing.rung is Rung.REMOVED for check in self.checks)

    def take_results(self) -> list[pb.CheckResult]:
        """What is to be written of it."""
        return [check.result for check in self.checks if check.result is not None]


def _settled(instance: pb.Instance) -> Sequence[pb.HealthCheck]:
    """Its checks with their defaults. Nobody registers others, but anybody may write them into a store, and with no
    interval, or 0 looks in a row, there would be no end. Raises BadCheck if one of them cannot be run."""
    it = pb.Instance(checks=instance.checks)
    settle_all(it.checks)
    for number, check in enumerate(instance.checks):
        if not check.name:  # by which what it finds is shown
            raise BadCheck(f"[{number}].name", "is required")
    return it.checks


class ExaminedCheck:
    """One check of one instance. Times are monotonic seconds, but for what is shown to people."""

    def __init__(self, asked: pb.HealthCheck) -> None:
        self.asked = asked
        self.name = asked.name
        self.is_ttl = asked.WhichOneof("kind") == "ttl"
        self.interval_s = seconds_of(asked.interval)
        self.timeout_s = seconds_of(asked.timeout)
        self.initial_delay_s = seconds_of(asked.initial_delay)
        self.limits = limits_of(asked)
        self.standing = Standing(Rung.UNKNOWN, 0.0)
        self.result: pb.CheckResult | None = None
        self.heard_at = 0.0
        self._report: pb.CheckResult | None = None
        self._output = ""
        self._evidence: Evidence | None = None

    def begin(self, standing: Standing) -> None:
        """This server looks from now on; what it saw when it did so before means nothing any more."""
        self.standing, self.result, self._evidence = standing, None, None
        self.heard_at = max(self.heard_at, standing.since)

    @property
    def evidence(self) -> Evidence | None:
        """What it last found, where somebody was asked for it."""
        return self._evidence

    def found(self, passed: bool, output: str, began: float) -> None:
        """It has looked, beginning at that time. Where it stands does not change by that: see `wants` and `move`."""
        was = self._evidence
        failing_since = was.failing_since if was is not None and not was.passed else began
        if not self.is_ttl:
            was_well = self.standing.rung in (Rung.HEALTHY, Rung.UNKNOWN)
            self._evidence = Evidence(passed, began, was_well, failing_since)
        self._output = output
        self.standing = looked(self.standing, passed)

    def wants(self, now: float) -> Rung | None:
        """Where it ought to stand, if that is elsewhere."""
        rung = settle(self.standing, self.limits, now).rung
        return rung if rung is not self.standing.rung else None

    def is_down(self, rung: Rung) -> bool:
        """Whether that is worse, by what was found from here."""
        return is_worse(rung, self.standing.rung) and not self.is_ttl

    def move(self, now: float, now_s: float) -> bool:
        """Stand where it ought to; `now_s` is wall-clock time in seconds. Whether that is elsewhere than before."""
        rung = self.wants(now)
        if rung is None:
            return False
        self.standing = settle(self.standing, self.limits, now)
        self.say(now_s)
        return True

    def say(self, now_s: float) -> None:
        """What is to be written: where it stands, and what it found last."""
        self.result = findings.result(self.name, self.standing.rung, self._output, now_s, self.standing.failures)

    def forgive(self, now: float) -> None:
        """What failed up to now, and the time that passed, do not count against it."""
        self.standing = self.standing._replace(since=now, failures=0)

    def reported(self, report: pb.CheckResult, now: float) -> None:
        """What its owner says counts at once."""
        if report == self._report:
            return
        self._report, self.heard_at, self.result = report, now, None
        self.standing = Standing(findings.rung_of(report.health), now)
