"""The command `registry-server`."""

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from registry_server import config as configs
from registry_server.config import Config, ConfigError
from registry_server.observe import logs
from registry_server.stores import StoreError, has_password

EXIT_USAGE = 2
# How often garbage is looked for, in seconds; after so many looks among the older too, and after so many of those
# among all. The collector looks by itself when there are so many more objects than at the last look.
COLLECT_S = 0.025
OLDER_AFTER = 2
OLDEST_AFTER = 5_000
YOUNG = 5_000

log = logging.getLogger(__name__)


class _Command(click.Command):
    """Says in one line what is wrong with a flag, as with every other setting."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Parse the flags, run, and exit."""
        try:
            return super().main(*args, **{**kwargs, "standalone_mode": False})
        except click.UsageError as error:
            click.echo(f"registry-server: {configs.without_urls(error.format_message())} See --help.", err=True)
            sys.exit(EXIT_USAGE)


@click.command(cls=_Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Where to listen, or unix:PATH, or several with commas; no HOST is every interface, port 0 any. "
    "[127.0.0.1:7400]",
)
@click.option("--socket-mode", metavar="MODE", help="Who may connect to unix:PATH, as for chmod. [600]")
@click.option(
    "--store",
    metavar="URL",
    help="memory: or etcd://HOST:PORT,… with ?user=…&password_file=…&ca=…; a password in it shows in the process list, "
    "so rather put such a URL into REGISTRY_STORE or the file. [memory:]",
)
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    help="A TOML file of these settings. [env REGISTRY_CONFIG]",
)
@click.option(
    "--transport", metavar="KIND", help="http2 (needs the package ngh2), or grpc (grpcio's own), slower. [http2]"
)
@click.option("--log-format", metavar="FORMAT", help="text or json. [text]")
@click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error. [info]")
@click.option("--checks", metavar="on|off", help="Whether instances may have health checks, which it runs. [on]")
@click.option(
    "--service-checks",
    metavar="RULES",
    help="Checks for instances that bring none: 'player=http:/healthz interval=5; *=tcp'. []",
)
@click.option(
    "--check-local",
    metavar="yes|no|auto",
    help="Whether checks may look at this machine and its link; auto: if it listens there alone. [auto]",
)
@click.option("--check-ca", metavar="FILE", help="Certificates that checks trust. [the system's]")
@click.option("--check-concurrency", metavar="N", help="How many looks at the same time. [256]")
@click.option(
    "--cut-off-share",
    metavar="SHARE",
    help="When more of what was well fails at once, it takes itself for cut off, and reports nobody. [0.5]",
)
@click.option("--cut-off-least", metavar="N", help="And at least so many checks. [5]")
@click.version_option(package_name="grpc-registry")
def main(file: Path | None, **flags: str | None) -> None:
    """Run a registry server until SIGTERM or SIGINT.

    Every setting can also come from the environment (REGISTRY_LISTEN, REGISTRY_STORE, …) or from the file, which
    REGISTRY_CONFIG can name too; flags win over the environment, and the environment over the file. Prints "listening
    on HOST:PORT" when it is ready, a line for each address.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the server runs: Ctrl-C ends it without a word
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what the core would print is said by our own errors
    _allow_connections()
    problems: list[str] = []
    try:
        config = configs.load(flags, os.environ, file)
        logs.set_up(config.log_format, config.log_level)
        _warn_of_password(flags["store"])
        with asyncio.Runner(loop_factory=_fastest_loop()) as runner:
            runner.run(_run(config))
    except* (ConfigError, StoreError) as group:
        problems += map(str, _leaves(group))
    if problems:
        click.echo(f"registry-server: {'; '.join(problems)}", err=True)
        sys.exit(EXIT_USAGE)


def _warn_of_password(store: str | None) -> None:
    if store and has_password(store):
        log.warning(
            "the password in --store shows in the process list: put the URL into REGISTRY_STORE or into the file of "
            "--config, or the password into a file of its own (password_file=FILE)"
        )


async def _run(config: Config) -> None:
    """Serve until a first signal stops the server in order; a second one stops it at once."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in a task
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    from registry_server.server import serve  # loads grpc, which takes a while and reads its environment then

    with contextlib.suppress(asyncio.CancelledError):
        async with serve(config) as addresses:
            print("\n".join(f"listening on {address}" for address in addresses.split(",")), flush=True)
            await _collect_in_slices()


def _fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where there is one: a call costs the server a tenth less."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _allow_connections() -> None:
    """Take as many files at a time as the system allows: a client costs one, and many shells give a process 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _collect_in_slices() -> None:
    """Look for garbage in cycles often and among the young alone, so that no look takes long, until cancelled.

    What is loaded by now lives as long as the server: it is left out. By itself the collector looks when the objects
    have become more, which they do not while streams come and go, and then all that were made meanwhile are young. All
    objects are looked at only when they have become a quarter more since the last time, and some minutes have passed.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, OLDER_AFTER, OLDEST_AFTER)
    while True:
        for _ in range(OLDER_AFTER):
            await asyncio.sleep(COLLECT_S)
            gc.collect(0)
        gc.collect(1)


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


if __name__ == "__main__":
    main()
