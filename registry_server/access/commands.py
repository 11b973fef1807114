"""SHELL: the command `registry-server token new`: makes a token, and the lines of the file that let its holder in."""

import json
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import click

from registry_api.limits import NAME, NAME_RULE
from registry_server.access.grants import BadGrant, Grant
from registry_server.access.identities import TOKEN_PREFIX, Token

TOKEN_BYTES = 32
MAX_DAYS = 36_500


@click.group("token")
def token_commands() -> None:
    """Make tokens by which callers show who they are: docs/security.md."""


@token_commands.command("new")
@click.argument("name")
@click.option("--grant", "grants", multiple=True, help="Such as 'register default/player'; may be given again.")
@click.option("--days", type=click.IntRange(1, MAX_DAYS), help="After how many days it expires. [never]")
def token_new(name: str, grants: tuple[str, ...], days: int | None) -> None:
    """Print a new token for the identity NAME, once, and the lines with its hash for the file of the server."""
    if not NAME.fullmatch(name):
        raise click.UsageError(f"NAME {NAME_RULE}.")
    try:
        granted = [str(Grant.parse(it)) for it in grants]
    except BadGrant as error:
        raise click.UsageError(f"--grant {error}.") from None
    token = TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    expires = None if days is None else datetime.now(UTC) + timedelta(days=days)
    click.echo("\n".join((token, *_lines(name, Token.of(token), granted, expires))))


def _lines(name: str, token: Token, grants: list[str], expires: datetime | None) -> Iterator[str]:
    hash_ = f'"{token}"'
    if expires is not None:
        hash_ = f"{{ hash = {hash_}, expires = {expires:%Y-%m-%dT%H:%M:%SZ} }}"
    yield "# The token is shown this once. In the file of the server, beside other tokens that are still in use:"
    yield f"[access.identities.{name if name.replace('-', '_').isidentifier() else json.dumps(name)}]"
    yield f"tokens = [{hash_}]"
    yield f"grants = {json.dumps(grants)}" if grants else '# grants = ["read */*"]'
