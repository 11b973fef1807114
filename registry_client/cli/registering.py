"""SHELL: the command `register`: an instance kept registered until a signal comes, or while a command runs."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from registry_api.limits import DEFAULT_TTL_S, DEFAULT_VERSION, DEFAULT_WEIGHT, MAX_WEIGHT
from registry_client.answers import shown_lease
from registry_client.cli.command import Command
from registry_client.cli.ends import Signalled, run
from registry_client.cli.options import DRAIN, Address, Common, Pair, Seconds, one_of, with_common
from registry_client.cli.port import is_local, listens, wait_until_it_listens
from registry_client.cli.show import REFUSED, Progress, as_dict, complain, say, say_document
from registry_client.client import DEFAULT_DRAIN_S
from registry_client.errors import NotFound
from registry_client.health import HealthCheck, Pace
from registry_client.instance import Instance, Locality, Status

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from registry_client.client import RegistryClient
    from registry_client.registration import Registration

WAIT_S = 60.0
_MOST_WAIT_S = 3600.0
_PATIENCE_S = 1.0
"""Who waits for longer is told what for."""


class NotListening(Exception):
    """Nothing listens where the instance was to be registered."""


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for. `wait_port`: before registering wait until its port listens; None = as is best."""

    common: Common
    instance: Instance
    ttl: float
    drain: float
    command: tuple[str, ...]
    wait_port: bool | None
    wait_s: float


