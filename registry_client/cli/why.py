"""SHELL: the command `why`: why an instance gets traffic or none, in the order of what decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry_client.cli.options import with_common, with_filters
from registry_client.cli.show import REFUSED, as_dict, complain, say, say_document, say_table
from registry_client.cli.table import Column
from registry_client.verdicts import Effect

if TYPE_CHECKING:
    from datetime import datetime

    from registry_client.cli.options import Common
    from registry_client.instance import Filters
    from registry_client.verdicts import InstanceVerdict, Reason, ToldClient, Why

_REASONS = tuple(map(Column, ("ABOUT", "TRAFFIC", "WHY")))
_INSTANCES = (*map(Column, ("ID", "ADDRESS", "TRAFFIC", "LEASE-LEFT")), Column("WHY", cut=1))
_CLIENTS = (*map(Column, ("CLIENT", "PEER", "NODE", "IDENTITY", "SINCE", "TOLD", "KNOWS")), Column("TROUBLE", cut=1))
_EFFECTS = {Effect.PASSES: "yes", Effect.STOPS: "no", Effect.WARNS: "look"}


@click.command()
@click.argument("service")
@click.argument("instance_id", metavar="[ID]", default="")
@with_filters
@with_common
@click.pass_context
def why(context: click.Context, /, common: Common, service: str, instance_id: str, filters: Filters) -> None:
    """Why instance ID of SERVICE gets traffic or none; without ID, why the service does, and each of its instances.

    \b
    registryctl why player
    registryctl why player ID --tag eu

    First the verdict, then all that decides, in its order: `no` keeps traffic away, `look` is worth a look. Then who is
    told of the service and when, as far as you may operate it. Of what is not there it tells when it left and why, and
    of what never was which names are like it (exit code 1). Filters are what the client asks for that gets to none.
    """

    async def ask() -> Why:
        async with common.connect() as registry:
            return await registry.why(service, instance_id, **filters)

    found = common.ask(ask())
    if common.as_json:
        say_document(as_dict(found.message))
    else:
        _say(found, wide=common.wide, with_instances=not instance_id)
    if not found.instances and found.left is None:
        context.exit(REFUSED)


def _say(found: Why, *, wide: bool, with_instances: bool) -> None:
    say(found.verdict, colour="green" if found.gets_traffic else "red")
    say("")
    say_table(_REASONS, [_reason_row(it) for it in found.reasons], wide=wide)
    if with_instances and found.instances:
        say("")
        say_table(_INSTANCES, [_instance_row(it) for it in found.instances], wide=wide)
    if found.clients:
        say("")
        say_table(_CLIENTS, [_client_row(it) for it in found.clients], wide=wide)
        if found.client_count > len(found.clients):
            complain(f"{found.client_count} clients are told, of which {len(found.clients)} are shown")


def _reason_row(it: Reason) -> tuple[str, ...]:
    return it.about, _EFFECTS.get(it.effect, "?"), it.text


def _instance_row(it: InstanceVerdict) -> tuple[str, ...]:
    left = "" if it.lease_left_s is None else f"{it.lease_left_s:.1f}s"
    return it.instance.id, it.instance.address, "yes" if it.gets_traffic else "no", left, it.verdict


def _client_row(it: ToldClient) -> tuple[str, ...]:
    knows = "left out" if it.leaves_out else "yes" if it.current else "not yet"
    named = (it.door.value.lower(), it.peer, it.node_id, it.identity)
    return *named, _time(it.connected_at), _time(it.told_at), knows, it.trouble


def _time(at: datetime | None) -> str:
    return "" if at is None else f"{at:%Y-%m-%dT%H:%M:%SZ}"
