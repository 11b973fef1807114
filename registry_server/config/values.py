"""Every setting: what it is called, what it means, what it may be."""

import ipaddress
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, TypeGuard

from registry_api.limits import DEFAULT_TTL_S, MAX_TTL_S, MIN_TTL_S, UNIX, UNIX_ADDRESS
from registry_api.registry.v1 import registry_pb2 as pb
from registry_checks.rules import BadCheck, settle_all
from registry_checks.text import BadText, parse
from registry_server.access.identities import NO_ACCESS, Access
from registry_server.neighbours import open_neighbours as check_neighbours
from registry_server.stores import BadStoreURL, check_url
from registry_server.transport.limits import MAX_LIMIT, Limits

DEFAULT_LIMITS = Limits()
# For a server in somebody else's process, who may work for long in the same loop, and take all memory there is: that is
# no overload of the server.
GUEST_LIMITS = Limits(max_lag_ms=MAX_LIMIT, max_memory_mib=MAX_LIMIT)
LOG_FORMATS = ("text", "json")
MAX_PORT = 65_535
AUTO_ADMIN = "127.0.0.1:7401"
TRANSPORTS = ("grpc", "http2")
MAX_CONCURRENCY = 100_000
LOG_LEVELS = ("debug", "info", "warning", "error")

# Both mean every interface.
_EVERYWHERE = ("", "*")
_ADDRESS = re.compile(r"(?:\*|[A-Za-z0-9_.-]*|\[(?P<ipv6>[^\[\]]+)\]):(?P<port>[0-9]{1,5})")
_KINDS: dict[type, str] = {str: "a string", bool: "true or false"}
_MODE = re.compile(r"[0-7]{3}")

