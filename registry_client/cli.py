"""`registryctl`: the registry from a shell."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import signal
import sys
from dataclasses import dataclass, replace
from datetime import datetime
from importlib import metadata
from typing import TYPE_CHECKING, Any, NoReturn

import click
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from protos.registry.v1 import registry_pb2 as pb
from registry_client.client import DEFAULT_DRAIN_S, DEFAULT_TTL_S, RegistryClient, connect
from registry_client.errors import InvalidTarget, RegistryError, RegistryUnavailable
from registry_client.instance import DEFAULT_NAMESPACE, Fields, Filters, Health, Instance, Locality, Status
from registry_client.signals import run_until_signal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from google.protobuf.message import Message

    from registry_client.registrar import Registration
    from registry_client.view import View

DEFAULT_SERVER = "127.0.0.1:7400"
OK, REFUSED, USAGE, UNREACHABLE = 0, 1, 2, 3
EPILOG = "Exit codes: 0 done, 1 refused or not found, 2 wrong usage, 3 the registry cannot be reached."


@dataclass(frozen=True, slots=True)
class Common:
    """What every command takes, before its name or after it."""

    server: str = DEFAULT_SERVER
    namespace: str = DEFAULT_NAMESPACE
    output: str = "table"
    timeout: float = 5.0

    def connect(self) -> RegistryClient:
        """A client as the options say. The last view on disk is of no interest to a shell."""
        return connect(self.server, namespace=self.namespace, timeout=self.timeout, cache_dir=None)

    @property
    def as_json(self) -> bool:
        """True for JSON with the names of proto3, false for people."""
        return self.output == "json"


_COMMON_OPTIONS = (
    click.option(
        "--server", "-s", metavar="ADDRESSES", help=f"HOST:PORT[,HOST:PORT…] [env REGISTRY_SERVER; {DEFAULT_SERVER}]"
    ),
    click.option("--namespace", "-n", metavar="NAME", help=f"[env REGISTRY_NAMESPACE; {DEFAULT_NAMESPACE}]"),
    click.option("--output", "-o", type=click.Choice(["table", "json"]), help="[table]"),
    click.option(
        "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="For one request [5]"
    ),
)


def _with_common(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the common options; what stands after its name wins over what stands before it."""

    @click.pass_context
    @functools.wraps(function)
    def wrapper(context: click.Context, /, **arguments: Any) -> Any:
        given = {name: arguments.pop(name) for name in ("server", "namespace", "output", "timeout")}
        named = {name: value for name, value in given.items() if value is not None}
        return function(replace(context.find_object(Common) or Common(), **named), **arguments)

    for option in reversed(_COMMON_OPTIONS):
        wrapper = option(wrapper)
    return wrapper


class _Pairs(click.ParamType[tuple[str, str]]):
    """KEY=VALUE."""

    name = "KEY=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).partition("=")
        if not key or not equals:
            self.fail(f"{value!r} must be KEY=VALUE", param, ctx)
        return key, text


class _Address(click.ParamType[tuple[str, int]]):
    """HOST:PORT."""

    name = "HOST:PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        host, _, port = str(value).rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
            self.fail(f"{value!r} must be HOST:PORT with a port of 1 to 65535", param, ctx)
        return host, int(port)


def _choice(kind: type[Status] | type[Health]) -> click.Choice[str]:
    return click.Choice([member.value for member in kind], case_sensitive=False)


_FILTER_OPTIONS = (
    click.option("--tag", "tags", multiple=True, help="Has this tag; repeatable, all must match."),
    click.option("--metadata", "--meta", multiple=True, type=_Pairs(), help="Has this metadata; repeatable."),
    click.option("--version", default="", help="Has this version."),
    click.option("--status", "statuses", multiple=True, type=_choice(Status), help="Has this status; repeatable, any."),
    click.option("--health", "healths", multiple=True, type=_choice(Health), help="Has this health; repeatable, any."),
    click.option("--region", default=""),
    click.option("--zone", default=""),
    click.option("--sub-zone", default=""),
    click.option("--healthy", "healthy_only", is_flag=True, help="Gets traffic: active, not ill, of a weight above 0."),
)


