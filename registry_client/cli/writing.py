"""SHELL: the commands that change what is registered: `update`, `drain`, `deregister`."""

from __future__ import annotations

from typing import Any

import click

from registry_api.limits import MAX_WEIGHT
from registry_client.cli.options import DRAIN, Common, Pair, one_of, with_common
from registry_client.cli.reading import say_instance
from registry_client.cli.show import say, say_document
from registry_client.health import Health
from registry_client.instance import Fields, Instance, Status


@click.command()
@click.argument("service")
@click.argument("instance_id", metavar="ID")
@click.option("--weight", type=click.IntRange(0, MAX_WEIGHT))
@click.option("--status", type=one_of(Status))
@click.option("--health", type=one_of(Health))
@click.option("--version")
@click.option("--tag", "tags", multiple=True, help="Repeatable; all tags together replace the former ones.")
@click.option("--no-tags", is_flag=True, help="Remove all tags.")
@click.option("--metadata", "--meta", multiple=True, type=Pair(), help="Repeatable; replaces all that was there.")
@click.option("--no-metadata", is_flag=True, help="Remove all metadata.")
@with_common
def update(common: Common, service: str, instance_id: str, **options: Any) -> None:
    """Change what is named of instance ID of SERVICE, and leave the rest as it is.

    \b
    registryctl update player ID --weight 5 --tag eu --tag ranked
    registryctl update player ID --status ACTIVE
    """
    tags = [] if options.pop("no_tags") else list(options["tags"]) or None
    metadata = {} if options.pop("no_metadata") else dict(options["metadata"]) or None
    fields = {**options, "tags": tags, "metadata": metadata}
    named: Any = {name: value for name, value in fields.items() if value is not None}
    if not named:
        raise click.UsageError("name one or more of --weight, --status, --health, --version, --tag, --metadata")
    _update(common, service, instance_id, named)


@click.command()
@click.argument("service")
@click.argument("instance_id", metavar="ID")
@with_common
def drain(common: Common, service: str, instance_id: str) -> None:
    """Take instance ID of SERVICE out of the traffic: what it has begun it finishes, nothing new comes.

    \b
    registryctl drain player ID

    It stays registered, as DRAINING, until its owner leaves; `update --status ACTIVE` puts it back. To have it removed
    after a while, use `deregister --drain SECONDS`.
    """
    _update(common, service, instance_id, Fields(status=Status.DRAINING))


def _update(common: Common, service: str, instance_id: str, fields: Fields) -> None:
    async def ask() -> Instance:
        async with common.connect() as registry:
            return await registry.update(service, instance_id, **fields)

    say_instance(common, common.ask(ask()))


@click.command()
@click.argument("service")
@click.argument("instance_id", metavar="ID")
@click.option("--drain", type=DRAIN, default=0.0, metavar="SECONDS", help="Stay that long as DRAINING.")
@with_common
def deregister(common: Common, service: str, instance_id: str, drain: float) -> None:
    """Remove instance ID of SERVICE. An owner that is alive registers it again: see `drain`.

    \b
    registryctl deregister player ID --drain 30
    """

    async def ask() -> int:
        async with common.connect() as registry:
            return await registry.deregister(service, instance_id, drain=drain)

    removed = common.ask(ask())
    if common.as_json:
        say_document({"removed": removed})
    else:
        say(f"{service}/{instance_id} " + (f"leaves in {drain:g} s" if drain else "is removed"))