_SERVICE = re.compile(r"[A-Za-z0-9_.:@~+/-]+|\*")
_URL = re.compile(r"\w+://[^\s)]+|[^\s(]*@[^\s)]*")


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: the setting (a path with dots for one in a table), what is wrong, and where that was said."""

    name: str
    text: str
    where: str = ""

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.name, self.text))) + (f" ({self.where})" if self.where else "")


class ConfigError(ValueError):
    """Settings are wrong. The text is one line with all of `problems`, or what else stands in the way of a start."""

    def __init__(self, *problems: Problem | str) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = tuple(it for it in problems if isinstance(it, Problem))


@dataclass(frozen=True, slots=True)
class ServiceDefaults:
    """What holds for who registers and says nothing of it; in seconds. 0 is none."""

    ttl: float = DEFAULT_TTL_S
    # With either of these, instances that bring no checks, and have none by `service_checks`, are looked at by TCP.
    health_check_interval: float = 0.0
    deregister_critical_after: float = 0.0

    def check(self) -> str:
        """The check that it comes to, in short; empty for none."""
        pace = (("interval", self.health_check_interval), ("deregister_after", self.deregister_critical_after))
        said = [f"{name}={seconds:g}" for name, seconds in pace if seconds]
        return " ".join(["tcp", *said]) if said else ""


NO_SERVICE_DEFAULTS = ServiceDefaults()


# What is remembered of changes: a page is looked for among all of it.
MAX_EVENTS = 100_000
MAX_HOURS = 8760.0


def _setting(default: object, form: str, says: str, **more: Any) -> Any:
    """One that may come from a flag, the environment and the file; `form` is what stands for its value in messages."""
    return field(default=default, metadata={"form": form, "says": says}, **more)


@dataclass(frozen=True, slots=True)
class Config:
    """The settings, valid as a whole. Raises ConfigError."""

    listen: str = _setting(
        "127.0.0.1:7400",
        "HOST:PORT",
        "Where to listen, or unix:PATH, or several with commas; no HOST is every interface, port 0 any that is free.",
    )
    # It may have a password in it.
    store: str = _setting(
        "memory:",
        "URL",
        "memory:, sqlite:PATH, etcd://HOST:PORT,…, or another kind: docs/stores.md. Several servers on one are one "
        "registry. A password in it shows in the process list, so rather put such a URL into REGISTRY_STORE or the "
        "file, or write file:PATH or env:NAME for where it is.",
        repr=False,
    )
    transport: str = _setting("http2", "KIND", "http2 (needs the package ngh2), or grpc (grpcio's own), slower.")
    socket_mode: str = _setting("600", "MODE", "Who may connect to unix:PATH, as for chmod: its user alone.")
    log_format: str = _setting("text", "FORMAT", "text or json.")
    log_level: str = _setting("info", "LEVEL", "debug, info, warning or error.")
    tls_cert: str = _setting(
        "",
        "FILE",
        "This server's certificate in PEM, with those between it and its authority. With it, TLS alone is spoken, but "
        "at unix:PATH. It may change while the server runs, as the other two may.",
    )
    tls_key: str = _setting("", "FILE", "The key of --tls-cert, without a password.")
    tls_client_ca: str = _setting(
        "", "FILE", "Authorities of clients: with it, every client needs a certificate that one of these has signed."
    )
    audit_log: str = _setting(
        "", "FILE", "Where to write down every write that is asked for, a line of JSON each; - is the standard output."
    )
    checks: str = _setting("on", "on|off", "Whether instances may have health checks, which the server then runs.")
    service_checks: str = _setting(
        "", "RULES", "Checks for instances that bring none: 'player=http:/healthz interval=5; prod/chat=tcp; *=ttl'."
    )
    check_local: str = _setting(
        "auto", "yes|no|auto", "Whether checks may look at this machine and its link; auto: if it listens there alone."
    )
    check_ca: str = _setting("", "FILE", "Certificates that HTTPS and gRPC checks trust, in place of the system's.")
    check_concurrency: int = _setting(256, "N", "How many checks look at the same time.")
    cut_off_share: float = _setting(
        0.5,
        "SHARE",
        "When more of what was well fails at once, the server takes itself for cut off: it reports nobody.",
    )
    cut_off_least: int = _setting(5, "N", "And at least so many checks.")
    neighbours: str = _setting(
        "",
        "URLS",
        "Catalogs of other systems, by URL, with blanks in between: their services are shown here, and ours there.",
        repr=False,
    )

    access_file: str = _setting(
        "",
        "FILE",
        "A TOML file with the table [access], which may also stand in the file of --config: who may do what.",
    )
    insecure: bool = _setting(
        False, "", "Serve others than this machine without [access]: everybody may read and change everything."
    )
    admin: str = _setting(
        "auto",
        "HOST:PORT",
        "Where /metrics, /healthz, /readyz and the page are, by HTTP; off for nowhere; auto is 127.0.0.1:7401, unless "
        "somebody else has that.",
    )
    history_events: int = _setting(
        10_000, "N", "How many changes of instances are remembered for people to look at, at the most; 0 for none."
    )
    history_hours: float = _setting(24.0, "HOURS", "And for how long, at the most.")
    introspection: str = _setting(
        "auto",
        "on|off|auto",
        "Whether reflection and channelz answer; auto: on a loopback address all, elsewhere with [access] those with a "
        "right.",
    )

    # Tables of the file alone.
    limits: Limits = DEFAULT_LIMITS  # what a client may cost
    service: ServiceDefaults = NO_SERVICE_DEFAULTS
    access: Access = field(default=NO_ACCESS, repr=False)  # who may do what

    def __post_init__(self) -> None:
        if problems := list(_of_another_type(self)) or list(self._problems()):
            raise ConfigError(*problems)

    def _problems(self) -> Iterator[Problem]:
        for address in self.listen.split(","):
            if not _is_address(address):
                rule = "must be HOST:PORT with a port of 0 to 65535, or unix:PATH"
                yield Problem("listen", f"{rule}, is {shown(address)}")
        if not _MODE.fullmatch(self.socket_mode):
            yield Problem("socket_mode", f"must be three digits of 0 to 7, is {shown(self.socket_mode)}")
        yield from _one_of("introspection", self.introspection, ("on", "off", "auto"))
        if self.admin not in ("auto", "off") and (self.admin.startswith(UNIX) or not _is_address(self.admin)):
            yield Problem("admin", f"must be HOST:PORT with a port of 0 to 65535, auto or off, is {shown(self.admin)}")
        yield from _one_of("transport", self.transport, TRANSPORTS)
        yield from _one_of("log_format", self.log_format, LOG_FORMATS)
        yield from _one_of("log_level", self.log_level, LOG_LEVELS)
        yield from _whole_number("history_events", self.history_events, 0, MAX_EVENTS)
        yield from _number("history_hours", self.history_hours, 0, MAX_HOURS)
        yield from self._problems_of_tls()
        yield from self._problems_of_checks()
        yield from _problems_of_service(self.service)
        try:
            check_url(self.store)
        except BadStoreURL as error:
            yield Problem("store", str(error))
            return
        try:
            check_neighbours(self.neighbours, self.store)
        except BadStoreURL as error:
            yield Problem("neighbours", str(error))

    def _problems_of_tls(self) -> Iterator[Problem]:
        for name in ("tls_cert", "tls_key", "tls_client_ca"):
            if (path := getattr(self, name)) and not _is_file(path):
                yield Problem(name, f"no such file: {shown(path)}")
        for name, needed in (("tls_cert", "tls_key"), ("tls_key", "tls_cert"), ("tls_client_ca", "tls_cert")):
            if getattr(self, name) and not getattr(self, needed):
                yield Problem(needed, f"must be there with {name}")

    def _problems_of_checks(self) -> Iterator[Problem]:
        yield from _one_of("checks", self.checks, ("on", "off"))
        yield from _one_of("check_local", self.check_local, ("auto", "yes", "no"))
        yield from _whole_number("check_concurrency", self.check_concurrency, 1, MAX_CONCURRENCY)
        yield from _number("cut_off_share", self.cut_off_share, 0, 1)
        yield from _whole_number("cut_off_least", self.cut_off_least, 1, MAX_CONCURRENCY)
        if self.check_ca and not _is_file(self.check_ca):
            yield Problem("check_ca", f"no such file: {shown(self.check_ca)}")
        try:
            self.rules()
        except ConfigError as error:
            yield from error.problems

    @property
    def addresses(self) -> tuple[str, ...]:
        """The parts of `listen`, as they are shown: with a host, or as unix:PATH."""
        return tuple(map(_shown_address, self.listen.split(",")))

    @property
    def is_local(self) -> bool:
        """Whether nobody but this machine can reach it."""
        return all(map(is_loopback, self.addresses))

    def unguarded(self) -> Problem | None:
        """What is wrong if others than this machine could reach it, and nobody said who may do what."""
        asked = [*(("listen", it) for it in self.addresses), *(("admin", it) for it in (self.admin_address,) if it)]
        far = [it for it in asked if not is_loopback(it[1])]
        if not far or self.access.is_on or self.insecure:
            return None
        return Problem(
            far[0][0],
            f"{far[0][1]} is open to other machines: say in a table [access] who may do what (docs/security.md), or "
            "say --insecure to let everybody do everything",
        )

    @property
    def admin_address(self) -> str:
        """Where the HTTP side listens; empty for nowhere."""
        if self.admin == "off":
            return ""
        return AUTO_ADMIN if self.admin == "auto" else _shown_address(self.admin)

    @property
    def introspects(self) -> bool:
        """Whether what tells of the server itself answers anybody."""
        auto = self.introspection == "auto" and (self.is_local or self.access.is_on)
        return auto or self.introspection == "on"

    @property
    def socket_file_mode(self) -> int:
        """The mode of the file of unix:PATH."""
        return int(self.socket_mode, 8)

    def rules(self) -> dict[str, list[pb.HealthCheck]]:
        """The checks for those who bring none, settled, by what stands before the `=`. Raises ConfigError."""
        found: dict[str, list[pb.HealthCheck]] = {}
        for line in filter(str.strip, re.split("[;\n]", self.service_checks)):
            service, equals, check = line.partition("=")
            if not equals or not _SERVICE.fullmatch(service.strip()):
                raise ConfigError(Problem("service_checks", f"{shown(line.strip())} must be SERVICE=CHECK"))
            found.setdefault(service.strip(), []).append(_check(check))
        for service, checks in found.items():
            _settle("service_checks", f"{service}: ", checks)
        if (usual := self.service.check()) and "*" not in found:
            found["*"] = [_check(usual, "service")]
            _settle("service", "", found["*"])
        return found


def _of_another_type(config: Config) -> Iterator[Problem]:
    """What is not even of the type that it has to be. Numbers are looked at one by one."""
    for setting in fields(config):
        if (isinstance(setting.default, bool) or not isinstance(setting.default, int | float)) and not isinstance(
            value := getattr(config, setting.name), type(setting.default)
        ):
            wanted = _KINDS.get(type(setting.default)) or f"a {type(setting.default).__name__}"
            yield Problem(setting.name, f"must be {wanted}, is of type {type(value).__name__}")
    if isinstance(config.service, ServiceDefaults):
        for name in (it.name for it in fields(ServiceDefaults)):
            seconds: object = getattr(config.service, name)
            if not _is_number(seconds) or not -math.inf < seconds < math.inf:
                yield Problem(f"service.{name}", f"must be a number of seconds, is {shown(str(seconds))}")


def _problems_of_service(service: ServiceDefaults) -> Iterator[Problem]:
    if not MIN_TTL_S <= service.ttl <= MAX_TTL_S:
        yield Problem("service.ttl", f"must be {MIN_TTL_S:g} to {MAX_TTL_S:g} seconds, is {service.ttl:g}")


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


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches an address, as it is shown. Names are not looked up: localhost is one."""
    return is_near(address, "is_loopback")