def _with_filters(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a filter, as one argument `filters`."""

    @functools.wraps(function)
    def wrapper(*positional: Any, **arguments: Any) -> Any:
        where = Locality(*(arguments.pop(part) for part in ("region", "zone", "sub_zone")))
        filters = Filters(
            tags=arguments.pop("tags"),
            metadata=dict(arguments.pop("metadata")),
            version=arguments.pop("version"),
            statuses=arguments.pop("statuses"),
            healths=arguments.pop("healths"),
            locality=where,
            healthy_only=arguments.pop("healthy_only"),
        )
        return function(*positional, filters=filters, **arguments)

    for option in reversed(_FILTER_OPTIONS):
        wrapper = option(wrapper)
    return wrapper


class _Group(click.Group):
    """Turns what goes wrong into one line on stderr and an exit code."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> Any:  # type: ignore[override]
        extra["standalone_mode"] = False
        try:
            sys.exit(super().main(args, prog_name, **extra))
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else "registryctl"
            _end(USAGE, f"{error.format_message()} (see {path} --help)")
        except click.ClickException as error:
            _end(error.exit_code, error.format_message())
        except (click.Abort, KeyboardInterrupt):
            sys.exit(128 + signal.SIGINT)
        except BrokenPipeError:
            # Whoever read the output has seen enough; the interpreter must not try to flush the rest.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InvalidTarget as error:
            _end(USAGE, error)
        except RegistryUnavailable as error:
            _end(UNREACHABLE, error)
        except RegistryError as error:
            _end(REFUSED, error)


def _end(code: int, why: object) -> NoReturn:
    click.echo(f"registryctl: {' '.join(str(why).split())}", err=True)
    sys.exit(code)


def _show_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        with contextlib.suppress(metadata.PackageNotFoundError):
            click.echo(f"registryctl {metadata.version('grpc-registry')}")
        context.exit()


@click.group(cls=_Group, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--server", "-s", default=DEFAULT_SERVER, envvar="REGISTRY_SERVER", show_default=True, show_envvar=True,
    metavar="ADDRESSES", help="HOST:PORT[,HOST:PORT…] of the registry.",
)  # fmt: skip
@click.option(
    "--namespace", "-n", default=DEFAULT_NAMESPACE, envvar="REGISTRY_NAMESPACE", show_default=True, show_envvar=True,
    metavar="NAME", help="Where the services are.",
)  # fmt: skip
@click.option(
    "--output", "-o", type=click.Choice(["table", "json"]), default="table", show_default=True,
    help="For people, or JSON with the names of the .proto.",
)  # fmt: skip
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=5.0, show_default=True, metavar="SECONDS",
    help="For one request, retries included.",
)  # fmt: skip
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show it.")
@click.pass_context
def main(context: click.Context, server: str, namespace: str, output: str, timeout: float) -> None:
    """See and change what a grpc-registry knows.

    The options may also stand after the name of the command.
    """
    logging.basicConfig(format="registryctl: %(message)s", level=logging.ERROR)
    context.obj = Common(server, namespace, output, timeout)


# ---- reading


@main.command()
@_with_common
def services(common: Common) -> None:
    """The services of the namespace, with the number of their instances."""

    async def ask() -> pb.ListServicesResponse:
        async with common.connect() as registry:
            found = await registry.services()
        summaries = (pb.ServiceSummary(**{name: getattr(it, name) for name in _SUMMARY}) for it in found)
        return pb.ListServicesResponse(services=summaries)

    answer = asyncio.run(ask())
    if common.as_json:
        _print_json({"services": [_dict(it) for it in answer.services]})
        return
    rows = ((it.service, str(it.instances), str(it.routable)) for it in answer.services)
    _print_table(("SERVICE", "INSTANCES", "ROUTABLE"), rows)


_SUMMARY = ("namespace", "service", "instances", "routable")


@main.command()
@click.argument("service", default="")
@_with_filters
@_with_common
def instances(common: Common, service: str, filters: Filters) -> None:
    """The instances of SERVICE; without it, of the whole namespace."""

    async def ask() -> list[Instance]:
        async with common.connect() as registry:
            return await registry.list(service, **filters)

    found = asyncio.run(ask())
    if common.as_json:
        _print_json({"instances": [_dict(it.to_proto()) for it in found]})
        return
    _print_table(_COLUMNS, map(_row, found))


@main.command()
@click.argument("services", nargs=-1)
@_with_filters
@_with_common
def watch(common: Common, services: tuple[str, ...], filters: Filters) -> None:
    """Every change of SERVICES as it happens, until Ctrl-C; without any, of the whole namespace.

    Lines begin with the time and +, ~ or -: added, updated, removed. Those that are there already are added first. With
    --output json there is one JSON document per line. While the registry is away the watch goes on and says so.
    """

    async def follow() -> None:
        async with common.connect() as registry:
            stale = False
            async for view in registry.watch(*services, **filters):
                if stale != (view.stale_for is not None):
                    stale = not stale
                    _print_staleness(view, as_json=common.as_json)
                _print_changes(view, as_json=common.as_json)

    run_until_signal(follow())


# ---- writing


