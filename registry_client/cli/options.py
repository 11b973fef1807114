"""What commands take: the options that all have, filters, and the kinds of their values."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from registry_api.limits import DEFAULT_NAMESPACE, MAX_DRAIN_S
from registry_client.addresses import parse_endpoint
from registry_client.checks import MAX_TIMEOUT_S
from registry_client.cli.ends import run
from registry_client.cli.show import USAGE, Progress, end
from registry_client.client import DEFAULT_TIMEOUT_S, RegistryClient, connect
from registry_client.errors import InvalidArgument, InvalidTarget
from registry_client.health import Health
from registry_client.instance import Filters, Locality, Status
from registry_client.tls import TLS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

DEFAULT_SERVER = "127.0.0.1:7400"
_T = TypeVar("_T")
OUTPUTS = ("table", "wide", "json")


@dataclass(frozen=True, slots=True)
class Common:
    """What every command takes, before its name or after it."""

    server: str = DEFAULT_SERVER
    namespace: str = DEFAULT_NAMESPACE
    output: str = "table"
    timeout: float = DEFAULT_TIMEOUT_S
    tls: bool = False
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    token: str | None = field(default=None, repr=False)
    plaintext_token: bool = False

    def connect(self) -> RegistryClient:
        """A client as the options say. The last view on disk is of no interest to a shell."""
        try:
            return connect(
                self.server,
                namespace=self.namespace,
                timeout=self.timeout,
                cache_dir=None,
                tls=self._tls(),
                token=self.token,
                plaintext_token=self.plaintext_token,
            )
        except InvalidArgument as error:
            if error.field.partition(".")[0] in ("tls", "token"):
                end(USAGE, _as_flags(str(error)))
            raise

    def ask(self, question: Coroutine[Any, Any, _T]) -> _T:
        """Ask the registry, and wait for what it says: who waits for long sees for what."""
        with Progress(f"asking {self.server}"):
            return run(question)

    def where(self, all_namespaces: bool) -> str:
        """In which namespaces one looks, as it is said to people."""
        return "any namespace" if all_namespaces else f"namespace {self.namespace}"

    def _tls(self) -> TLS | None:
        """With any of the files, or when it is asked for."""
        given = (self.tls_ca, self.tls_cert, self.tls_key)
        return TLS(*given) if self.tls or any(given) else None

    @property
    def as_json(self) -> bool:
        """True for JSON with the names of proto3, false for people."""
        return self.output == "json"

    @property
    def wide(self) -> bool:
        """True for tables with all there is, nothing of it cut."""
        return self.output == "wide"


def _as_flags(text: str) -> str:
    """What `connect` says of its arguments, for who has flags."""
    for name, flag in (("tls.", "--tls-"), ("plaintext_token", "--plaintext-token"), ("with tls,", "with --tls,")):
        text = text.replace(name, flag)
    return text if text.startswith("--") else f"--{text}"


class Seconds(click.ParamType):  # type: ignore[type-arg]  # generic in newer ones alone
    """A number of seconds within bounds; `open_min` = more than the lower one."""

    name = "SECONDS"

    def __init__(self, most: float, *, open_min: bool = False) -> None:
        self._most = most
        self._open_min = open_min

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        if not 0 <= seconds <= self._most or (self._open_min and seconds == 0):  # which is so for nan, too
            self.fail(
                f"{value} must be {'more than ' if self._open_min else ''}0 to {self._most:g} seconds", param, ctx
            )
        return seconds


class Pair(click.ParamType):  # type: ignore[type-arg]  # generic in newer ones alone
    """KEY=VALUE."""

    name = "KEY=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).partition("=")
        if not key or not equals:
            self.fail(f"{value!r} must be KEY=VALUE", param, ctx)
        return key, text


class Address(click.ParamType):  # type: ignore[type-arg]  # generic in newer ones alone
    """HOST:PORT."""

    name = "HOST:PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        try:
            return parse_endpoint(value)
        except InvalidTarget as error:
            self.fail(f"must be HOST:PORT: {error}", param, ctx)


def one_of(kind: type[Status] | type[Health]) -> click.Choice[str]:
    """The name of a member, in any case."""
    return click.Choice([member.value for member in kind], case_sensitive=False)


DRAIN = Seconds(MAX_DRAIN_S)
TIMEOUT = Seconds(MAX_TIMEOUT_S, open_min=True)


def _papers(*, of_the_program: bool) -> tuple[Callable[..., Any], ...]:
    """The options about TLS and the token."""
    more: dict[str, Any] = {} if of_the_program else {"default": None}
    env: dict[str, Any] = {"envvar": "REGISTRY_TLS_CA", "show_envvar": True} if of_the_program else {}
    return (
        click.option("--tls", is_flag=True, help="Speak TLS, and trust the authorities that gRPC brings.", **more),
        click.option("--tls-ca", metavar="FILE", help="Speak TLS, and trust these authorities.", **env),
        click.option("--tls-cert", metavar="FILE", help="The certificate to show, if the registry asks for one."),
        click.option("--tls-key", metavar="FILE", help="The key of it."),
        click.option(
            "--token", metavar="TOKEN",
            help="file:PATH or env:NAME of the token to show, or itself, in sight of all on this machine. "
            "[env REGISTRY_TOKEN]",
        ),
        click.option("--plaintext-token", is_flag=True, help="Show it to other machines without TLS, too.", **more),
    )  # fmt: skip


_COMMON_BUT_TIMEOUT = (
    click.option(
        "--server", "-s", metavar="ADDRESSES", help=f"HOST:PORT[,HOST:PORT…] [env REGISTRY_SERVER; {DEFAULT_SERVER}]"
    ),
    click.option("--namespace", "-n", metavar="NAME", help=f"[env REGISTRY_NAMESPACE; {DEFAULT_NAMESPACE}]"),
    click.option("--output", "-o", type=click.Choice(OUTPUTS), help="[table]"),
    *_papers(of_the_program=False),
)
_COMMON = (
    *_COMMON_BUT_TIMEOUT,
    click.option("--timeout", type=TIMEOUT, metavar="SECONDS", help="For one request [5]"),
)
_NAMES = tuple(it.name for it in fields(Common))

_FILTER = (
    click.option("--tag", "tags", multiple=True, help="Has this tag; repeatable, all must match."),
    click.option("--metadata", "--meta", multiple=True, type=Pair(), help="Has this metadata; repeatable."),
    click.option("--version", default="", help="Has this version."),
    click.option("--status", "statuses", multiple=True, type=one_of(Status), help="Has this status; repeatable, any."),
    click.option("--health", "healths", multiple=True, type=one_of(Health), help="Has this health; repeatable, any."),
    click.option("--region", default=""),
    click.option("--zone", default=""),
    click.option("--sub-zone", default=""),
    click.option("--healthy", "healthy_only", is_flag=True, help="Gets traffic: active, not ill, of a weight above 0."),
)


def with_papers(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give the program the options about TLS and the token, as arguments."""
    return _with(_papers(of_the_program=True), function)


