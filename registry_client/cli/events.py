"""SHELL: the command `events`: what became of instances, and why."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

from registry_checks.text import span_s
from registry_client.cli.ends import Signalled, run, while_read
from registry_client.cli.options import with_all_namespaces, with_common
from registry_client.cli.show import as_dict, complain, say, say_document
from registry_client.errors import RegistryUnavailable
from registry_client.event import MOST_EVENTS, Event, EventCause, EventFilters

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from registry_client.cli.options import Common

_T = TypeVar("_T")
# How long after the registry was asked in vain it is asked again.
AGAIN_S = 0.5
_CAME = (EventCause.REGISTERED,)
_LEFT = (EventCause.DEREGISTERED, EventCause.DRAINED, EventCause.REPLACED)
_LOST = (EventCause.EXPIRED, EventCause.UNHEALTHY, EventCause.UNSPECIFIED)
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?")


class When(click.ParamType):  # type: ignore[type-arg]  # generic in newer ones alone
    """How long ago (`10m`, `2h`, `90s`, `1d`), a time of today (`03:00`), or a whole one (`2026-01-31T03:00:00Z`)."""

    name = "WHEN"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        text, now = str(value).strip(), datetime.now(UTC).astimezone().replace(tzinfo=None)
        try:
            if (ago := _span(text)) is not None:
                return now.astimezone(UTC) - ago
            if clock := _CLOCK.fullmatch(text):
                hour, minute, second = (int(it or 0) for it in clock.groups())
                at = now.replace(hour=hour, minute=minute, second=second, microsecond=0)
                # Here a day is as long as clocks say, and only then is it looked up what they meant.
                return (at if at <= now else at - timedelta(days=1)).astimezone(UTC)
            return datetime.fromisoformat(text).astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(f"{text!r:.60} must be like 10m, 2h, 1d, 03:00 or 2026-01-31T03:00:00Z", param, ctx)


def _span(text: str) -> timedelta | None:
    if re.fullmatch(r"\d+(\.\d+)?d", text):
        return timedelta(days=float(text[:-1]))
    found = span_s(text)
    return None if found is None else timedelta(seconds=found)


@click.command()
@click.argument("service", default="")
@click.argument("id", default="", metavar="[ID]")
@click.option("--since", type=When(), help="Not before: 10m, 2h, 1d (ago), 03:00, 2026-01-31T03:00:00Z.")
@click.option("--until", type=When(), help="Not after; written as --since.")
@click.option(
    "--cause", "causes", multiple=True, type=click.Choice(list(EventCause), case_sensitive=False), metavar="CAUSE",
    help="For this cause, such as expired or updated; repeatable, any.",
)  # fmt: skip
@click.option("--identity", default="", help="By this identity.")
@click.option(
    "--limit", type=click.IntRange(1, MOST_EVENTS), default=100, show_default=True, help="The latest so many."
)
@click.option("--follow", "-f", is_flag=True, help="Go on with what happens from now on, until Ctrl-C.")
@with_all_namespaces
@with_common
def events(
    common: Common,
    service: str,
    id: str,  # noqa: A002 - as it is called
    all_namespaces: bool,
    limit: int,
    follow: bool,
    causes: tuple[str, ...],
    identity: str,
    since: datetime | None,
    until: datetime | None,
) -> None:
    """What became of the instances of SERVICE, or of the one with ID: who came, changed, left, why and by whom.

    \b
    registryctl events player --since 10m --follow
    registryctl events player ID -o json

    The oldest first. A line begins with the time of this machine, `~` before it if it may have been earlier (the
    registry was not there), and the cause. With --output json there is one document, or with --follow one a line."""
    if follow and until:
        raise click.UsageError("--until and --follow: what comes is after that")
    filters = EventFilters(id=id, causes=causes, identity=identity, since=since, until=until)
    told = EventLines(common, with_namespace=all_namespaces)

    async def ask() -> Sequence[Event]:
        async with common.connect() as registry:
            return await registry.events(service, all_namespaces=all_namespaces, limit=limit, **filters)

    async def go_on() -> None:
        async with common.connect() as registry:
            found = await _once_there(
                lambda: registry.events(service, all_namespaces=all_namespaces, limit=limit, **filters)
            )
            told.all(found)
            news = registry.watch_events(
                service, all_namespaces=all_namespaces, from_revision=found.revision, **filters
            )
            async for event in news:
                told.one(event)

    if follow:
        _until_ended(go_on(), told)
        return
    found = common.ask(ask())
    if common.as_json:
        say_document({"events": [document_of(it) for it in found]})
        return
    told.all(found)
    if not found:
        which = " that fits" if service or any(filters.values()) else ""
        complain(f"nothing happened{which}, as far as the registry remembers")


def _until_ended(following: Coroutine[Any, Any, None], told: EventLines) -> None:
    try:
        run(while_read(following))
    except Signalled:
        if not told.has_begun:
            raise  # else Ctrl-C is how it is meant to end


async def _once_there(ask: Callable[[], Awaitable[_T]]) -> _T:
    """The answer, however long the registry is away."""
    while True:
        try:
            return await ask()
        except RegistryUnavailable:
            await asyncio.sleep(AGAIN_S)


class EventLines:
    """What was shown so far, and how it goes on: no event twice."""

    def __init__(self, common: Common, *, with_namespace: bool) -> None:
        self._as_json = common.as_json
        self._with_namespace = with_namespace
        self._wide = common.wide
        self._shown: set[tuple[object, ...]] = set()
        self._last: Event | None = None
        self.has_begun = False

    def all(self, found: Sequence[Event]) -> None:
        """Show them."""
        self.has_begun = True
        for event in found:
            self.one(event)
        self._shown = set(map(_name, found))
        self._last = found[-1] if found else None

    def one(self, event: Event) -> None:
        """Show it, unless it was shown among all, or left out there because it is older."""
        if _name(event) in self._shown or self._is_older(event):
            return
        if event.gap:
            complain("events before this one are forgotten")
        if self._as_json:
            say_document(document_of(event), indent=None)
        else:
            say(line_of(event, with_namespace=self._with_namespace), colour=colour_of(event), before=_time(event))

    def _is_older(self, event: Event) -> bool:
        """Than what was shown last, of what one write changed."""
        last = self._last
        if last is None or (last.epoch, last.revision) != (event.epoch, event.revision):
            return False
        return event.number < last.number


def _name(event: Event) -> tuple[object, ...]:
    """By which it is known, whoever tells it."""
    return event.epoch, event.revision, event.key, event.cause


def document_of(event: Event) -> dict[str, object]:
    """As proto3's JSON has it."""
    return as_dict(event.to_proto())


def line_of(event: Event, *, with_namespace: bool = False) -> str:
    """What happened, to whom, by whom, and what else is to be said."""
    space = f"{event.namespace}/" if with_namespace else ""
    cause = "gone" if event.cause is EventCause.UNSPECIFIED else event.cause.value.lower().replace("_", " ")
    by = " from ".join(filter(None, (event.identity, event.peer)))
    who = f" by {by}" if event.identity else f" from {event.peer}" if event.peer else ""
    return f"{space}{event.service}/{event.id} {cause}{who}" + (f": {event.detail}" if event.detail else "")


def _time(event: Event) -> str:
    at = event.at.astimezone()
    return f"{'~' if event.late else ' '}{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03} "


def colour_of(event: Event) -> str:
    """Of its line."""
    if event.cause in _LOST:
        return "red"
    if event.cause in _LEFT:
        return "magenta"
    return "green" if event.cause in _CAME else "yellow"
