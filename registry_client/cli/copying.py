"""SHELL: the commands that carry instances from one registry to another: `export`, `import`, `sync`."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from dataclasses import dataclass, field, replace
from typing import IO, TYPE_CHECKING

import click

from registry_api.limits import MAX_TTL_S, MIN_TTL_S
from registry_api.registry.v1 import registry_pb2 as pb
from registry_client.check_rules import EVERY, CheckRule
from registry_client.checks import name as checked_name
from registry_client.cli.ends import Signalled, run
from registry_client.cli.options import Common, Seconds, with_all_namespaces, with_common
from registry_client.cli.show import REFUSED, Progress, complain, end, say, say_document
from registry_client.copies import (
    MAX_LINE,
    BadLine,
    bare,
    header_line,
    line_of,
    parse_line,
    travels,
)
from registry_client.errors import InvalidArgument, Misuse, RegistryError, RegistryUnavailable
from registry_client.instance import Instance, Key
from registry_client.policy import TrafficPolicy
from registry_client.policy_copies import Of, Scope, policies_of
from registry_client.syncing import Syncing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from registry_client.client import RegistryClient
    from registry_client.copies import Line
    from registry_client.watcher import Watch

WRITERS = 32
TTL = Seconds(MAX_TTL_S, open_min=True)
_SIGNS = {"added": "+", "updated": "~", "removed": "-"}


@click.command("export")
@click.argument("services", nargs=-1)
@with_all_namespaces
@with_common
def export_(common: Common, services: tuple[str, ...], all_namespaces: bool) -> None:
    """Write the instances of SERVICES, or of the whole namespace, its checks by service and its traffic policies: a
    JSON document a line.

    \b
    registryctl export >players.jsonl
    registryctl export player chat

    For `import`. What was copied here by `sync`, or is shown here for a neighbour, is left out.
    """

    for service in services:
        checked_name("service", service)  # "" would be all of them, and who writes that has lost a variable

    async def ask() -> tuple[list[Instance | TrafficPolicy], Sequence[CheckRule], str]:
        async with common.connect() as registry:
            scope = Scope(services, common.namespace, all_namespaces)
            found: list[Instance | TrafficPolicy] = [*(await policies_of(registry, scope)).values()]
            for service in dict.fromkeys(services) or ("",):
                listed = await registry.list(service, all_namespaces=all_namespaces)
                found += [it for it in listed if travels(it)]
            header = header_line(registry.epoch, registry.revision)
            return found, await registry.check_rules.list(), header

    found, rules, header = common.ask(ask())
    say(header)
    for rule in rules:
        if all_namespaces or (rule.namespace == common.namespace and (not services or rule.service in services)):
            say(line_of(rule.to_proto()))
    with Progress("exporting", len(found)) as progress:
        lacks = sum(not _say_line(it, progress) for it in found)
    if lacks:
        sys.exit(REFUSED)


def _say_line(it: Instance | TrafficPolicy, progress: Progress) -> bool:
    """False for one that belongs there and cannot be written."""
    progress.advance()
    try:
        say(line_of(it))
    except InvalidArgument as error:
        complain(f"{it.key if isinstance(it, Instance) else Of(it.namespace, it.service)} is left out: {error}")
        return False
    return True


@click.command("import")
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--ttl", type=TTL, metavar="SECONDS", help="How long they stay without their owners. [as exported]")
@click.option("--hold", is_flag=True, help="Keep them registered until Ctrl-C.")
@with_common
def import_(common: Common, file: IO[bytes], ttl: float | None, hold: bool) -> None:
    """Register what `export` wrote to FILE, by default from stdin, and set its checks and policies. What is there
    already stays as it is.

    \b
    registryctl --server h2:7400 import players.jsonl
    registryctl export | registryctl --server h2:7400 import --hold

    Each instance stays for its ttl, in which its owner has to come and register it, or be kept by --hold. Whose id or
    address somebody else has there is kept out. Nothing is registered unless every line can be read.
    """
    lines = _read(file)
    importing = Importing(common, ttl, hold=hold)
    try:
        run(importing.run(lines))
    except Signalled:
        if not importing.is_done:
            raise
    importing.conclude()


def _read(file: IO[bytes]) -> list[Line]:
    found: list[Line] = []
    flaws = 0
    reading = Progress(f"reading {file.name}")
    with contextlib.nullcontext() if file.isatty() else reading:  # what is typed has its own line
        for number, raw in _lines(file):
            reading.advance()
            try:
                line = parse_line(raw)
            except BadLine as wrong:
                flaws += 1
                complain(f"line {number}: {wrong}")
            else:
                found += [line] if line is not None else []
    if flaws:
        end(REFUSED, f"nothing was imported: {flaws} {'line' if flaws == 1 else 'lines'} cannot be read")
    return found


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines with their numbers; of one that is too long, so much that it is seen."""
    number = 0
    while raw := _line(file):
        number += 1
        yield number, raw.strip() if len(raw) <= MAX_LINE else raw
        while len(raw) > MAX_LINE and not raw.endswith(b"\n"):
            raw = _line(file)