@main.command(context_settings={"ignore_unknown_options": False, "allow_interspersed_args": True})
@click.argument("service")
@click.argument("address", type=_Address())
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--id", "instance_id", default="", help="Made by the registry if not given.")
@click.option("--weight", type=click.IntRange(0, 1_000_000), default=100, show_default=True)
@click.option("--version", default="1.0.0", show_default=True)
@click.option("--tag", "tags", multiple=True, help="Repeatable.")
@click.option("--metadata", "--meta", multiple=True, type=_Pairs(), help="Repeatable.")
@click.option("--region", default="")
@click.option("--zone", default="")
@click.option("--sub-zone", default="")
@click.option("--status", type=_choice(Status), default=Status.ACTIVE.value, show_default=True)
@click.option("--ttl", type=float, default=DEFAULT_TTL_S, show_default=True, help="Seconds until a crash is noticed.")
@click.option(
    "--drain", type=click.FloatRange(min=0), default=DEFAULT_DRAIN_S, show_default=True,
    help="Seconds as DRAINING when leaving.",
)  # fmt: skip
@_with_common
def register(
    common: Common,
    service: str,
    address: tuple[str, int],
    command: tuple[str, ...],
    instance_id: str,
    ttl: float,
    drain: float,
    region: str,
    zone: str,
    sub_zone: str,
    metadata: Iterable[tuple[str, str]],
    **fields: Any,
) -> None:
    """Keep an instance of SERVICE at ADDRESS registered until Ctrl-C, or while a command runs.

    \b
    registryctl register player 10.0.0.5:8001 --weight 3
    registryctl register player 10.0.0.5:8001 -- ./game-server --port 8001

    It is renewed, and registered again after any outage; on the way out it drains and is deregistered. A command is
    told to end (SIGTERM) after that, and its exit code becomes this one's.
    """
    host, port = address
    instance = Instance(
        service=service,
        host=host,
        port=port,
        id=instance_id,
        metadata=dict(metadata),
        locality=Locality(region, zone, sub_zone),
        **fields,
    )

    async def keep() -> int:
        child = None
        try:
            async with common.connect() as registry:
                wish = registry.register(instance, ttl, drain=drain, timeout=common.timeout)
                async with wish as registration:
                    _print_registration(registration, as_json=common.as_json)
                    if command:
                        child = await asyncio.create_subprocess_exec(*command)
                        return _exit_code(await child.wait())
                    await registration.wait_lost()  # and leaving the block says so
        except asyncio.CancelledError:  # by a signal, and it has left the registry
            return await _end_child(child)
        return OK

    try:
        code = run_until_signal(keep())
    except OSError as error:
        _end(REFUSED, f"{command[0]}: {error.strerror}")
    sys.exit(code)


async def _end_child(child: asyncio.subprocess.Process | None) -> int:
    if child is None:
        return OK
    with contextlib.suppress(ProcessLookupError):
        child.terminate()
    return _exit_code(await child.wait())


def _exit_code(code: int) -> int:
    """As a shell shows it: 128 and the signal that ended it."""
    return code if code >= 0 else 128 - code


@main.command()
@click.argument("service")
@click.argument("instance_id", metavar="ID")
@click.option("--weight", type=click.IntRange(0, 1_000_000))
@click.option("--status", type=_choice(Status))
@click.option("--health", type=_choice(Health))
@click.option("--version")
@click.option("--tag", "tags", multiple=True, help="Repeatable; all tags together replace the former ones.")
@click.option("--no-tags", is_flag=True, help="Remove all tags.")
@click.option("--metadata", "--meta", multiple=True, type=_Pairs(), help="Repeatable; replaces all that was there.")
@click.option("--no-metadata", is_flag=True, help="Remove all metadata.")
@_with_common
def update(common: Common, service: str, instance_id: str, **options: Any) -> None:
    """Change what is named of instance ID of SERVICE, and leave the rest as it is."""
    tags = [] if options.pop("no_tags") else list(options.pop("tags")) or None
    metadata = {} if options.pop("no_metadata") else dict(options.pop("metadata")) or None
    options.pop("tags", None), options.pop("metadata", None)
    fields = {**options, "tags": tags, "metadata": metadata}
    named = {name: value for name, value in fields.items() if value is not None}
    if not named:
        raise click.UsageError("name one or more of --weight, --status, --health, --version, --tag, --metadata")
    _update(common, service, instance_id, Fields(**named))  # type: ignore[typeddict-item]


@main.command()
@click.argument("service")
@click.argument("instance_id", metavar="ID")
@_with_common
def drain(common: Common, service: str, instance_id: str) -> None:
    """Take instance ID of SERVICE out of the traffic: what it has begun it finishes, nothing new comes.

    It stays registered, as DRAINING, until its owner leaves; `update --status ACTIVE` puts it back. To have it removed
    after a while, use `deregister --drain SECONDS`.
    """
    _update(common, service, instance_id, Fields(status=Status.DRAINING))


