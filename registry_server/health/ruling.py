"""SHELL: gives instances that bring no checks those of the rule that holds for them, and others when that changes.

A rule is written into the instances it is for, so that whoever reads one sees how it is looked at. Each replica does
that for the instances that are its own to look at; who registers gets what holds at that moment. Nothing is remembered
of what is to be done but where to look: an instance that has not what it ought to have is put right, whatever the
reason, and whoever should have done it.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server.catalog import Catalog
from registry_server.changes import Change
from registry_server.errors import RequestError, Unavailable
from registry_server.health import findings
from registry_server.health.door import Door
from registry_server.model import Entry
from registry_server.records import Key, Kind
from registry_server.settings import SettingChange

log = logging.getLogger(__name__)

WRITERS = 4
MOST = 50  # instances in one write
RETRY_S = 1.0
# So many instances are looked at before others have their turn.
STEP = 200
_EVERYTHING = ("", "")


class RuleWriter(Protocol):
    """Who writes."""

    async def rule(self, wanted: Mapping[Key, Sequence[pb.HealthCheck]]) -> None:
        """Give instances these checks, but for those that have their own: all or none. Raises RequestError."""


class Whose(Protocol):
    """Which replica looks at an instance."""

    def is_mine(self, key: Key) -> bool:
        """Whether this server does."""

    def want(self) -> None:
        """There is something to look at: from now on this server is one of those that do."""


class Ruling:
    """Told by the feed. `door` says which checks an instance ought to have."""

    def __init__(self, catalog: Catalog, door: Door, writer: RuleWriter, whose: Whose) -> None:
        self._catalog = catalog
        self._door = door
        self._writer = writer
        self._whose = whose
        # Namespaces and services to look through, where an empty name is every one; and instances to put right.
        self._scopes: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._wrong: OrderedDict[Key, None] = OrderedDict()
        self._may_look, self._may_write = asyncio.Event(), asyncio.Event()

    # ---- as a Listener

    def changed(self, changes: Sequence[Change]) -> None:
        """See Listener."""
        for change in changes:
            if change.after is not None and self._is_wrong(change.after):
                self._note(change.key)

    def settings_changed(self, changes: Sequence[SettingChange]) -> None:
        """See Listener."""
        for change in changes:
            if change.key.kind is Kind.CHECKS:
                if flaw := self._door.book.take(change):
                    log.warning("%a is no rule, and skipped: %s", str(change.key)[:200], flaw)
                self._look_through(change.key[:2])
            elif change.key.kind is Kind.REPLICA:
                self._look_through(_EVERYTHING)

    def refresh_all(self) -> None:
        """See Listener."""
        self._look_through(_EVERYTHING)

    def _look_through(self, scope: tuple[str, str]) -> None:
        self._scopes[scope] = None
        self._may_look.set()

    def _note(self, key: Key) -> None:
        self._whose.want()
        if self._whose.is_mine(key):  # if not yet, there will be another look when it is known whose it is
            self._wrong[key] = None
            self._may_write.set()

    def _is_wrong(self, entry: Entry) -> bool:
        if not entry.has_checks and not self._door.book:
            return False
        wanted = self._door.ruled(entry.key.namespace, entry.key.service, entry.address[0])
        if not entry.has_checks and not wanted:
            return False
        instance = entry.parse()
        return findings.takes_checks(instance) and list(instance.checks) != list(wanted)

    # ---- running

    async def run(self) -> None:
        """Look and write until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._look())
            for _ in range(WRITERS):
                tasks.create_task(self._write())

    async def _look(self) -> None:
        while True:
            await self._may_look.wait()
            if not self._scopes:
                self._may_look.clear()
                continue
            scope, _ = self._scopes.popitem(last=False)
            for number, entry in enumerate(self._entries(*scope), 1):
                if self._is_wrong(entry):
                    self._note(entry.key)
                if number % STEP == 0:
                    await asyncio.sleep(0)

    def _entries(self, namespace: str, service: str) -> Iterator[Entry]:
        for space in (namespace,) if namespace else self._catalog.namespaces():
            for name in (service,) if service else self._catalog.services(space):
                yield from self._catalog.of_service(space, name)

    async def _write(self) -> None:
        while True:
            await self._may_write.wait()
            if not self._wrong:
                self._may_write.clear()
                continue
            wanted = {key: checks for key in self._some() if (checks := self._wanted(key)) is not None}
            if wanted:
                await self._carry_out(wanted)
            await asyncio.sleep(0)  # a store inside of this process makes nobody wait

    def _some(self) -> list[Key]:
        return [self._wrong.popitem(last=False)[0] for _ in range(min(MOST, len(self._wrong)))]

    def _wanted(self, key: Key) -> Sequence[pb.HealthCheck] | None:
        """The checks that an instance ought to have; None if it has them, or is another server's to look at."""
        entry = self._catalog.get(key)
        if entry is None or not self._whose.is_mine(key) or not self._is_wrong(entry):
            return None
        return self._door.ruled(key.namespace, key.service, entry.address[0])

    async def _carry_out(self, wanted: Mapping[Key, Sequence[pb.HealthCheck]]) -> None:
        try:
            await self._writer.rule(wanted)
        except Exception as error:  # whatever a store raises that somebody else wrote
            if len(wanted) > 1 and not isinstance(error, Unavailable):  # too much at once, or one of them is at fault
                for key, checks in wanted.items():
                    await self._carry_out({key: checks})
                return
            level = logging.DEBUG if isinstance(error, RequestError) else logging.WARNING
            log.log(level, "the checks of %d instances by rules are not written yet: %r", len(wanted), error)
            await asyncio.sleep(RETRY_S)
            for key in wanted:
                self._note(key)