def _line(file: IO[bytes]) -> bytes:
    try:
        return file.readline(MAX_LINE + 1)
    except OSError as error:
        end(REFUSED, f"nothing was imported: {file.name}: cannot read: {error.strerror}")


class Importing:
    """Carries one import out."""

    def __init__(self, common: Common, ttl: float | None, *, hold: bool) -> None:
        self._common = common
        self._ttl_s = ttl
        self._hold = hold
        self._writers = asyncio.Semaphore(WRITERS)
        self._there: dict[Key, Instance] = {}
        self._places: dict[tuple[str, str, str], Key] = {}
        self._progress = Progress("importing")
        self._come: dict[Key | tuple[str, str, str], Instance] = {}  # since this began, by name and by address
        self.imported = self.unchanged = self.kept_out = 0
        self.is_done = False

    async def run(self, lines: Sequence[Line]) -> None:
        """Import, and hold what is to be held until cancelled."""
        async with self._common.connect() as registry:
            with Progress(f"importing to {self._common.server}", len(lines)) as self._progress:
                await self._all(registry, lines)
            self.is_done = True
            if self._hold:
                self.tell()
                await asyncio.Event().wait()

    async def _all(self, registry: RegistryClient, lines: Sequence[Line]) -> None:
        await self._rules(registry, [CheckRule.from_proto(it) for it in lines if isinstance(it, pb.CheckRule)])
        await self._policies(registry, [it for it in lines if isinstance(it, TrafficPolicy)])
        async with registry.watch(all_namespaces=True) as watch:
            following = asyncio.create_task(self._follow(watch))
            try:
                await self._instances(registry, [it for it in lines if isinstance(it, Instance)])
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)

    async def _rules(self, registry: RegistryClient, rules: Sequence[CheckRule]) -> None:
        there = {(it.namespace, it.service): it for it in await registry.check_rules.list()} if rules else {}
        for rule in rules:
            present = there.get((rule.namespace, rule.service))
            if present is None:
                named = rule.service, rule.checks
                there[rule.namespace, rule.service] = await registry.check_rules.put(*named, namespace=rule.namespace)
                self._import()
            elif tuple(present.checks) == tuple(rule.checks):
                self._leave_alone()
            else:
                where = "every namespace" if rule.namespace == EVERY else rule.namespace
                self._keep_out(f"the checks of {rule.service} in {where}", "there are others")

    async def _policies(self, registry: RegistryClient, given: Sequence[TrafficPolicy]) -> None:
        there = await policies_of(registry, Scope((), "", True)) if given else {}
        for policy in given:
            of = Of(policy.namespace, policy.service)
            try:
                if (present := there.get(of)) is None:
                    there[of] = await registry.policy.put(policy)
                    self._import()
                elif present == policy:
                    self._leave_alone()
                else:
                    self._keep_out(of, "there is another one")
            except RegistryUnavailable:
                raise
            except RegistryError as error:
                self._keep_out(of, str(error))

    async def _follow(self, watch: Watch) -> None:
        """Owners come while others are imported: they lose their places for good to who registers after them."""
        async for view in watch:
            for it in (*view.changes.added, *view.changes.updated):
                self._come[it.key] = self._come[_place(it)] = it

    async def _instances(self, registry: RegistryClient, given: Sequence[Instance]) -> None:
        for it in await registry.list(all_namespaces=True):
            self._note(it)
        await asyncio.gather(*(self._register(registry, it) for it in given if self._is_new(it)))

    def _note(self, it: Instance) -> None:
        self._there[it.key] = it
        self._places[_place(it)] = it.key

    def _is_new(self, it: Instance) -> bool:
        """Whether it is to be registered. It is noted then, for who comes after it."""
        present = self._there.get(it.key)
        other = self._places.get(_place(it), it.key)
        if present is not None and _said(present) == _said(it):
            self._leave_alone()
        elif present is not None:
            self._keep_out(it.key, "it is registered there, and differs")
        elif other != it.key:
            self._keep_out(it.key, f"{other} has its address there")
        else:
            self._note(it)
            return True
        return False

    async def _register(self, registry: RegistryClient, it: Instance) -> None:
        wanted = replace(it, ttl_s=None)
        ttl_s = min(max(self._ttl_s or it.ttl_s or 0.0, MIN_TTL_S), MAX_TTL_S) if self._ttl_s or it.ttl_s else None
        async with self._writers:
            if come := self._come.get(it.key) or self._come.get(_place(it)):
                self._keep_out(it.key, f"{come.key} has come there meanwhile")
                return
            try:
                if self._hold:
                    await registry.register(
                        wanted, ttl_s, drain=0.0, timeout=self._common.timeout, if_absent=True
                    ).start()
                else:
                    await registry.register_once(wanted, ttl_s)
            except RegistryUnavailable:
                raise
            except RegistryError as error:
                self._keep_out(it.key, str(error))
            else:
                self._import()

    def _import(self) -> None:
        self.imported += 1
        self._progress.advance()

    def _leave_alone(self) -> None:
        self.unchanged += 1
        self._progress.advance()

    def _keep_out(self, what: object, why: str) -> None:
        self.kept_out += 1
        self._progress.advance()
        complain(f"{what} is kept out: {why}")

    def tell(self) -> None:
        """Say what has become of them."""
        told = {"imported": self.imported, "unchanged": self.unchanged, "keptOut": self.kept_out}
        if self._common.as_json:
            say_document(told)
        else:
            say(f"{self.imported} imported, {self.unchanged} unchanged, {self.kept_out} kept out")

    def conclude(self) -> None:
        """After its end: the exit code says whether all is there."""
        if not self._hold:
            self.tell()
        if self.kept_out:
            sys.exit(REFUSED)