def _update(common: Common, service: str, instance_id: str, fields: Fields) -> None:
    async def ask() -> Instance:
        async with common.connect() as registry:
            return await registry.update(service, instance_id, **fields)

    _print_instance(asyncio.run(ask()), as_json=common.as_json)


@main.command()
@click.argument("service")
@click.argument("instance_id", metavar="ID")
@click.option(
    "--drain", type=click.FloatRange(min=0), default=0.0, metavar="SECONDS", help="Stay that long as DRAINING."
)
@_with_common
def deregister(common: Common, service: str, instance_id: str, drain: float) -> None:
    """Remove instance ID of SERVICE. An owner that is alive registers it again: see `drain`."""

    async def ask() -> int:
        async with common.connect() as registry:
            return await registry.deregister(service, instance_id, drain=drain)

    removed = asyncio.run(ask())
    if common.as_json:
        _print_json({"removed": removed})
    else:
        click.echo(f"{service}/{instance_id} " + (f"leaves in {drain:g} s" if drain else "is removed"))


# ---- showing

_COLUMNS = ("SERVICE", "ID", "ADDRESS", "STATUS", "HEALTH", "WEIGHT", "VERSION", "ZONE", "TAGS", "METADATA")
_SIGNS = {"added": ("+", "green"), "updated": ("~", "yellow"), "removed": ("-", "red")}


def _row(it: Instance) -> tuple[str, ...]:
    metadata = " ".join(f"{key}={value}" for key, value in sorted(it.metadata.items()))
    zone = "/".join(part for part in (it.locality.region, it.locality.zone, it.locality.sub_zone) if part)
    state = (it.status.value, it.health.value, str(it.weight), it.version)
    return it.service, it.id, it.address, *state, zone, ",".join(it.tags), metadata


def _console() -> Console:
    """Rich for people at a terminal; plain lines of any length for pipes."""
    return Console() if sys.stdout.isatty() else Console(width=10_000, no_color=True, highlight=False)


def _print_table(columns: Iterable[str], rows: Iterable[tuple[str, ...]]) -> None:
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*map(escape, row))
    lines = _console()
    with lines.capture() as captured:
        lines.print(table)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _dict(message: Message) -> dict[str, Any]:
    return MessageToDict(message, always_print_fields_with_no_presence=True)


def _print_json(document: Mapping[str, Any], *, indent: int | None = 2) -> None:
    click.echo(json.dumps(document, indent=indent, ensure_ascii=False))


def _print_instance(instance: Instance, *, as_json: bool) -> None:
    if as_json:
        _print_json({"instance": _dict(instance.to_proto())})
    else:
        _print_table(_COLUMNS, [_row(instance)])


def _print_registration(registration: Registration, *, as_json: bool) -> None:
    it = registration.instance
    if as_json:
        ttl = f"{registration.ttl_s:g}s"
        _print_json({"instance": _dict(it.to_proto()), "leaseId": registration.lease_id, "ttl": ttl}, indent=None)
    else:
        click.echo(f"registered {it.service}/{it.id} at {it.address}, lease {registration.lease_id}")


def _print_changes(view: View, *, as_json: bool) -> None:
    now = datetime.now().astimezone()
    changes = view.changes
    for event, found in (("added", changes.added), ("updated", changes.updated), ("removed", changes.removed)):
        for instance in found:
            if as_json:
                header = {"time": now.isoformat(), "event": event, "revision": str(view.revision)}
                _print_json({**header, "instance": _dict(instance.to_proto())}, indent=None)
            else:
                click.echo(_change_line(now, event, instance))


def _change_line(now: datetime, event: str, instance: Instance) -> str:
    sign, colour = _SIGNS[event]
    service, name, *rest = _row(instance)
    text = " ".join(part for part in (f"{sign} {service}/{name}", *rest) if part)
    return f"{now:%H:%M:%S}.{now.microsecond // 1000:03} {click.style(text, fg=colour)}"


def _print_staleness(view: View, *, as_json: bool) -> None:
    now = datetime.now().astimezone()
    stale = view.stale_for is not None
    if as_json:
        event = {"event": "stale", "staleFor": f"{view.stale_for:.3f}s"} if stale else {"event": "fresh"}
        _print_json({"time": now.isoformat(), **event}, indent=None)
    else:
        text = "the registry is away: this is what it last said" if stale else "the registry is back"
        click.echo(f"{now:%H:%M:%S}.{now.microsecond // 1000:03} {click.style('! ' + text, fg='magenta')}")


if __name__ == "__main__":
    main()
