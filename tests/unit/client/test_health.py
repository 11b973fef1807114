"""Health as users write and see it: checks, results, numbers."""

import pickle
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_api.registry.v1 import registry_pb2 as pb
from registry_client import CheckResult, Health, HealthCheck, HealthStats, Instance, InvalidArgument

PLAYER: dict[str, Any] = {"service": "player", "host": "10.0.0.5", "port": 8001}


def test_a_check_is_what_was_asked_for() -> None:
    check = HealthCheck.http("/healthz", interval=2, timeout=0.5, failures=4, deregister_after=30, headers={"A": "b"})
    asked = check.to_proto()
    assert (check.kind, check.name, asked.http.path, dict(asked.http.headers)) == (
        "http",
        "http",
        "/healthz",
        {"A": "b"},
    )
    assert (asked.interval.seconds, asked.timeout.nanos, asked.failures, asked.successes) == (2, 500_000_000, 4, 2)
    assert asked.deregister_after.seconds == 30
    assert HealthCheck.http("/healthz", interval=2) == HealthCheck.parse("http:/healthz interval=2")
    assert HealthCheck.grpc("game.Logic").to_proto().grpc.service == "game.Logic"
    assert dict(HealthCheck.custom("redis", db="0", interval=7).to_proto().custom.settings) == {"db": "0"}
    assert HealthCheck.tcp(9000).paced(interval=7) == HealthCheck.tcp(9000, interval=7)
    assert "healthz" in repr(check)
    assert pickle.loads(pickle.dumps(check)) == check
    assert hash(check) == hash(HealthCheck.from_proto(asked))


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: HealthCheck.http("healthz"), "check.http.path"),
        (lambda: HealthCheck.http(port="x"), "check.http"),  # type: ignore[arg-type]
        (lambda: HealthCheck.tcp(-1), "check.tcp"),
        (lambda: HealthCheck.tcp(70_000), "check.tcp.port"),
        (lambda: HealthCheck.tcp(interval="5"), "check.interval"),  # type: ignore[arg-type]
        (lambda: HealthCheck.tcp(interval=float("nan")), "check.interval"),
        (lambda: HealthCheck.tcp(interval=0), "check.interval"),
        (lambda: HealthCheck.tcp(failures=1.5), "check.failures"),  # type: ignore[arg-type]
        (lambda: HealthCheck.tcp(colour="red"), "check"),  # type: ignore[call-arg]
        (lambda: HealthCheck.custom("redis", db=0), "check.custom"),
        (lambda: HealthCheck.parse("htp:/x"), "check"),
        (lambda: Instance(**PLAYER, checks=HealthCheck.tcp()), "instance.checks"),
        (lambda: Instance(**PLAYER, checks=[HealthCheck.tcp(), HealthCheck.tcp(5)]), "instance.checks[1].name"),
        (lambda: Instance(**PLAYER, checks=["tcp"]), "instance.checks"),
    ],
)
def test_what_cannot_be_is_named(make: Any, field: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        make()
    assert error.value.field == field
    assert "\n" not in str(error.value)


def test_an_instance_carries_checks_and_what_they_found() -> None:
    asked = Instance(**PLAYER, namespace="default", checks=[HealthCheck.tcp(), HealthCheck.http("/healthz")])
    message = asked.to_proto()
    result = pb.CheckResult(name="tcp", health=pb.UNHEALTHY, output="refused", failures=3)
    result.checked_at.FromSeconds(1_800_000_000)
    message.check_results.append(result)
    shown = Instance.from_proto(message)
    assert shown.checks == asked.checks
    at = datetime.fromtimestamp(1_800_000_000, UTC)
    assert shown.check_results == (CheckResult("tcp", Health.UNHEALTHY, "refused", at, 3),)
    assert shown.to_proto() == message
    assert Instance.from_proto(Instance(**PLAYER).to_proto()).checks == ()


@given(st.lists(st.sampled_from(Health)))
def test_numbers_add_up(healths: list[Health]) -> None:
    stats = HealthStats.of(healths)
    assert stats.total == len(healths) == stats.healthy + stats.unhealthy + stats.critical + stats.unknown
    assert 0.0 <= stats.rate <= 1.0
    assert stats.rate * stats.total == pytest.approx(healths.count(Health.HEALTHY))
