"""Who is given the checks of a rule, by whom, and what follows when that fails."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from registry_checks.rules import settle_all
from registry_checks.text import parse
from registry_server.errors import LimitExceeded, Unavailable
from registry_server.health import book, ruling
from registry_server.health.door import Door
from registry_server.records import Key, Kind, Record
from registry_server.settings import SettingChange
from tests.support.core import key, loaded, record
from tests.support.waiting import eventually_async, passed


def checks(*texts: str) -> list[pb.HealthCheck]:
    found = pb.Instance(checks=map(parse, texts)).checks
    settle_all(found)
    return list(found)


class Stage:
    """A ruling over instances that are there, and a registry that writes what it is told, or refuses it."""

    name_of_others = "other"

    def __init__(self, *records: Record) -> None:
        self.refuses: Exception | None = None
        self.most = 1000
        self.written: dict[str, list[str]] = {}
        self.lots: list[int] = []
        self.ruling = ruling.Ruling(loaded(*records), Door(runs=True), self, self)

    async def rule(self, wanted: Mapping[Key, Sequence[pb.HealthCheck]]) -> None:
        self.lots.append(len(wanted))
        if self.refuses is not None:
            raise self.refuses
        if len(wanted) > self.most:
            raise LimitExceeded("store", "too large")
        self.written |= {key.id: [check.name for check in found] for key, found in wanted.items()}

    def is_mine(self, key: Key) -> bool:
        return key.id != self.name_of_others

    def want(self) -> None:
        """It is there already."""

    def put(self, *texts: str, service: str = "player") -> None:
        name = book.key_of("default", service)
        value = book.value_of(checks(*texts))
        self.ruling.settings_changed([SettingChange(20, name, None, Record(name, value, "", 20, 20))])

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.ruling.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def instance(name: str, **fields: Any) -> Record:
    return record(key(name), 5, **fields)


async def test_who_brings_none_and_is_ours_is_given_those_of_the_rule() -> None:
    stage = Stage(
        instance("none"),
        instance("own", checks=checks("ttl")),
        instance("ruled", checks=checks("ttl"), checks_by_rule=True),
        instance("right", checks=checks("tcp"), checks_by_rule=True),
        instance("taken", origin="consul"),
        instance(Stage.name_of_others),
        record(key("elsewhere", "chat"), 5),
    )
    async with stage.running():
        stage.put("tcp")
        await eventually_async(lambda: len(stage.written) == 2)
        await passed(0.05)
        assert stage.written == {"none": ["tcp"], "ruled": ["tcp"]}


async def test_what_is_too_much_at_once_is_written_one_by_one() -> None:
    names = [f"{number}" for number in range(ruling.MOST + 7)]
    stage = Stage(*map(instance, names))
    stage.most = 1
    async with stage.running():
        stage.put("tcp")
        await eventually_async(lambda: sorted(stage.written) == sorted(names))
    assert max(stage.lots) == ruling.MOST


@pytest.mark.parametrize(
    "error", [Unavailable("the store is away"), RuntimeError("a store of somebody's own")], ids=repr
)
async def test_while_the_store_is_away_it_is_asked_again(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ruling, "RETRY_S", 0.01)
    stage = Stage(instance("a"), instance("b"))
    stage.refuses = error
    async with stage.running():
        stage.put("tcp")
        await eventually_async(lambda: len(stage.lots) >= 3)
        stage.refuses = None
        await eventually_async(lambda: sorted(stage.written) == ["a", "b"])


async def test_what_is_no_rule_is_said_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage(instance("a"))
    name = Key("default", "pl\nayer", "rule", Kind.CHECKS)
    async with stage.running():
        stage.ruling.settings_changed([SettingChange(20, name, None, Record(name, b"hello", "", 20, 20))])
        await passed(0.05)
    assert stage.written == {}
    assert "is no rule, and skipped" in caplog.text
    assert all("\n" not in it.getMessage() for it in caplog.records)
