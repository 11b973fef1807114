"""SHELL: the commands `checks put|get|list|delete`: how services are looked at whose instances bring no checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry_checks.text import written
from registry_client.check_rules import EVERY, CheckRule
from registry_client.cli.options import with_all_namespaces, with_common
from registry_client.cli.registering import checks_of
from registry_client.cli.show import as_dict, complain, say, say_document, say_table
from registry_client.cli.table import Column

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from registry_client.cli.options import Common

_RULES = (Column("NAMESPACE"), Column("SERVICE"), Column("CHECKS"))


@click.group()
def checks() -> None:
    """Checks by service, for instances that bring none: rules that hold as soon as they are put.

    \b
    registryctl checks put player --check http:/healthz

    The nearest one holds: of namespace and service, of the whole namespace (SERVICE is "*"), of the service in all
    namespaces (-A), of everything ("*" -A). In a shell, quote the star.
    """


@checks.command()
@click.argument("service")
@click.option(
    "--check", "given", multiple=True, metavar="CHECK", help="http:/healthz, tcp, grpc:SERVICE, …; repeatable."
)
@click.option("--none", "is_none", is_flag=True, help="These instances get no checks, whatever wider rules say.")
@click.option("--check-interval", type=float, metavar="SECONDS", help="Of all checks. [5]")
@click.option("--deregister-after", type=float, metavar="SECONDS", help="Remove who was ill for so long.")
@with_all_namespaces
@with_common
def put(
    common: Common,
    service: str,
    given: Iterable[str],
    is_none: bool,
    check_interval: float | None,
    deregister_after: float | None,
    all_namespaces: bool,
) -> None:
    """Have the instances of SERVICE that bring no checks looked at like this, also those that are there.

    \b
    registryctl checks put player --check http:/healthz --check-interval 2
    registryctl checks put '*' --all-namespaces --check tcp
    registryctl checks put chat --none
    """
    looked = checks_of(given, check_interval, deregister_after)
    if bool(looked) == is_none:
        raise click.UsageError("name one or more of --check, or --none for no checks")

    async def ask() -> CheckRule:
        async with common.connect() as registry:
            return await registry.check_rules.put(service, looked, namespace=_space(all_namespaces))

    _say(common, common.ask(ask()))


@checks.command()
@click.argument("service")
@with_all_namespaces
@with_common
def get(common: Common, service: str, all_namespaces: bool) -> None:
    """Show the rule that was put for SERVICE.

    \b
    registryctl checks get player
    """

    async def ask() -> CheckRule:
        async with common.connect() as registry:
            return await registry.check_rules.get(service, namespace=_space(all_namespaces))

    _say(common, common.ask(ask()))


@checks.command("list")
@with_common
def list_(common: Common) -> None:
    """All rules, of every namespace.

    \b
    registryctl checks list
    """

    async def ask() -> Sequence[CheckRule]:
        async with common.connect() as registry:
            return await registry.check_rules.list()

    rules = common.ask(ask())
    if common.as_json:
        say_document({"rules": [as_dict(rule.to_proto()) for rule in rules]})
        return
    say_table(_RULES, [_row(rule) for rule in rules], wide=common.wide)
    for rule in rules:
        _complain(rule)


@checks.command()
@click.argument("service")
@with_all_namespaces
@with_common
def delete(common: Common, service: str, all_namespaces: bool) -> None:
    """Remove the rule for SERVICE; what then holds is the next wider one, or the configuration of the servers.

    \b
    registryctl checks delete player
    """

    async def ask() -> None:
        async with common.connect() as registry:
            await registry.check_rules.delete(service, namespace=_space(all_namespaces))

    common.ask(ask())
    if common.as_json:
        say_document({})
    else:
        say(f"{service}: the rule is removed")


def _space(all_namespaces: bool) -> str:
    return EVERY if all_namespaces else ""


def _say(common: Common, rule: CheckRule) -> None:
    if common.as_json:
        say_document({"rule": as_dict(rule.to_proto())})
    else:
        say_table(_RULES, [_row(rule)], wide=common.wide)
        _complain(rule)


def _row(rule: CheckRule) -> tuple[str, ...]:
    looked = "; ".join(written(check.to_proto()) for check in rule.checks)
    return rule.namespace, rule.service, looked or ("?" if rule.flaw else "none")


def _complain(rule: CheckRule) -> None:
    if rule.flaw:
        complain(f"the rule for {rule.namespace}/{rule.service} is not followed: {rule.flaw}")
