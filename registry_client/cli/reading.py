"""SHELL: the commands that look: `namespaces`, `services`, `instances`, `watch`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

import click

from registry_api.registry.v1 import registry_pb2 as pb
from registry_client.cli.ends import Signalled, run, while_read
from registry_client.cli.instances import (
    INSTANCES,
    NAMESPACE,
    NAMESPACES,
    SERVICES,
    SIGNS,
    WIDE,
    change_text,
    instance_row,
    namespace_row,
    service_row,
    time_text,
    wide_row,
)
from registry_client.cli.options import Common, with_all_namespaces, with_common, with_filters
from registry_client.cli.show import as_dict, complain, say, say_document, say_table
from registry_client.instance import Instance, Removed, ServiceSummary
from registry_client.lack import why_none

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from registry_client.cli.table import Column
    from registry_client.client import RegistryClient
    from registry_client.instance import Filters, NamespaceSummary
    from registry_client.view import View

Named = TypeVar("Named", bound=Instance | ServiceSummary)


@click.command()
@with_common
def namespaces(common: Common) -> None:
    """The namespaces, with the number of their services and instances.

    \b
    registryctl namespaces
    """

    async def ask() -> tuple[Sequence[NamespaceSummary], pb.ResponseHeader]:
        async with common.connect() as registry:
            return await registry.namespaces(), _header(registry)

    found, header = common.ask(ask())
    _warn_of_age(header)
    if common.as_json:
        messages = (pb.NamespaceSummary(**asdict(it)) for it in found)
        say_document({"header": as_dict(header), "namespaces": [as_dict(message) for message in messages]})
        return
    say_table(NAMESPACES, list(map(namespace_row, found)), wide=common.wide)
    if not found:
        complain("nothing is registered")


@click.command()
@with_all_namespaces
@with_common
def services(common: Common, all_namespaces: bool) -> None:
    """The services of the namespace, with the number of their instances.

    \b
    registryctl services
    registryctl services -A -o json
    """

    async def ask() -> tuple[Sequence[ServiceSummary], pb.ResponseHeader]:
        async with common.connect() as registry:
            return await registry.services(all_namespaces=all_namespaces), _header(registry)

    found, header = common.ask(ask())
    _warn_of_age(header)
    if common.as_json:
        messages = (pb.ServiceSummary(**asdict(it)) for it in found)
        say_document({"header": as_dict(header), "services": [as_dict(message) for message in messages]})
        return
    _say_rows(common, SERVICES, service_row, found, with_namespace=all_namespaces)
    if not found:
        complain(f"no service is registered in {common.where(all_namespaces)}")


@click.command()
@click.argument("service", default="")
@with_all_namespaces
@with_filters
@with_common
def instances(common: Common, service: str, filters: Filters, all_namespaces: bool) -> None:
    """The instances of SERVICE; without it, of the whole namespace.

    \b
    registryctl instances player
    registryctl instances player --tag eu --healthy
    registryctl instances -A -o wide

    A terminal that is too narrow for all cuts metadata and tags, and never what other commands need. `-o wide` cuts
    nothing and shows more.
    """

    async def ask() -> tuple[list[Instance], pb.ResponseHeader, str]:
        async with common.connect() as registry:
            found = await registry.list(service, all_namespaces=all_namespaces, **filters)
            header, lack = _header(registry), ""
            if not found and not common.as_json:
                registered = await registry.list(service, all_namespaces=all_namespaces) if filters else ()
                lack = why_none(service or common.where(all_namespaces), registered, filtered=bool(filters))
            return found, header, lack

    found, header, lack = common.ask(ask())
    _warn_of_age(header)
    if common.as_json:
        say_document({"header": as_dict(header), "instances": [as_dict(it.to_proto()) for it in found]})
        return
    _say_instances(common, found, with_namespace=all_namespaces)
    if lack:
        complain(lack)


def _header(registry: RegistryClient) -> pb.ResponseHeader:
    """Of the last answer."""
    header = pb.ResponseHeader(epoch=registry.epoch, revision=registry.revision)
    if registry.stale_for is not None:
        header.stale_for.FromNanoseconds(round(registry.stale_for * 1e9))
    return header


def _warn_of_age(header: pb.ResponseHeader) -> None:
    if header.HasField("stale_for"):
        age_s = header.stale_for.ToNanoseconds() / 1e9
        complain(f"the registry cannot reach its store: this is what it knew {age_s:.1f} s ago")


def _say_instances(common: Common, found: Sequence[Instance], *, with_namespace: bool = False) -> None:
    row, columns = (wide_row, WIDE) if common.wide else (instance_row, INSTANCES)
    _say_rows(common, columns, row, found, with_namespace=with_namespace)


def _say_rows(
    common: Common,
    columns: Sequence[Column],
    row: Callable[[Named], tuple[str, ...]],
    found: Sequence[Named],
    *,
    with_namespace: bool,
) -> None:
    """A row for each, behind its namespace if that is to be shown."""
    if with_namespace:
        say_table((NAMESPACE, *columns), [(it.namespace, *row(it)) for it in found], wide=common.wide)
    else:
        say_table(columns, list(map(row, found)), wide=common.wide)


def say_instance(common: Common, instance: Instance) -> None:
    """One instance, as it is now."""
    if common.as_json:
        say_document({"instance": as_dict(instance.to_proto())})
    else:
        _say_instances(common, [instance])


@click.command()
@click.argument("services", nargs=-1)
@with_all_namespaces
@with_filters
@with_common
def watch(common: Common, services: tuple[str, ...], filters: Filters, all_namespaces: bool) -> None:
    """Every change of SERVICES as it happens, until Ctrl-C; without any, of the whole namespace.

    \b
    registryctl watch player chat
    registryctl watch -A -o json

    Lines begin with the time and +, ~ or -: added, updated, removed (and why). Those that are there already are added
    first. With --output json there is one JSON document per line, and the event `current` after those that were there
    already. While the registry is away the watch goes on and says so.
    """
    told = Told(common, with_namespace=all_namespaces)

    async def follow() -> None:
        async with common.connect() as registry:
            async for view in registry.watch(*services, all_namespaces=all_namespaces, **filters):
                told.view(view, datetime.now().astimezone())

    try:
        run(while_read(follow()))
    except Signalled:
        if not told.anything:
            raise  # else Ctrl-C is how it is meant to end


class Told:
    """What a watch has shown so far, and how it goes on."""

    def __init__(self, common: Common, *, with_namespace: bool = False) -> None:
        self._as_json = common.as_json
        self._with_namespace = with_namespace
        self._stale = False
        self.anything = False

    def view(self, view: View, now: datetime) -> None:
        """Show what is new in it."""
        if self._stale != (view.stale_for is not None):
            self._stale = not self._stale
            self._staleness(view, now)
        changes = view.changes
        for event, found in (("added", changes.added), ("updated", changes.updated), ("removed", changes.removed)):
            for instance in found:
                self._change(event, instance, view, now)
        if not self.anything and self._as_json:
            told = {"event": "current", "revision": str(view.revision), "instances": len(view.by_key)}
            self._document(now, told)
        self.anything = True

    def _change(self, event: str, instance: Instance, view: View, now: datetime) -> None:
        if self._as_json:
            why = {"cause": instance.cause.value} if isinstance(instance, Removed) else {}
            told = {"event": event, "revision": str(view.revision), **why, "instance": as_dict(instance.to_proto())}
            self._document(now, told)
        else:
            text = change_text(event, instance, with_namespace=self._with_namespace)
            say(text, colour=SIGNS[event][1], before=time_text(now))

    def _staleness(self, view: View, now: datetime) -> None:
        if self._as_json:
            fresh = view.stale_for is None
            self._document(
                now, {"event": "fresh"} if fresh else {"event": "stale", "staleFor": f"{view.stale_for:.3f}s"}
            )
        else:
            text = "the registry is away: this is what it last said" if self._stale else "the registry is back"
            say(f"! {text}", colour="magenta", before=time_text(now))

    def _document(self, now: datetime, told: Mapping[str, object]) -> None:
        say_document({"time": now.isoformat(), **told}, indent=None)
