"""SHELL: the command `ready`: whether the registry serves, for probes and scripts."""

from __future__ import annotations

import click

from registry_client.cli.options import Common, with_common
from registry_client.cli.show import REFUSED, end, say, say_document


@click.command()
@click.argument("service", default="")
@with_common
def ready(common: Common, service: str) -> None:
    """Whether the registry serves; with SERVICE, whether an instance of that gets traffic. For probes and scripts.

    It is asked by grpc.health.v1. Exit code 0: it does; 1: it does not; 3: no address answers.

    \b
    registryctl ready && ./game-server
    registryctl ready player --timeout 1
    """

    async def ask() -> bool:
        async with common.connect() as registry:
            return await registry.serving(service)

    is_ready = common.ask(ask())
    if common.as_json:
        say_document({"serving": is_ready})
    elif is_ready:
        say("serving")
    if not is_ready:
        end(REFUSED, f"{service} has no instance that gets traffic" if service else "the registry does not serve")