class _WithCommand(click.Command):
    """Refuses `--` with nothing after it: whoever writes that has lost the command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[-1] == "--" and "--" not in args[:-1]:
            raise click.UsageError("no command stands after --", ctx)
        return super().parse_args(ctx, args)


@click.command(cls=_WithCommand, context_settings={"ignore_unknown_options": False, "allow_interspersed_args": True})
@click.argument("service")
@click.argument("address", type=Address())
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--id", "instance_id", default="", help="Made by the registry if not given.")
@click.option("--weight", type=click.IntRange(0, MAX_WEIGHT), default=DEFAULT_WEIGHT, show_default=True)
@click.option("--version", default=DEFAULT_VERSION, show_default=True)
@click.option("--tag", "tags", multiple=True, help="Repeatable.")
@click.option("--metadata", "--meta", multiple=True, type=Pair(), help="Repeatable.")
@click.option("--region", default="")
@click.option("--zone", default="")
@click.option("--sub-zone", default="")
@click.option("--status", type=one_of(Status), default=Status.ACTIVE.value, show_default=True)
@click.option("--ttl", type=float, default=DEFAULT_TTL_S, show_default=True, help="Seconds until a crash is noticed.")
@click.option(
    "--drain", type=DRAIN, default=DEFAULT_DRAIN_S, show_default=True, help="Seconds as DRAINING when leaving."
)
@click.option(
    "--check", "checks", multiple=True, metavar="CHECK",
    help="How the registry is to look whether it is well: http:/healthz, tcp, grpc:SERVICE, …; repeatable.",
)  # fmt: skip
@click.option("--check-interval", type=float, metavar="SECONDS", help="Of all checks. [5]")
@click.option("--deregister-after", type=float, metavar="SECONDS", help="Remove it when it was ill for so long.")
@click.option(
    "--wait-port/--no-wait-port", default=None,
    help="Register when something listens at ADDRESS. [with a COMMAND, if ADDRESS is of this machine]",
)  # fmt: skip
@click.option(
    "--wait-timeout", type=Seconds(_MOST_WAIT_S, open_min=True), default=WAIT_S, show_default=True, metavar="SECONDS",
    help="For that; then the command is ended.",
)  # fmt: skip
@with_common
def register(
    common: Common,
    service: str,
    address: tuple[str, int],
    command: tuple[str, ...],
    instance_id: str,
    ttl: float,
    drain: float,
    wait_port: bool | None,
    wait_timeout: float,
    region: str,
    zone: str,
    sub_zone: str,
    metadata: Iterable[tuple[str, str]],
    checks: Iterable[str],
    check_interval: float | None,
    deregister_after: float | None,
    **fields: Any,
) -> None:
    """Keep an instance of SERVICE at ADDRESS registered until Ctrl-C, or while a command runs.

    \b
    registryctl register player 10.0.0.5:8001 --weight 3 --check http:/healthz
    registryctl register player 10.0.0.5:8001 -- ./game-server --port 8001

    It is renewed, and registered again after any outage; on the way out it drains and is deregistered. A command is
    started first, registered as soon as its port listens, and told to end (SIGTERM) after the instance has left. Its
    exit code becomes this one's.
    """
    host, port = address
    where = Locality(region, zone, sub_zone)
    looked = checks_of(checks, check_interval, deregister_after)
    instance = Instance(
        service=service,
        host=host,
        port=port,
        id=instance_id,
        metadata=dict(metadata),
        locality=where,
        checks=looked,
        **fields,
    )
    sys.exit(_keep(Order(common, instance, ttl, drain, command, wait_port, wait_timeout)))


def checks_of(written: Iterable[str], interval_s: float | None, deregister_after_s: float | None) -> list[HealthCheck]:
    """The checks that are written in short; the times, in seconds, are for all of them. Raises InvalidArgument."""
    pace = Pace()
    if interval_s is not None:
        pace["interval"] = interval_s
    if deregister_after_s is not None:
        pace["deregister_after"] = deregister_after_s
    return [HealthCheck.parse(check).paced(**pace) for check in written]


def _keep(order: Order) -> int:
    stint = Stint(order)
    try:
        return run(stint.keep())
    except Signalled as signalled:
        # Ctrl-C is how it is meant to end, once it is registered.
        return 0 if stint.registered else signalled.exit_code
    except NotListening as error:
        complain(error)
    except OSError as error:
        if not order.command:
            raise
        complain(f"{order.command[0]}: {error.strerror}")
    return REFUSED


class Stint:
    """Carries an order out, once."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self.registered = False
        self._lost = False

    async def keep(self) -> int:
        """Until it is lost, or the command has ended: the exit code. Cancelling it has the instance leave."""
        order = self._order
        async with order.common.connect() as registry:
            if order.command:
                return await self._keep_with_command(registry)
            registration = self._registration(registry, order.common.timeout)
            with Progress(f"registering {order.instance.service} at {order.instance.address}"):
                if order.wait_port:
                    await self._listening()
                await registration.start()
            with contextlib.ExitStack() as leaving:
                async with registration:
                    self._tell(registration)
                    try:
                        await registration.wait_lost()  # and leaving the block says so
                    finally:
                        leaving.enter_context(Progress("draining", until_s=order.drain))
        return REFUSED

    def _registration(self, registry: RegistryClient, timeout_s: float | None) -> Registration:
        order = self._order
        return registry.register(order.instance, order.ttl, drain=order.drain, timeout=timeout_s)

    async def _keep_with_command(self, registry: RegistryClient) -> int:
        order, where = self._order, self._order.instance
        waits = await is_local(where.host) if order.wait_port is None else order.wait_port
        # Made before the command is started: what is wrong with it is told now. While that runs, nothing is too late.
        registration = self._registration(registry, None if waits else order.common.timeout)
        try:
            if waits:
                await _ask(registry, where)
                if await listens(where.host, where.port):
                    complain(f"something listens at {where.address} already, before the command has started")
            else:
                await self._register(registration)
            async with Command(order.command) as command:
                try:
                    return await self._keep_while_running(command, registration, waits=waits)
                except asyncio.CancelledError:  # by a signal, and it has left the registry
                    return await command.end()
        finally:
            await registration.aclose()

    async def _keep_while_running(self, command: Command, registration: Registration, *, waits: bool) -> int:
        try:
            if waits and not await _while_running(command, self._listening()):
                complain(f"the command has ended before anything listened at {self._order.instance.address}")
            elif not waits or await _while_running(command, self._register(registration)):
                await _while_running(command, self._lose(registration))
            return await command.wait() or (REFUSED if self._lost else 0)
        finally:
            await registration.aclose()

    async def _register(self, registration: Registration) -> None:
        await registration.start()
        self._tell(registration)

    async def _listening(self) -> None:
        """Wait until something listens. Raises NotListening when that takes too long."""
        order, where = self._order, self._order.instance
        waiting = asyncio.ensure_future(wait_until_it_listens(where.host, where.port))
        try:
            await asyncio.wait([waiting], timeout=min(_PATIENCE_S, order.wait_s))
            if not waiting.done() and order.wait_s > _PATIENCE_S:
                complain(f"waiting until something listens at {where.address}")
                await asyncio.wait([waiting], timeout=order.wait_s - _PATIENCE_S)
            if not waiting.done():
                hint = "see --wait-timeout, --no-wait-port"
                raise NotListening(f"nothing listens at {where.address} after {order.wait_s:g} s ({hint})")
        finally:
            waiting.cancel()

    async def _lose(self, registration: Registration) -> None:
        """Say so when it is lost. The command goes on: whoever took its place decides nothing about it."""
        error = await registration.wait_lost()
        self._lost = True
        complain(error)

    def _tell(self, registration: Registration) -> None:
        self.registered = True
        it = registration.instance
        if self._order.common.as_json:
            told = {
                "instance": as_dict(it.to_proto()),
                "leaseId": registration.lease_id,
                "ttl": f"{registration.ttl_s:g}s",
            }
            say_document(told, indent=None)
        else:
            say(f"registered {it.service}/{it.id} at {it.address}, lease {shown_lease(registration.lease_id)}")


async def _ask(registry: RegistryClient, instance: Instance) -> None:
    """Whether the registry can be reached: a command is not started for one that cannot."""
    with contextlib.suppress(NotFound):
        await registry.get(instance.service, instance.id or "_", namespace=instance.namespace)


async def _while_running(command: Command, work: Coroutine[Any, Any, object]) -> bool:
    """Do the work while the command runs. False when the command ended first: what was begun is given up."""
    working, running = asyncio.ensure_future(work), asyncio.ensure_future(command.wait())
    try:
        await asyncio.wait([working, running], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
        return working.done()
    finally:
        for task in (working, running):
            task.cancel()
        await asyncio.wait([working, running])
