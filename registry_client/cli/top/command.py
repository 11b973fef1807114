"""SHELL: the command `top`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import datetime
from typing import TYPE_CHECKING

import click

from registry_client.cli.ends import Signalled, run, while_read
from registry_client.cli.events import colour_of, line_of
from registry_client.cli.options import Common, Seconds, with_all_namespaces, with_common
from registry_client.cli.show import as_dict, say, say_document, say_table, screen
from registry_client.cli.table import Column
from registry_client.cli.top.board import MOST_EVENTS, Board, Happening
from registry_client.cli.top.columns import Moment
from registry_client.cli.top.screen import Screen
from registry_client.cli.top.viewer import Standing, Viewer
from registry_client.errors import RegistryError, RegistryUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from rich.live import Live

    from registry_client.client import RegistryClient
    from registry_client.event import Event
    from registry_client.watcher import Watch

INTERVAL_S = 1.0
_LONGEST_S = 3600.0


@click.command()
@click.argument("services", nargs=-1)
@click.option("--once", is_flag=True, help="Show it once, as lines, and end; that is so in a pipe, too.")
@click.option(
    "--interval", type=Seconds(_LONGEST_S, open_min=True), metavar="SECONDS",
    help=f"From one picture to the next; in a pipe, go on with one after the other. [{INTERVAL_S:g}]",
)  # fmt: skip
@with_all_namespaces
@with_common
def top(common: Common, services: tuple[str, ...], once: bool, interval: float | None, all_namespaces: bool) -> None:
    """SERVICES as they are and change, on the whole terminal; without any, those of the namespace.

    \b
    registryctl top
    registryctl top player --interval 0.5
    registryctl top -A --once -o json

    Of one service, or with the Enter key, its instances are shown. CHANGES/S is over the last ten seconds, CHANGED how
    long ago the last change was, OLDEST and NEWEST since when instances are registered. While the registry is away,
    what it last said stays there. Keys: q ends it, s sorts by the next column, r turns the order round.
    """
    watching = Watching(common, services, all_namespaces=all_namespaces)
    live = None if once or common.as_json else screen()
    try:
        if live is not None:
            run(watching.on_screen(live, interval or INTERVAL_S))
        else:
            run(while_read(watching.in_lines(None if once else interval)))
    except Signalled:
        if not watching.anything:
            raise  # else Ctrl-C is how it is meant to end


class Watching:
    """Follows what is asked for, and shows it."""

    def __init__(self, common: Common, services: Sequence[str], *, all_namespaces: bool) -> None:
        self._common = common
        self._services = services
        self._all = all_namespaces
        self._board = Board()
        self._woken = asyncio.Event()
        self._space = "all namespaces" if all_namespaces else f"namespace {common.namespace}"
        name = (common.namespace, services[0]) if len(services) == 1 and not all_namespaces else None
        self._viewer = Viewer(self._board, all_namespaces, name)
        self._is_over = False
        self.anything = False

    async def on_screen(self, live: Live, interval_s: float) -> None:
        """Until a key ends it, or it is cancelled."""
        async with self._followed(with_events=True) as (watch, following):
            following.add_done_callback(lambda _: self._woken.set())
            with Screen(live, self._press, self._woken.set) as shown:
                while not (self._is_over or following.done()):
                    self._woken.clear()
                    shown.draw(self._viewer.lines(*shown.size, _moment(), self._state(watch, shown.note)))
                    self.anything = self._board.view is not None
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(interval_s):
                            await self._woken.wait()

    def _press(self, key: str) -> None:
        self._is_over = not self._viewer.press(key) or self._is_over

    async def in_lines(self, interval_s: float | None) -> None:
        """One picture, or one after the other. Raises RegistryUnavailable without an answer."""
        async with self._followed() as (watch, following):
            await self._answered(watch, following)
            self._say(watch, indent=2 if interval_s is None else None)
            while interval_s is not None and not following.done():
                await asyncio.wait([following], timeout=interval_s)
                if not self._common.as_json:
                    say("")
                self._say(watch, indent=None)

    async def _answered(self, watch: Watch, following: asyncio.Task[None]) -> None:
        first = asyncio.create_task(self._woken.wait())
        timeout_s = self._common.timeout
        await asyncio.wait([first, following], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        first.cancel()
        if following.done():
            following.result()
        if self._board.view is None:
            why = watch.trouble or "no answer yet"
            raise RegistryUnavailable(f"nothing was heard of the registry within {timeout_s:g} s: {why}")

    @contextlib.asynccontextmanager
    async def _followed(self, *, with_events: bool = False) -> AsyncIterator[tuple[Watch, asyncio.Task[None]]]:
        """The watch, and the task that keeps the board up with it; raises what ends that before its time."""
        async with (
            self._common.connect() as registry,
            registry.watch(*self._services, all_namespaces=self._all) as watch,
        ):
            following = asyncio.create_task(self._follow(watch))
            tasks = [following, *([asyncio.create_task(self._remember(registry))] if with_events else [])]
            try:
                yield watch, following
                if following.done():
                    following.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, watch: Watch) -> None:
        async for view in watch:
            is_first = self._board.view is None
            self._board.take(view, time.monotonic(), datetime.now().astimezone())
            if is_first:
                self._woken.set()

    async def _remember(self, registry: RegistryClient) -> None:
        """What happened, as the registry's history tells it; where it does not, the board has what the views show."""
        service = self._services[0] if len(self._services) == 1 else ""
        known: Sequence[Event] = ()
        try:
            with contextlib.suppress(RegistryUnavailable):
                known = await registry.events(service, all_namespaces=self._all, limit=MOST_EVENTS)
                self._board.has_history = True
                self._board.events.clear()  # it knows better what the first views have shown
            for event in known:
                self._tell(event)
            told = set(map(_event_name, known))
            begin = known[-1].revision if known else registry.revision
            async for event in registry.watch_events(service, all_namespaces=self._all, from_revision=begin):
                if _event_name(event) not in told:
                    self._tell(event)
        except RegistryError:  # it is not for us, or this registry is too old
            pass
        finally:
            self._board.has_history = False

    def _tell(self, event: Event) -> None:
        if not self._services or event.service in self._services:
            self._board.has_history = True
            name = event.namespace, event.service
            self._board.events.append(Happening(event.at, name, line_of(event), colour_of(event)))

    def _state(self, watch: Watch, note: str = "") -> Standing:
        view = watch.view
        return Standing(self._common.server, self._space, watch.trouble, view.stale_for if view else None, note)

    # ---- as lines

    def _say(self, watch: Watch, *, indent: int | None) -> None:
        self.anything = True
        if self._common.as_json:
            say_document(self._document(watch), indent=indent)
            return
        moment, state = _moment(), self._state(watch)
        for line in self._viewer.head(moment, state):
            say(line)
        columns, rows = self._viewer.table(moment)
        say_table([Column(it) for it in columns], rows, wide=self._common.wide)

    def _document(self, watch: Watch) -> dict[str, object]:
        view, moment = watch.view, _moment()
        told: dict[str, object] = {"time": moment.at.isoformat()}
        if view is not None:
            told |= {"epoch": view.epoch, "revision": str(view.revision)}
            told |= {"staleFor": f"{view.stale_for:.3f}s"} if view.stale_for is not None else {}
        told["services"] = [it.as_dict(moment.now_s) for it in self._board.service_rows()]
        if self._viewer.name is not None:
            told["instances"] = [as_dict(it.to_proto()) for it in self._board.instance_rows(self._viewer.name)]
        return told


def _event_name(it: Event) -> tuple[object, ...]:
    """By which it is known, whoever tells it."""
    return it.epoch, it.revision, it.key, it.cause


def _moment() -> Moment:
    return Moment(time.monotonic(), datetime.now().astimezone())
