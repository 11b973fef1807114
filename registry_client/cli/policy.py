"""SHELL: the commands `policy put|get|list|delete|explain`: how the traffic of services is to be treated."""

from __future__ import annotations

import json
from typing import IO, TYPE_CHECKING, Any

import click
from google.protobuf.json_format import ParseDict, ParseError

from registry_api.registry.v1 import policies_pb2 as pb
from registry_client.cli.options import with_all_namespaces, with_common, with_common_but_timeout
from registry_client.cli.show import as_dict, complain, say, say_document, say_table
from registry_client.cli.table import Column
from registry_client.policy import MAX_UINT32, Balancing, RetryCode, TrafficPolicy, parts_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from registry_client.cli.options import Common
    from registry_client.policy import Verdict

_POLICIES = (Column("NAMESPACE"), Column("SERVICE"), Column("POLICY"))
_VERDICTS = (Column("CLIENT"), Column("PART"), Column("FOLLOWED"), Column("NOTE", 1))
_LONGEST_S = 1e9
# Of a weight: more than the largest has, and few enough for a number.
_MAX_DIGITS = 20
# Of a file: more than any policy takes, and few enough for any memory.
_MAX_CHARS = 1_000_000
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Span(click.ParamType):  # type: ignore[type-arg]  # generic in newer ones alone
    """A span of time: 2s, 500ms, 1m; a bare number is seconds."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value)
        unit = next((unit for unit in _UNITS if text.endswith(unit)), "")
        try:
            found = float(text.removesuffix(unit)) * _UNITS.get(unit, 1.0)
        except ValueError:
            self.fail(f"{text!r} is no span of time, such as 2s or 500ms", param, ctx)
        if not abs(found) <= _LONGEST_S:  # which is so for nan, too
            self.fail(f"{text!r} is no span of time that anybody waits for", param, ctx)
        return found


class Share(click.ParamType):  # type: ignore[type-arg]  # generic in newer ones alone
    """A part of the traffic and its share: version=2.0:10, tag=canary:10, rest:90."""

    name = "PART:WEIGHT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        part, _, weight = str(value).rpartition(":")
        if not weight.isdecimal() or len(weight) > _MAX_DIGITS or not part:
            self.fail(f"{value!r} must be PART:WEIGHT, such as version=2.0:10, tag=canary:10 or rest:90", param, ctx)
        return part, int(weight)


def _names(kind: Iterable[str]) -> click.Choice[str]:
    return click.Choice([name.lower() for name in kind], case_sensitive=False)


@click.group()
def policy() -> None:
    """How the traffic of a service is to be treated, which all of its callers follow at once.

    \b
    registryctl policy put player --timeout 2s

    `registry://` channels do, and xDS clients as far as they can: see `policy explain`.
    """


@policy.command()
@click.argument("service")
@click.option(
    "--file", "-f", "file", type=click.File(), help="A policy as JSON, as `get -o json` shows it; - is stdin."
)
@click.option("--balancing", "-b", type=_names(Balancing), help="Which instance a call goes to.")
@click.option("--hash-header", metavar="KEY", help="With ring_hash: the metadata key to go by.")
@click.option("--timeout", "within", type=Span(), help="Of each call with all its attempts: 2s, 500ms.")
@click.option(
    "--retries", type=click.IntRange(0, 4), metavar="N", help="How many more times a call that failed is tried."
)
@click.option("--retry-on", multiple=True, type=_names(RetryCode), help="After which status; repeatable. [unavailable]")
@click.option(
    "--max-requests", type=click.IntRange(1, MAX_UINT32), metavar="N", help="Calls under way from one client, at most."
)
@click.option(
    "--eject-after", type=click.IntRange(1, MAX_UINT32), metavar="N", help="An instance that failed so often in a row."
)
@click.option(
    "--eject-failing", type=click.IntRange(1, 100), metavar="PERCENT", help="One of whose calls so many fail."
)
@click.option("--split", type=Share(), multiple=True, help="version=2.0:10, tag=canary:10, rest:90; repeatable.")
@with_common_but_timeout
def put(common: Common, service: str, file: IO[str] | None, split: Sequence[tuple[str, int]], **given: Any) -> None:
    """Set the policy of SERVICE, whole, in place of the one that was there.

    \b
    registryctl policy put player --balancing least_request --timeout 2s --retries 3
    registryctl policy put player --split version=1.0:90 --split version=2.0:10

    Options go before what stands in the file.
    """
    found = _read(file, service) if file is not None else pb.Policy(service=service)
    _fill_in(found, split, given)
    if found == pb.Policy(namespace=found.namespace, service=service):
        raise click.UsageError("nothing is asked for: name an option or a file")
    wanted = TrafficPolicy.from_proto(found)

    async def ask() -> TrafficPolicy:
        async with common.connect() as registry:
            return await registry.policy.put(wanted)

    _say(common, common.ask(ask()))


@policy.command()
@click.argument("service")
@with_common
def get(common: Common, service: str) -> None:
    """Show the policy of SERVICE.

    \b
    registryctl policy get player -o json
    """

    async def ask() -> TrafficPolicy:
        async with common.connect() as registry:
            return await registry.policy.get(service)

    _say(common, common.ask(ask()))


@policy.command("list")
@with_all_namespaces
@with_common
def list_(common: Common, all_namespaces: bool) -> None:
    """All policies.

    \b
    registryctl policy list -A
    """

    async def ask() -> Sequence[TrafficPolicy]:
        async with common.connect() as registry:
            return await registry.policy.list(all_namespaces=all_namespaces)

    found = common.ask(ask())
    if common.as_json:
        say_document({"policies": [_shown(it) for it in found]})
        return
    say_table(_POLICIES, [_row(it) for it in found], wide=common.wide)
    if not found:
        complain(f"no service of {common.where(all_namespaces)} has a policy")
    for it in found:
        _complain(it)


@policy.command()
@click.argument("service")
@with_common
def delete(common: Common, service: str) -> None:
    """Remove the policy of SERVICE: its traffic is as it is without one.

    \b
    registryctl policy delete player
    """

    async def ask() -> None:
        async with common.connect() as registry:
            await registry.policy.delete(service)

    common.ask(ask())
    if common.as_json:
        say_document({})
    else:
        say(f"{service}: the policy is removed")


@policy.command()
@click.argument("service")
@with_common
def explain(common: Common, service: str) -> None:
    """For each kind of client, what it follows of the policy of SERVICE, and what it does in place of the rest.

    \b
    registryctl policy explain player
    """

    async def ask() -> tuple[Sequence[Verdict], TrafficPolicy | None]:
        async with common.connect() as registry:
            verdicts = await registry.policy.explain(service)
            return verdicts, None if verdicts else await registry.policy.get(service)

    verdicts, silent = common.ask(ask())
    if common.as_json:
        told = [{"client": it.client, "field": it.field, "follows": it.follows, "note": it.note} for it in verdicts]
        say_document({"verdicts": told})
        return
    say_table(_VERDICTS, [(it.client, it.field, it.follows.lower(), it.note) for it in verdicts], wide=common.wide)
    if silent is not None:
        _complain(silent)


# ---- within


def _read(file: IO[str], service: str) -> pb.Policy:
    """The policy in a file. Raises UsageError for what is none, or that of another service."""
    try:
        found = ParseDict(_object(json.loads(_text_of(file))), pb.Policy())
        _nothing_is_lost(found)
    except (ValueError, ParseError, AttributeError, TypeError, RecursionError) as error:
        raise click.UsageError(f"--file: no policy: {' '.join(str(error).split())}") from None
    if found.service not in ("", service):
        raise click.UsageError(f"--file: has the policy of {found.service!r}, not of {service!r}")
    found.service = service
    found.ClearField("namespace")  # where it goes is said by --namespace
    found.ClearField("revision")
    found.ClearField("flaw")
    return found


def _text_of(file: IO[str]) -> str:
    text = file.read(_MAX_CHARS + 1)
    if len(text) > _MAX_CHARS:
        raise ParseError(f"it has more than {_MAX_CHARS} characters")
    return text.removeprefix("\ufeff")  # as some editors of Windows begin


def _object(said: object) -> dict[str, object]:
    """The policy, which may stand in what `get` shows."""
    within = said.get("policy", said) if isinstance(said, dict) else said
    if not isinstance(within, dict):
        raise ParseError("it must be a JSON object")
    return within


def _nothing_is_lost(found: pb.Policy) -> None:
    """Raises ParseError for what JSON can say and no policy has, and which would be left out without a word."""
    if found.balancing not in pb.Policy.Balancing.values():
        raise ParseError(f"balancing has no value {found.balancing}")
    if codes := [code for code in found.retries.codes if not code or code not in pb.Retries.Code.values()]:
        raise ParseError(f"retries.codes has no value {codes[0]}")
    for index, part in enumerate(found.split):
        kind = part.WhichOneof("fits")
        if kind is not None and not getattr(part, kind):
            raise ParseError(f"split[{index}].{kind} must not be empty")


def _fill_in(found: pb.Policy, split: Sequence[tuple[str, int]], given: dict[str, Any]) -> None:
    """Put the options in, in place of what was there."""
    if given["balancing"]:
        found.balancing = pb.Policy.Balancing.Value(given["balancing"].upper())
        if found.balancing != pb.Policy.RING_HASH:
            found.hash_header = ""
    if given["hash_header"] is not None:
        found.hash_header = given["hash_header"]
    if given["within"] is not None:
        found.timeout.FromNanoseconds(round(given["within"] * 1e9))
    if given["max_requests"]:
        found.circuit_breaking.max_requests = given["max_requests"]
    if given["eject_after"]:
        found.outlier_detection.consecutive_failures = given["eject_after"]
    if given["eject_failing"]:
        found.outlier_detection.failure_percentage.threshold = given["eject_failing"]
    if split:
        del found.split[:]
        found.split.extend(part.to_proto() for name, weight in split for part in parts_of({name: weight}))
    _retry(found, given["retries"], given["retry_on"])


def _retry(found: pb.Policy, attempts: int | None, codes: Sequence[str]) -> None:
    if attempts == 0:
        if codes:
            raise click.UsageError("--retry-on needs --retries")
        found.ClearField("retries")
    elif attempts:
        found.retries.attempts = attempts
    if codes:
        if not found.HasField("retries"):
            raise click.UsageError("--retry-on needs --retries")
        del found.retries.codes[:]
        found.retries.codes.extend(pb.Retries.Code.Value(code.upper()) for code in codes)


def _say(common: Common, it: TrafficPolicy) -> None:
    if common.as_json:
        say_document({"policy": _shown(it)})
    else:
        say_table(_POLICIES, [_row(it)], wide=common.wide)
        _complain(it)


def _shown(it: TrafficPolicy) -> dict[str, object]:
    """As JSON has it, what is not set left out: it can be put again."""
    made = it.to_proto()
    made.revision, made.flaw = it.revision, it.flaw
    shown = as_dict(made)
    return {name: value for name, value in shown.items() if name in _ALWAYS or value not in ("", [], "0", _NOTHING)}


_ALWAYS = ("namespace", "service", "revision")
_NOTHING = "BALANCING_UNSPECIFIED"


def _row(it: TrafficPolicy) -> tuple[str, str, str]:
    return it.namespace, it.service, "?" if it.flaw else "; ".join(_words(it)) or "nothing"


def _words(it: TrafficPolicy) -> Iterable[str]:
    """The policy in short."""
    if it.balancing:
        yield it.balancing.lower() + (f" by {it.hash_header}" if it.hash_header else "")
    if it.timeout is not None:
        yield f"timeout {it.timeout:g}s"
    if it.retries is not None:
        yield f"retries {it.retries.attempts} on {', '.join(code.lower() for code in it.retries.codes)}"
    if it.circuit_breaking is not None:
        yield f"at most {it.circuit_breaking} calls"
    if it.outlier_detection is not None:
        yield f"ejects {', '.join(_rules(it))}"
    if it.split:
        yield f"split {' '.join(map(str, it.split))}"


def _rules(it: TrafficPolicy) -> Iterable[str]:
    found = it.outlier_detection
    if found is not None and found.consecutive_failures:
        yield f"after {found.consecutive_failures} failures"
    if found is not None and found.failure_percentage is not None:
        yield f"at {found.failure_percentage.threshold}% failures"
    if found is not None and found.success_rate is not None:
        yield "by success rate"


def _complain(it: TrafficPolicy) -> None:
    if it.flaw:
        complain(f"the policy of {it.namespace}/{it.service} is not followed: {it.flaw}")
