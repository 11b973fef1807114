"""Every setting of the server. Flags win over the environment, that over the file, that over the defaults."""

import ipaddress
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from registry_api.limits import UNIX, UNIX_ADDRESS
from registry_api.registry.v1 import registry_pb2 as pb
from registry_checks.rules import BadCheck, settle_all
from registry_checks.text import BadText, parse
from registry_server.neighbours import open_neighbours as check_neighbours
from registry_server.stores import BadStoreURL, check_url
from registry_server.transport.limits import Limits

DEFAULT_LIMITS = Limits()
ENV_PREFIX = "REGISTRY_"
FILE_VARIABLE = ENV_PREFIX + "CONFIG"
LOG_FORMATS = ("text", "json")
MAX_PORT = 65_535
MAX_FILE_BYTES = 1024 * 1024
TRANSPORTS = ("grpc", "http2")
MAX_CONCURRENCY = 100_000
LOG_LEVELS = ("debug", "info", "warning", "error")

# Both mean every interface.
_EVERYWHERE = ("", "*")
_ADDRESS = re.compile(r"(?:\*|[A-Za-z0-9_.-]*|\[(?P<ipv6>[^\[\]]+)\]):(?P<port>[0-9]{1,5})")
_MODE = re.compile(r"[0-7]{3}")

_SERVICE = re.compile(r"[A-Za-z0-9_.:@~+/-]+|\*")
_URL = re.compile(r"\w+://[^\s)]+|[^\s(]*@[^\s)]*")


class ConfigError(ValueError):
    """A setting is wrong. The text names it, where it came from, and what is allowed."""


@dataclass(frozen=True, slots=True)
class Config:
    """The settings, valid as a whole. Raises ConfigError."""

    # HOST:PORT (port 0 takes a free one, no host or * every interface) or unix:PATH; several with commas between them.
    listen: str = "127.0.0.1:7400"
    # A store URL; several servers on one etcd are one registry. It may have a password in it.
    store: str = field(default="memory:", repr=False)
    log_format: str = "text"  # text or json
    log_level: str = "info"  # debug, info, warning or error
    transport: str = "http2"  # http2 (libnghttp2, by the package ngh2), or grpc (grpc.aio), slower
    socket_mode: str = "600"  # who may connect to unix:PATH, as chmod takes it: its user alone
    checks: str = "on"  # whether instances may have health checks, which this server then runs: on or off
    # Checks for instances that bring none: `SERVICE=CHECK; NAMESPACE/SERVICE=CHECK; *=CHECK`, each also on a line.
    service_checks: str = ""
    # Whether this machine and its link may be looked at: yes, no, or auto, which is if the server listens there alone.
    check_local: str = "auto"
    check_ca: str = ""  # a file of certificates that HTTPS and gRPC checks trust, in place of the system's
    check_concurrency: str = "256"  # how many looks at the same time
    cut_off_share: str = "0.5"  # the server takes itself for cut off when more than this share of what was well fails
    cut_off_least: str = "5"  # and at least so many
    # Catalogs of other systems, by URL, with blanks in between: their services are shown here, and ours there.
    neighbours: str = field(default="", repr=False)

    limits: Limits = DEFAULT_LIMITS  # what a client may cost; a table of the file alone

    def __post_init__(self) -> None:
        for address in self.listen.split(","):
            if not _is_address(address):
                rule = "must be HOST:PORT with a port of 0 to 65535, or unix:PATH"
                raise ConfigError(f"listen: {rule}, is {_shown(address)}")
        if not _MODE.fullmatch(self.socket_mode):
            raise ConfigError(f"socket_mode: must be three digits of 0 to 7, is {_shown(self.socket_mode)}")
        _one_of("transport", self.transport, TRANSPORTS)
        _one_of("log_format", self.log_format, LOG_FORMATS)
        _one_of("log_level", self.log_level, LOG_LEVELS)
        self._look_at_checks()
        try:
            check_url(self.store)
        except BadStoreURL as error:
            raise ConfigError(f"store: {error}") from None
        try:
            check_neighbours(self.neighbours, self.store)
        except BadStoreURL as error:
            raise ConfigError(f"neighbours: {error}") from None

    def _look_at_checks(self) -> None:
        _one_of("checks", self.checks, ("on", "off"))
        _one_of("check_local", self.check_local, ("auto", "yes", "no"))
        _number("check_concurrency", self.check_concurrency, 1, MAX_CONCURRENCY)
        _number("cut_off_share", self.cut_off_share, 0, 1)
        _number("cut_off_least", self.cut_off_least, 1, MAX_CONCURRENCY)
        if self.check_ca and not Path(self.check_ca).is_file():
            raise ConfigError(f"check_ca: no such file: {_shown(self.check_ca)}")
        self.rules()

    @property
    def addresses(self) -> tuple[str, ...]:
        """The parts of `listen`, as they are shown: with a host, or as unix:PATH."""
        return tuple(map(_shown_address, self.listen.split(",")))

    @property
    def socket_file_mode(self) -> int:
        """The mode of the file of unix:PATH."""
        return int(self.socket_mode, 8)

    def rules(self) -> dict[str, list[pb.HealthCheck]]:
        """The checks of `service_checks`, settled, by what stands before the `=`. Raises ConfigError."""
        found: dict[str, list[pb.HealthCheck]] = {}
        for line in filter(str.strip, re.split("[;\n]", self.service_checks)):
            service, equals, check = line.partition("=")
            if not equals or not _SERVICE.fullmatch(service.strip()):
                raise ConfigError(f"service_checks: {_shown(line.strip())} must be SERVICE=CHECK")
            found.setdefault(service.strip(), []).append(_check(check))
        for service, checks in found.items():
            try:
                settle_all(checks)
            except BadCheck as wrong:
                raise ConfigError(f"service_checks: {service}: {wrong}") from None
        return found