def _place(it: Instance) -> tuple[str, str, str]:
    return it.key.namespace, it.service, it.address


def _said(it: Instance) -> Instance:
    """What can be compared: not how it stands, which changes."""
    return bare(it, health="UNKNOWN", status="ACTIVE")


@click.command()
@click.argument("services", nargs=-1)
@click.option("--to", "target", required=True, metavar="ADDRESSES", help="The registry that gets the copies.")
@click.option("--name", default="", help="Where the copies say that they come from. [the addresses of --server]")
@click.option("--ttl", type=TTL, default=15.0, show_default=True, help="Seconds that copies outlive this command.")
@with_all_namespaces
@with_common
def sync(common: Common, services: tuple[str, ...], target: str, name: str, ttl: float, all_namespaces: bool) -> None:
    """Keep copies of SERVICES, or of the whole namespace, and of their traffic policies, in another registry until
    Ctrl-C.

    \b
    registryctl sync --server h1:7400 --to h2:7400 player

    A copy says in its metadata (`copied-from`) where it comes from, and is never copied on: registries may be synced
    both ways. It has the health that its registry found. Nobody's place is taken there; policies that are set there
    stay, and those that were copied stay after the end.
    """
    told, space = Copied(common), "" if all_namespaces else common.namespace

    async def copy() -> None:
        with contextlib.ExitStack() as leaving:
            await keep(leaving)

    async def keep(leaving: contextlib.ExitStack) -> None:
        async with common.connect() as source, replace(common, server=target).connect() as other:
            if set(source.addresses) & set(other.addresses):
                raise Misuse("--to: must be another registry than --server")
            syncing = Syncing(source, other, name or ",".join(source.addresses), max(ttl, MIN_TTL_S), told)
            try:
                await syncing.run(*services, namespace=space, all_namespaces=all_namespaces)
            finally:
                leaving.enter_context(Progress("taking the copies away"))

    try:
        run(copy())
    except Signalled:
        if not told.anything:
            raise  # else Ctrl-C is how it is meant to end


@dataclass(slots=True)
class Copied:
    """What is said while copies are kept up."""

    common: Common
    anything: bool = field(default=False)

    def round(self, number: int) -> Progress:
        """See Listener."""
        return Progress("copying", number)

    def done(self, what: str, instance: Instance) -> None:
        """See Listener."""
        self.anything = True
        if self.common.as_json:
            say_document({"event": what, "key": str(instance.key), "address": instance.address}, indent=None)
        else:
            say(f"{_SIGNS[what]} {instance.key} {instance.address}")

    def policy(self, what: str, of: Of) -> None:
        """See Listener."""
        self.anything = True
        if self.common.as_json:
            say_document({"event": what, "policy": f"{of.namespace}/{of.service}"}, indent=None)
        else:
            say(f"{_SIGNS[what]} {of}")

    def kept_out(self, what: object, why: str) -> None:
        """See Listener."""
        if self.common.as_json:
            say_document({"event": "keptOut", "key": str(what), "why": why}, indent=None)
        else:
            complain(f"{what} is kept out: {why}")
