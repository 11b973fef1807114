"""SHELL: the command `health`: how well services are, what checks found, and whether the registry can tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry_client.cli.options import with_common
from registry_client.cli.show import as_dict, complain, say_document, say_table
from registry_client.cli.table import Column

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from registry_client.cli.options import Common
    from registry_client.health import Prober
    from registry_client.instance import Instance, ServiceSummary

_SERVICES = tuple(map(Column, ("SERVICE", "INSTANCES", "HEALTHY", "UNHEALTHY", "CRITICAL", "UNKNOWN", "RATE")))
_CHECKS = (*map(Column, ("ID", "ADDRESS", "HEALTH", "CHECK", "FOUND", "FAILURES", "SINCE")), Column("OUTPUT", cut=1))


@click.command()
@click.argument("service", default="")
@with_common
def health(common: Common, service: str) -> None:
    """How well each service of the namespace is; with SERVICE, what the checks of its instances found.

    \b
    registryctl health
    registryctl health player

    FOUND is the health by that check, FAILURES in a row and OUTPUT are as of then, and SINCE is when.
    """

    async def ask() -> tuple[Sequence[Instance], Sequence[ServiceSummary], Sequence[Prober]]:
        async with common.connect() as registry:
            found = await registry.list(service) if service else ()
            return found, () if service else await registry.services(), await registry.probers()

    instances, services, probers = common.ask(ask())
    if common.as_json:
        _say_document(instances, services, probers)
        return
    for prober in probers:
        if prober.cut_off_at is not None:
            since = f"{prober.cut_off_at:%Y-%m-%dT%H:%M:%SZ}"
            complain(f"server {prober.name} takes itself for cut off since {since}, and reports nobody it looks at")
    if service:
        say_table(_CHECKS, [row for it in instances for row in _check_rows(it)], wide=common.wide)
    else:
        say_table(_SERVICES, list(map(_service_row, services)), wide=common.wide)
    if not (instances or services):
        complain(f"no {service or 'service'} is registered in namespace {common.namespace}")


def _service_row(it: ServiceSummary) -> tuple[str, ...]:
    unknown = it.instances - it.healthy - it.unhealthy - it.critical
    numbers = (it.instances, it.healthy, it.unhealthy, it.critical, unknown)
    return it.service, *map(str, numbers), f"{it.healthy / it.instances:.0%}" if it.instances else ""


def _check_rows(it: Instance) -> Iterator[tuple[str, ...]]:
    """A row for each check; one for an instance that has none."""
    head = (it.id, it.address, it.health.value)
    results = {result.name: result for result in it.check_results}
    for check in it.checks:
        found = results.get(check.name)
        if found is None:
            yield (*head, check.name, "", "", "", "")
        else:
            since = "" if found.checked_at is None else f"{found.checked_at:%Y-%m-%dT%H:%M:%SZ}"
            yield (*head, check.name, found.health.value, str(found.failures), since, found.output)
    if not it.checks:
        yield (*head, "", "", "", "", "")


def _say_document(instances: Sequence[Instance], services: Sequence[ServiceSummary], probers: Sequence[Prober]) -> None:
    told = {
        "instances": [as_dict(it.to_proto()) for it in instances],
        "services": [as_dict(it.to_proto()) for it in services],
        "probers": [as_dict(it.to_proto()) for it in probers],
    }
    say_document({name: found for name, found in told.items() if found or name == "probers"})
