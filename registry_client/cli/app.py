"""SHELL: `registryctl` itself: what stands before a command, and how whatever goes wrong ends."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any

import click

from registry_api.limits import DEFAULT_NAMESPACE
from registry_client.cli.checks import checks
from registry_client.cli.copying import export_, import_, sync
from registry_client.cli.ends import Signalled
from registry_client.cli.events import events
from registry_client.cli.health import health
from registry_client.cli.options import DEFAULT_SERVER, OUTPUTS, TIMEOUT, Common, with_papers
from registry_client.cli.policy import policy
from registry_client.cli.reading import instances, namespaces, services, watch
from registry_client.cli.ready import ready
from registry_client.cli.registering import register
from registry_client.cli.show import (
    REFUSED,
    UNREACHABLE,
    USAGE,
    CannotWrite,
    LogLines,
    begin,
    end,
    explain,
    let_go,
    say,
)
from registry_client.cli.top import top
from registry_client.cli.whoami import whoami
from registry_client.cli.why import why
from registry_client.cli.writing import deregister, drain, update
from registry_client.cli.xds import xds
from registry_client.client import DEFAULT_TIMEOUT_S
from registry_client.errors import InvalidTarget, RegistryError, RegistryUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

EPILOG = "Exit codes: 0 done, 1 refused or not found, 2 wrong usage, 3 the registry cannot be reached, 130 Ctrl-C."

# Raised for a group alone, with its help as the message; older ones of click show that by themselves.
_NO_COMMAND: type[click.UsageError] | tuple[()] = getattr(click.exceptions, "NoArgsIsHelpError", ())


class _Group(click.Group):
    """Turns what goes wrong into one line on stderr and an exit code."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> Any:  # type: ignore[override]
        extra["standalone_mode"] = False
        begin()
        try:
            self._main(args, prog_name, **extra)
        except BrokenPipeError:
            let_go(sys.stdout, sys.stderr)  # whoever read the output has seen enough
        except CannotWrite as error:
            end(REFUSED, f"cannot write: {error}")
        except OSError as error:  # from click's own writing of a help text
            end(REFUSED, f"cannot write: {error.strerror or error}")

    def _main(self, args: Sequence[str] | None, prog_name: str | None, **extra: Any) -> None:
        try:
            sys.exit(super().main(args, prog_name, **extra))
        except click.UsageError as error:
            if error.ctx is not None and isinstance(error, _NO_COMMAND):
                explain(error.ctx.get_help())
                sys.exit(USAGE)
            path = error.ctx.command_path if error.ctx else "registryctl"
            end(USAGE, f"{error.format_message()} (see {path} --help)")
        except click.ClickException as error:
            end(error.exit_code, error.format_message())
        except (click.Abort, KeyboardInterrupt):
            sys.exit(128 + signal.SIGINT)
        except Signalled as signalled:
            sys.exit(signalled.exit_code)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InvalidTarget as error:
            end(USAGE, error)
        except RegistryUnavailable as error:
            end(UNREACHABLE, error)
        except RegistryError as error:
            end(REFUSED, error)


def _show_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        with contextlib.suppress(metadata.PackageNotFoundError):
            say(f"registryctl {metadata.version('grpc-registry')}")
        context.exit()


@click.group(cls=_Group, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--server", "-s", default=DEFAULT_SERVER, envvar="REGISTRY_SERVER", show_default=True, show_envvar=True,
    metavar="ADDRESSES", help="HOST:PORT[,HOST:PORT…] of the registry.",
)  # fmt: skip
@click.option(
    "--namespace", "-n", default=DEFAULT_NAMESPACE, envvar="REGISTRY_NAMESPACE", show_default=True, show_envvar=True,
    metavar="NAME", help="Where the services are.",
)  # fmt: skip
@click.option(
    "--output", "-o", type=click.Choice(OUTPUTS), default="table", show_default=True,
    help="For people; with all there is and nothing cut; or JSON with the names of the .proto.",
)  # fmt: skip
@click.option(
    "--timeout", type=TIMEOUT, default=DEFAULT_TIMEOUT_S, show_default=True, metavar="SECONDS",
    help="For one request, retries included.",
)  # fmt: skip
@with_papers
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show it.")
@click.pass_context
def main(context: click.Context, /, **options: Any) -> None:
    """See and change what a grpc-registry knows.

    \b
    registryctl --server h1:7400 services
    registryctl instances player --output json

    The options may also stand after the name of the command.
    """
    logging.basicConfig(handlers=[LogLines()], level=logging.WARNING, force=True)
    logging.getLogger("registry_client.link").setLevel(logging.INFO)  # which also says when it is over
    context.obj = Common(**options)


for command in (
    *(namespaces, services, instances, watch, top, health, checks, policy, register, update, drain, deregister),
    *(export_, import_, sync, xds, whoami, why, ready),
):
    main.add_command(command)
main.add_command(events)