def with_all_namespaces(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option to mean every namespace, whatever `--namespace` and the environment say."""
    return _with(
        (click.option("--all-namespaces", "-A", is_flag=True, help="Of every namespace, which is shown then."),),
        function,
    )


def with_common(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the common options; what stands after its name wins over what stands before it."""
    return _common(function, _COMMON)


def with_common_but_timeout(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same for a command whose own `--timeout` is another one; that of a request may stand before its name."""
    return _common(function, _COMMON_BUT_TIMEOUT)


def _common(function: Callable[..., Any], options: Iterable[Callable[..., Any]]) -> Callable[..., Any]:
    @click.pass_context
    @functools.wraps(function)
    def wrapper(context: click.Context, /, **arguments: Any) -> Any:
        given = {name: arguments.pop(name, None) for name in _NAMES}
        named = {name: value for name, value in given.items() if value is not None}
        return function(replace(context.find_object(Common) or Common(), **named), **arguments)

    return _with(options, wrapper)


def with_filters(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a filter, as one argument `filters`: empty when none is given."""

    @functools.wraps(function)
    def wrapper(*positional: Any, **arguments: Any) -> Any:
        where = Locality(*(arguments.pop(part) for part in ("region", "zone", "sub_zone")))
        filters = Filters(
            tags=arguments.pop("tags"),
            metadata=dict(arguments.pop("metadata")),
            version=arguments.pop("version"),
            statuses=arguments.pop("statuses"),
            healths=arguments.pop("healths"),
            healthy_only=arguments.pop("healthy_only"),
        )
        given: Any = {name: value for name, value in filters.items() if value}
        if where != Locality():
            given["locality"] = where
        return function(*positional, filters=given, **arguments)

    return _with(_FILTER, wrapper)


def _with(options: Iterable[Callable[..., Any]], wrapper: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(tuple(options)):
        wrapper = option(wrapper)
    return wrapper