def load(flags: Mapping[str, Any], env: Mapping[str, str], file: Path | None) -> Config:
    """The settings from all their sources; a flag that is None was not given. Raises ConfigError.

    Without a `file`, REGISTRY_CONFIG names one, if it is set and not empty.
    """
    names = [field.name for field in fields(Config) if field.name != "limits"]
    if file is None and (named := env.get(FILE_VARIABLE)):
        file = Path(named)
    settings: dict[str, Any] = _from_file(file, names) if file else {}
    settings |= {name: env[ENV_PREFIX + name.upper()] for name in names if ENV_PREFIX + name.upper() in env}
    settings |= {name: flags[name] for name in names if flags.get(name) is not None}
    return Config(**settings)


def _from_file(path: Path, names: list[str]) -> dict[str, Any]:
    where = without_urls(str(path))
    try:
        settings = tomllib.loads(_text(path, where))
    except OSError as error:
        raise ConfigError(f"{where}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: not TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{where}: not TOML of this server: nested too deeply") from None
    if "limits" in settings:
        settings["limits"] = _limits(settings["limits"], where)
    for name, value in settings.items():
        if isinstance(value, Limits):
            continue
        if name not in names:
            raise ConfigError(f"{where}: {_shown(name)[1:-1]}: no such setting; there are {', '.join(names)}")
        if not isinstance(value, str):
            raise ConfigError(f"{where}: {name}: must be a string")
    return settings


def _limits(table: object, where: str) -> Limits:
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: limits: must be a table")
    try:
        return Limits.named(table)
    except ValueError as error:
        raise ConfigError(f"{where}: limits: {without_urls(str(error))}") from None


def _text(path: Path, where: str) -> str:
    """What is in a file. A pipe would be waited for, and a device read for ever: neither is one."""
    if not path.is_file() and path.exists() and not path.is_dir():
        raise ConfigError(f"{where}: is no regular file")
    with path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"{where}: larger than {MAX_FILE_BYTES} bytes")
    return content.decode()


def _shown_address(address: str) -> str:
    if at := UNIX_ADDRESS.fullmatch(address):
        return UNIX + at["path"]
    host, _, port = address.rpartition(":")
    return f"{'0.0.0.0' if host in _EVERYWHERE else host}:{port}"  # noqa: S104 - which is asked for


def _is_address(text: str) -> bool:
    if text.startswith(UNIX):
        return UNIX_ADDRESS.fullmatch(text) is not None
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match["port"]) > MAX_PORT:
        return False
    try:
        return match["ipv6"] is None or bool(ipaddress.IPv6Address(match["ipv6"]))
    except ValueError:
        return False


def _check(text: str) -> pb.HealthCheck:
    try:
        return parse(text)
    except BadText as wrong:
        raise ConfigError(f"service_checks: {wrong}") from None


def _number(name: str, value: str, least: float, most: float) -> None:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        raise ConfigError(f"{name}: must be a number of {least:g} to {most:g}, is {_shown(value)}")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name}: must be one of {', '.join(allowed)}, is {_shown(value)}")


def _shown(text: str) -> str:
    """A value as a message quotes it, unless it may be a URL with a password that came to the wrong place."""
    return repr(without_urls(text))


def without_urls(text: str) -> str:
    """A message in which URLs, and whatever has an `@` in it, are dots."""
    return _URL.sub("…", text)
