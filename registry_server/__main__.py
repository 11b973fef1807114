"""The command `registry-server`."""

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from registry_server.access.commands import token_commands
from registry_server.config import Config, ConfigError, without_urls
from registry_server.config.commands import Given, config_commands
from registry_server.config.sources import SETTINGS
from registry_server.hang_up import HangUp
from registry_server.observe import logs
from registry_server.standard import STDERR, STDOUT, complain, let_go
from registry_server.stores import StoreError, has_password, is_url
from registry_server.supervisor import Supervisor

EXIT_USAGE = 2
EXIT_UNWRITTEN = 1
# How often garbage is looked for, in seconds; after so many looks among the older too, and after so many of those
# among all. The collector looks by itself when there are so many more objects than at the last look.
COLLECT_S = 0.025
OLDER_AFTER = 2
OLDEST_AFTER = 5_000
YOUNG = 5_000

Command = TypeVar("Command", bound=Callable[..., object])

log = logging.getLogger(__name__)


class _Group(click.Group):
    """Says in one line what is wrong with a flag, as with every other setting."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Parse the flags, run, and exit."""
        try:
            asked = self._asked(*args, **kwargs)
            return _serve(asked) if isinstance(asked, Given) else asked
        except click.UsageError as error:
            _fail(f"{without_urls(error.format_message())} See --help.")
        except ConfigError as error:
            _fail(str(error))

    def _asked(self, *args: Any, **kwargs: Any) -> Any:
        """What a command gives; of the server's own, with what to begin."""
        try:
            return super().main(*args, **{**kwargs, "standalone_mode": False})
        except BrokenPipeError:
            let_go(STDOUT)  # whoever read it has seen enough
        except OSError as error:
            let_go(STDOUT)
            _fail(f"cannot write: {error.strerror or error}", EXIT_UNWRITTEN)


def _fail(text: str, code: int = EXIT_USAGE) -> NoReturn:
    complain(f"registry-server: {text}")
    sys.exit(code)


def _flags(command: Command) -> Command:
    """Adds a flag for every setting, in their order."""
    for setting in reversed(SETTINGS):
        says, form = setting.metadata["says"], setting.metadata["form"]
        flag = f"--{setting.name.replace('_', '-')}"
        if isinstance(setting.default, bool):
            option = click.option(flag, setting.name, is_flag=True, flag_value="yes", default=None, help=says)
        else:
            default = setting.default if setting.default != "" else "none"
            option = click.option(flag, setting.name, metavar=form, help=f"{says} [{default}]")
        command = option(command)
    return command


@click.group(cls=_Group, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@_flags
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    help="A TOML file of these settings. [env REGISTRY_CONFIG]",
)
@click.version_option(package_name="grpc-registry")
@click.pass_context
def main(context: click.Context, /, file: Path | None, **flags: str | None) -> Given | None:
    """Run a registry server until SIGTERM or SIGINT.

    Every setting can also come from the environment (REGISTRY_LISTEN, REGISTRY_STORE, …) or from the file, which
    REGISTRY_CONFIG can name too; flags win over the environment, and the environment over the file. Prints "listening
    on HOST:PORT" when it is ready, a line for each address.
    """
    context.obj = Given(flags, file)
    return context.obj if context.invoked_subcommand is None else None


main.add_command(config_commands)
main.add_command(token_commands)


def _serve(given: Given) -> None:
    _have_standard_files()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the server runs: Ctrl-C ends it without a word
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what the core would print is said by our own errors
    _allow_connections()
    config = given.load().config
    logs.set_up(config.log_format, config.log_level)
    _warn_of_password("store", given.flags["store"])
    for url in (given.flags["neighbours"] or "").split():
        _warn_of_password("neighbours", url)
    problems: list[str] = []
    try:
        with asyncio.Runner(loop_factory=_fastest_loop()) as runner:
            runner.run(_run(config))
    except* (ConfigError, StoreError) as group:
        problems += map(str, _leaves(group))
    if problems:
        _fail("; ".join(problems))


def _warn_of_password(setting: str, url: str | None) -> None:
    if url and is_url(url) and has_password(url):
        log.warning(
            "the password in --%s shows in the process list: put the URL into REGISTRY_%s or into the file of "
            "--config, or the password into a file of its own (password_file=FILE)",
            setting,
            setting.upper(),
        )


async def _run(config: Config) -> None:
    """Serve until a first signal stops the server in order; a second one stops it at once."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in a task
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    loop.add_signal_handler(signal.SIGHUP, HangUp(task.cancel).came)
    from registry_server.server import serve  # loads grpc, which takes a while and reads its environment then

    supervisor = Supervisor(os.environ)
    supervisor.say("STATUS=loads what is registered from its store")
    with contextlib.suppress(asyncio.CancelledError):
        async with serve(config, loaded=_leave_out_what_is_loaded) as addresses:
            _announce(addresses.split(","))
            supervisor.say("READY=1", f"STATUS=listens on {addresses}")
            try:
                await asyncio.gather(_collect_in_slices(), supervisor.keep_alive())
            finally:
                supervisor.say("STOPPING=1", "STATUS=stops")


def _announce(addresses: Iterable[str]) -> None:
    """Say where it listens. That nobody reads it is no reason to end."""
    try:
        print("\n".join(f"listening on {address}" for address in addresses), flush=True)
    except OSError as error:
        log.warning("the addresses cannot be printed: %s", error.strerror)
        let_go(STDOUT)


def _have_standard_files() -> None:
    """Have something in the place of input, output and errors that were closed: no connection must get there."""
    while (opened := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        pass
    os.close(opened)


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


def _leave_out_what_is_loaded() -> None:
    """Have the collector look at all objects once, and leave them out from then on: they live as long as the server.

    On a busy machine that takes up to seconds, in which no client must wait.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, OLDER_AFTER, OLDEST_AFTER)


async def _collect_in_slices() -> None:
    """Look for garbage in cycles often and among the young alone, so that no look takes long, until cancelled.

    By itself the collector looks when the objects have become more, which they do not while streams come and go, and
    then all that were made meanwhile are young. All objects are looked at only when they have become a quarter more
    since the last time, and some minutes have passed.
    """
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