def is_near(address: str, kind: str) -> bool:
    """Whether all who reach that address are so near (`is_loopback`, `is_link_local`); who opens a file is on this
    machine."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return kind == "is_loopback" and (host == "localhost" or address.startswith(UNIX))
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return bool(getattr(mapped or ip, kind))


def _is_file(path: str) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 - that of Path raises when a directory must not be searched


def _settle(name: str, of: str, checks: list[pb.HealthCheck]) -> None:
    try:
        settle_all(checks)
    except BadCheck as wrong:
        raise ConfigError(Problem(name, f"{of}{wrong}")) from None


def _check(text: str, name: str = "service_checks") -> pb.HealthCheck:
    try:
        return parse(text)
    except BadText as wrong:
        raise ConfigError(Problem(name, str(wrong))) from None


def _number(name: str, value: object, least: float, most: float) -> Iterator[Problem]:
    if not _is_number(value) or not least <= value <= most:
        yield Problem(name, f"must be a number of {least:g} to {most:g}, is {shown(str(value))}")


def _whole_number(name: str, value: object, least: int, most: int) -> Iterator[Problem]:
    if isinstance(value, float) and least <= value <= most:
        yield Problem(name, f"must be a whole number, is {value:g}")
    else:
        yield from _number(name, value, least, most)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> Iterator[Problem]:
    if value not in allowed:
        yield Problem(name, f"must be one of {', '.join(allowed)}, is {shown(value)}")


def shown(text: str) -> str:
    """A value as a message quotes it, unless it may be a URL with a password that came to the wrong place."""
    return repr(without_urls(text[:200]))


def without_urls(text: str) -> str:
    """A message in which URLs, and whatever has an `@` in it, are dots."""
    return _URL.sub("…", text)
