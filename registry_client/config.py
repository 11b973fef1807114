"""SHELL: a client from a dict or a TOML file. Every mistake is told with the path of its key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TypeAlias, TypeVar
from urllib.parse import quote, urlsplit

import grpc

from registry_api.limits import DEFAULT_TTL_S
from registry_client import checks
from registry_client.client import RegistryClient, connect, with_defaults
from registry_client.errors import InvalidArgument, RegistryError
from registry_client.health import HealthCheck
from registry_client.inside import store_url
from registry_client.many import Options, Registries

Section: TypeAlias = Mapping[str, object]
_T = TypeVar("_T")

_PLACE = ("addresses", "store", "type", "memory", "etcd", "consul", "config")
_TOP = ("adapters", "namespace", "timeout", "cache_dir", "tls", "service", *_PLACE)
_ETCD = ("endpoints", "host", "port", "timeout", "username", "password")
_CONSUL = ("host", "port", "token", "scheme", "timeout")
_SERVICE = ("ttl", "health_check_interval", "deregister_critical_after")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")


def from_config(config: Section | str | Path) -> RegistryClient | Registries:
    """The client that a dict, or a TOML file of that path, describes: a `RegistryClient`, or with `adapters` what
    `connect_many` gives. docs/client.md lists the keys. Raises InvalidArgument with the path of the key.
    """
    given = _read(Path(config)) if isinstance(config, str | Path) else config
    top = _section("config", given, _TOP, of="")
    options = _options(top)
    ttl, health_checks = _service(_section("service", top.get("service", {}), _SERVICE))
    adapters = top.get("adapters")
    if adapters is None:
        return with_defaults(_client("", top, options), ttl, health_checks)
    named = _table("adapters", adapters)
    if not named:
        raise checks.wrong("adapters", "must name one or more registries")
    clients = {
        checks.name("adapters", name): _client(
            f"adapters.{name}.", _section(f"adapters.{name}", section, _PLACE), options
        )
        for name, section in named.items()
    }
    return Registries({name: with_defaults(client, ttl, health_checks) for name, client in clients.items()})


def _read(path: Path) -> Section:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise checks.wrong("config", f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise checks.wrong("config", f"{path}: not TOML: {error}") from None


def _options(top: Section) -> Options:
    options: Options = {}
    if "namespace" in top:
        options["namespace"] = checks.name("namespace", top["namespace"])
    if "timeout" in top:
        options["timeout"] = _seconds("timeout", top["timeout"])
    if "cache_dir" in top:
        options["cache_dir"] = checks.text("cache_dir", top["cache_dir"])
    if "tls" in top:
        options["credentials"] = _credentials(_section("tls", top["tls"], ("ca", "cert", "key")))
    return options


def _credentials(tls: Section) -> grpc.ChannelCredentials:
    def content(name: str) -> bytes | None:
        if name not in tls:
            return None
        path = Path(checks.text(f"tls.{name}", tls[name]))
        try:
            return path.read_bytes()
        except OSError as error:
            raise checks.wrong(f"tls.{name}", f"{path}: {error.strerror}") from None

    return grpc.ssl_channel_credentials(content("ca"), content("key"), content("cert"))


def _service(service: Section) -> tuple[float, Sequence[HealthCheck]]:
    """The ttl in seconds, and a check for instances that have none of their own: that they take connections."""
    ttl = _seconds("service.ttl", service.get("ttl", DEFAULT_TTL_S))
    pace = {
        ours: _seconds(f"service.{name}", service[name])
        for name, ours in (("health_check_interval", "interval"), ("deregister_critical_after", "deregister_after"))
        if name in service
    }
    return ttl, [_at("service", lambda: HealthCheck.tcp(**pace))] if pace else []  # type: ignore[arg-type]


# ---- where a registry is


def _client(at: str, section: Section, options: Options) -> RegistryClient:
    named = [name for name in ("addresses", "store", "type") if name in section]
    if len(named) != 1:
        raise checks.wrong(at.rstrip(".") or "config", f"must have one of addresses, store and type, has {len(named)}")
    key, value = f"{at}{named[0]}", section[named[0]]
    if named[0] == "type":
        return _of_kind(at, checks.text(key, value), section, options)
    given = checks.text(key, value) if isinstance(value, str) else list(checks.tags(key, value))
    return _at(key, lambda: connect(given, **options))


def _of_kind(at: str, kind: str, section: Section, options: Options) -> RegistryClient:
    """What the origins of this project call an adapter: a kind of store, and a table of that name, or `config`."""
    if kind not in _KINDS:
        raise checks.wrong(f"{at}type", f"must be one of {', '.join(_KINDS)}", kind)
    path = f"{at}{kind if kind in section else 'config'}"
    keys, url = _KINDS[kind]
    table = _section(path, section.get(path.removeprefix(at), {}), keys)
    if "timeout" in table and "timeout" not in options:
        options = {**options, "timeout": _seconds(f"{path}.timeout", table["timeout"])}
    given = url(path, table)
    if not _at(f"{at}type", lambda: store_url(given)):
        raise checks.wrong(f"{at}type", f"no store of the kind {kind} is installed here")
    return _at(f"{at}type", lambda: connect(given, **options))


def _memory(_at: str, _section: Section) -> str:
    return "memory:"


def _etcd(at: str, section: Section) -> str:
    listed = section.get("endpoints")
    if listed is None:
        listed = [f"{section.get('host', '127.0.0.1')}:{_port(at, section, 2379)}"]
    endpoints = [listed] if isinstance(listed, str) else list(checks.tags(f"{at}.endpoints", listed))
    schemes = {it.partition("://")[0] for it in endpoints if "://" in it}
    if not schemes <= {"http", "https"} or len(schemes) > 1:
        raise checks.wrong(f"{at}.endpoints", "must all be http://HOST:PORT, or all https://HOST:PORT", endpoints)
    hosts = ",".join((urlsplit(it).netloc if "://" in it else it) for it in endpoints)
    asked = {
        ours: checks.text(f"{at}.{name}", section[name])
        for name, ours in (("username", "user"), ("password", "password"))
        if section.get(name)
    }
    if schemes == {"https"}:
        asked["tls"] = "true"
    return _url(f"etcd://{hosts}", asked)


def _consul(at: str, section: Section) -> str:
    host = checks.text(f"{at}.host", section.get("host", "127.0.0.1"))
    asked = {"token": checks.text(f"{at}.token", section["token"])} if section.get("token") else {}
    if checks.text(f"{at}.scheme", section.get("scheme", "http")) == "https":
        asked["tls"] = "true"
    return _url(f"consul://{host}:{_port(at, section, 8500)}", asked)


def _port(at: str, section: Section, default: int) -> int:
    return checks.port(f"{at}.port", section.get("port", default))


def _url(where: str, asked: Mapping[str, str]) -> str:
    return where + ("?" if asked else "") + "&".join(f"{name}={quote(value, safe='')}" for name, value in asked.items())


_KINDS: Mapping[str, tuple[tuple[str, ...], Callable[[str, Section], str]]] = {
    "memory": ((), _memory),
    "etcd": (_ETCD, _etcd),
    "consul": (_CONSUL, _consul),
}


# ---- reading


def _table(at: str, given: object) -> Section:
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise checks.wrong_type(at, "must be a dict with names for keys", given)
    return given


def _section(at: str, given: object, keys: Iterable[str], of: str | None = None) -> Section:
    """A table that has these keys and no others. `of`: what stands before them in messages, by default `at`."""
    table, known = _table(at, given), list(keys)
    for name in table:
        if name not in known:
            near = get_close_matches(name, known, 1)
            path = f"{at if of is None else of}.{name}".lstrip(".")
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known) or 'none'}"
            raise InvalidArgument(f"{path}: no such key; {hint}", path)
    return table


def _seconds(key: str, given: object) -> float:
    """Seconds, as a number or as `30s`, `5m`, `1h`, `500ms`."""
    if isinstance(given, str):
        found = _SPAN.fullmatch(given.strip())
        if found is None:
            raise checks.wrong(key, "must be a number of seconds, or such as '30s', '5m', '1h'", given)
        given = float(found[1]) * _UNITS[found[2]]
    return checks.seconds(key, given, 0.0, checks.MAX_TIMEOUT_S)


def _at(key: str, make: Callable[[], _T]) -> _T:
    """What `make` makes. What it refuses is told with the key that it comes from."""
    try:
        return make()
    except RegistryError as error:
        raise InvalidArgument(f"{key}: {error}", key) from None
