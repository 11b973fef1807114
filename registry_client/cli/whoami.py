"""SHELL: the command `whoami`: who one is to the registry, and what one may do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry_client.cli.options import with_common
from registry_client.cli.show import say, say_document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry_client.cli.options import Common
    from registry_client.whoami import WhoAmI


@click.command()
@with_common
def whoami(common: Common) -> None:
    """Who you are to the registry, by your token or certificate, and what you may do.

    \b
    registryctl whoami
    registryctl --token file:token whoami
    """

    async def ask() -> WhoAmI:
        async with common.connect() as registry:
            return await registry.whoami()

    who = common.ask(ask())
    if common.as_json:
        expires = None if who.expires is None else f"{who.expires:%Y-%m-%dT%H:%M:%SZ}"
        names = list(who.names)
        said = {"asks": who.asks, "identity": who.identity, "grants": list(who.grants)}
        say_document({**said, "expires": expires, "peer": who.peer, "names": names})
        return
    for line in _lines(who):
        say(line)


def _lines(who: WhoAmI) -> Iterator[str]:
    if not who.asks:
        yield "the registry asks nobody: everybody may do everything"
    elif who.identity:
        yield who.identity + (f", until {who.expires:%Y-%m-%dT%H:%M:%SZ}" if who.expires else "")
    else:
        yield "nobody that the registry knows"
    if who.names:
        yield f"by a certificate with {', '.join(who.names)}"
    if who.asks:
        yield from (f"may {grant}" for grant in who.grants or ("do nothing",))
