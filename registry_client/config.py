"""SHELL: a client from a dict or a TOML file. Every mistake is told with the path of its key."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import TypeAlias, TypeVar
from urllib.parse import quote, urlsplit

from registry_api.limits import DEFAULT_TTL_S, MAX_TTL_S, MIN_TTL_S
from registry_checks.text import span_s
from registry_client import checks
from registry_client.bearer import check_token
from registry_client.client import RegistryClient, connect, with_defaults
from registry_client.errors import InvalidArgument, InvalidTarget, RegistryError, WrongType
from registry_client.health import HealthCheck
from registry_client.inside import store_kinds, store_url, table_url
from registry_client.many import Options, Registries
from registry_client.session import check_cache_dir
from registry_client.tls import TLS

Section: TypeAlias = Mapping[str, object]
_T = TypeVar("_T")

_PLACE = ("addresses", "store", "type", "memory", "etcd", "consul", "config")
_TOP = ("adapters", "namespace", "timeout", "ttl", "cache_dir", "tls", "token", "plaintext_token", "service", *_PLACE)
_ETCD = ("endpoints", "host", "port", "timeout", "username", "password")
_CONSUL = ("host", "port", "token", "scheme", "timeout")
_PAPERS = ("tls", "token", "plaintext_token")
_SERVICE = ("ttl", "health_check_interval", "deregister_critical_after")
_PACE = {"health_check_interval": "interval", "deregister_critical_after": "deregister_after"}


def from_config(config: Section | str | PathLike[str]) -> RegistryClient | Registries:
    """The client that a dict, or a TOML file of that path, describes: a `RegistryClient`, or with `adapters` what
    `connect_many` gives. docs/client.md lists the keys. Raises InvalidArgument with the path of the key.
    """
    given = _read(config) if isinstance(config, str | PathLike) else config
    top = _section("config", given, (*_TOP, *_own(given)), of="")
    options = _options(top)
    ttl, health_checks = _defaults(top)
    adapters = top.get("adapters")
    if adapters is None:
        client = _client("", top, options)
        _check_tls(top, [client])
        return with_defaults(client, ttl, health_checks)
    clients = _adapters(top, _table("adapters", adapters), options)
    _check_tls(top, clients.values())
    made = {name: with_defaults(client, ttl, health_checks) for name, client in clients.items()}
    return _at("adapters", lambda: Registries(made))


def _adapters(top: Section, named: Section, options: Options) -> dict[str, RegistryClient]:
    if not named:
        raise checks.wrong("adapters", "must name one or more registries")
    for key in _PLACE:
        if key in top:
            raise checks.wrong(key, "has no meaning beside adapters: each of these has its own")
    return {
        checks.name("adapters", name): _client(
            f"adapters.{name}.", _section(f"adapters.{name}", section, (*_PLACE, *_own(section))), options
        )
        for name, section in named.items()
    }


def _own(section: object) -> tuple[str, ...]:
    """The table that a section may have beside its type."""
    kind = section.get("type") if isinstance(section, Mapping) else None
    return (kind,) if isinstance(kind, str) and kind not in _TOP else ()


def _check_tls(top: Section, clients: Iterable[RegistryClient]) -> None:
    for name in _PAPERS:
        if name in top and not any(client.addresses for client in clients):
            raise checks.wrong(name, "is for addresses: of a store, what its URL says")


def _read(config: str | PathLike[str]) -> Section:
    path = checks.shown_path(config)
    try:
        return tomllib.loads(Path(config).read_text(encoding="utf-8"))
    except OSError as error:
        raise checks.wrong("config", f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, no path
        raise checks.wrong("config", f"{path}: not TOML: {error}") from None


def _options(top: Section) -> Options:
    options: Options = {}
    if "namespace" in top:
        options["namespace"] = checks.name("namespace", top["namespace"])
    if "timeout" in top:
        options["timeout"] = _timeout("timeout", top["timeout"])
    if "cache_dir" in top:
        options["cache_dir"] = check_cache_dir(None if top["cache_dir"] is False else top["cache_dir"])
    if "tls" in top:
        options["tls"] = _tls(_section("tls", top["tls"], ("ca", "cert", "key")))
    if "token" in top:
        options["token"] = check_token(_secret("token", top["token"])) or ""
    if "plaintext_token" in top:
        options["plaintext_token"] = checks.yes_or_no("plaintext_token", top["plaintext_token"])
    return options


def _tls(section: Section) -> TLS:
    """Of files that can be used: a mistake is told with the key of the file."""
    tls = TLS(**{name: checks.text(f"tls.{name}", value) for name, value in section.items()})
    tls.read()
    return tls


def _defaults(top: Section) -> tuple[float, Sequence[HealthCheck]]:
    """The ttl in seconds, and a check for instances that have none of their own: that they take connections."""
    service = _section("service", top.get("service", {}), _SERVICE)
    if "ttl" in top and "ttl" in service:
        raise checks.wrong("ttl", "stands in service, too")
    key, given = ("ttl", top["ttl"]) if "ttl" in top else ("service.ttl", service.get("ttl", DEFAULT_TTL_S))
    ttl = _least(key, _seconds(key, given), MIN_TTL_S, MAX_TTL_S)
    pace = {ours: _pace(name, ours, service[name]) for name, ours in _PACE.items() if name in service}
    return ttl, [_at("service", lambda: HealthCheck.tcp(**pace))] if pace else []  # type: ignore[arg-type]


def _pace(name: str, ours: str, given: object) -> float:
    key = f"service.{name}"
    seconds = _seconds(key, given)
    _at(key, lambda: HealthCheck.tcp(**{ours: seconds}))  # type: ignore[arg-type]  # which says what is wrong
    return seconds


# ---- where a registry is


def _client(at: str, section: Section, options: Options) -> RegistryClient:
    named = [name for name in ("addresses", "store", "type") if name in section]
    if len(named) != 1:
        raise checks.wrong(at.rstrip(".") or "config", f"must have one of addresses, store and type, has {len(named)}")
    key, value = f"{at}{named[0]}", section[named[0]]
    if named[0] == "type":
        return _of_kind(at, checks.text(key, value), section, options)
    if named[0] == "store" and isinstance(value, Mapping):
        return _connect(table_url(_table(key, value), key), options)
    given = checks.text(key, value) if isinstance(value, str) else list(checks.tags(key, value))
    if named[0] == "store" and not _at(key, lambda: store_url(given)):
        raise checks.wrong(key, "must be the URL of a store, such as memory: or etcd://HOST:PORT")
    return _at(key, lambda: _connect(given, options))


def _connect(given: str | list[str], options: Options) -> RegistryClient:
    """`tls` is for addresses: a store inside of this process needs none."""
    if store_url(given):
        options = {**options}
        for name in _PAPERS:
            options.pop(name, None)  # type: ignore[misc]
    return connect(given, **options)


def _of_kind(at: str, kind: str, section: Section, options: Options) -> RegistryClient:
    """What the origins of this project call an adapter: a kind of store, and a table of that name, or `config`."""
    path = f"{at}{kind if kind in section else 'config'}"
    if kind not in _KINDS:
        return _of_other_kind(at, path, kind, section, options)
    keys, url = _KINDS[kind]
    table = _section(path, section.get(path.removeprefix(at), {}), keys)
    if "timeout" in table and "timeout" not in options:
        options = {**options, "timeout": _timeout(f"{path}.timeout", table["timeout"])}
    given = url(path, table)
    if not _at(path if table else f"{at}type", lambda: store_url(given)):
        raise checks.wrong(f"{at}type", f"no store of the kind {kind} is installed here")
    return _at(path if table else f"{at}type", lambda: _connect(given, options))


def _of_other_kind(at: str, path: str, kind: str, section: Section, options: Options) -> RegistryClient:
    """A kind that only a server knows: its table has the keys of a server's configuration."""
    kinds = list(dict.fromkeys((*_KINDS, *store_kinds())))
    if kind not in kinds:
        raise checks.wrong(f"{at}type", f"must be one of {', '.join(kinds)}", kind)
    table = _table(path, section.get(path.removeprefix(at), {}))
    if "type" in table:
        raise checks.wrong(f"{path}.type", f"stands beside {path} already")
    return _connect(table_url({"type": kind, **table}, path), options)


def _memory(_at: str, _section: Section) -> str:
    return "memory:"


def _etcd(at: str, section: Section) -> str:
    listed = section.get("endpoints")
    for name in ("host", "port"):
        if listed is not None and name in section:
            raise checks.wrong(f"{at}.{name}", "has no meaning beside endpoints: leave one of them out")
    if listed is None:
        host = checks.host(f"{at}.host", section.get("host", "127.0.0.1"))
        listed = [f"{f'[{host}]' if ':' in host else host}:{_port(at, section, 2379)}"]
    endpoints = [listed] if isinstance(listed, str) else list(checks.tags(f"{at}.endpoints", listed))
    if not endpoints:
        raise checks.wrong(f"{at}.endpoints", "must have one or more HOST:PORT")
    schemes = {it.partition("://")[0] for it in endpoints if "://" in it}
    if not schemes <= {"http", "https"} or len(schemes) > 1:
        # What they are is not shown: there may be a password in them.
        raise checks.wrong(f"{at}.endpoints", "must all be http://HOST:PORT, or all https://HOST:PORT")
    hosts = ",".join(_at(f"{at}.endpoints", lambda: [_host_of(it) for it in endpoints]))
    asked = {
        ours: _secret(f"{at}.{name}", section[name])
        for name, ours in (("username", "user"), ("password", "password"))
        if section.get(name) not in (None, "")
    }
    if schemes == {"https"}:
        asked["tls"] = "true"
    return _url(f"etcd://{hosts}", asked)


def _host_of(endpoint: str) -> str:
    """HOST:PORT, from that or from a URL. Raises InvalidTarget."""
    try:
        found = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
    except ValueError:
        raise InvalidTarget("must be HOST:PORT or http://HOST:PORT, with an IPv6 address in brackets") from None
    if found.path.strip("/") or found.query or found.fragment:
        raise InvalidTarget("must be HOST:PORT or http://HOST:PORT, and nothing behind it")
    return found.netloc


def _consul(at: str, section: Section) -> str:
    host = checks.host(f"{at}.host", section.get("host", "127.0.0.1"))
    token, scheme = section.get("token"), section.get("scheme", "http")
    asked = {} if token in (None, "") else {"token": _secret(f"{at}.token", token)}
    if scheme not in ("http", "https"):
        raise checks.wrong(f"{at}.scheme", "must be http or https", scheme)
    if scheme == "https":
        asked["tls"] = "true"
    return _url(f"consul://{f'[{host}]' if ':' in host else host}:{_port(at, section, 8500)}", asked)


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
    if not isinstance(given, Mapping):
        raise _wrong_kind(at, "must be a dict with names for keys", given)
    for name in given:
        if not isinstance(name, str):
            raise _wrong_kind(at, "must be a dict with names for keys, one of which", name)
    return given


def _secret(key: str, given: object) -> str:
    """A string that no message shows."""
    if not isinstance(given, str):
        raise _wrong_kind(key, "must be a string", given)
    if not given.isascii():
        try:
            given.encode()
        except UnicodeEncodeError:
            raise checks.wrong(key, "must be text without lone surrogates") from None
    return given


def _wrong_kind(key: str, rule: str, given: object) -> WrongType:
    """Says what kind of thing was given, and not what it is: there may be a password in it."""
    return WrongType(f"{key}: {rule}, is {'None' if given is None else type(given).__name__}", key)


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


def _least(key: str, given_s: float, least: float, most: float) -> float:
    if not least <= given_s <= most:
        raise checks.wrong(key, f"must be {least:g} to {most:g} seconds", given_s)
    return given_s


def _seconds(key: str, given: object) -> float:
    """Seconds, as a number or as `30s`, `5m`, `1h`, `500ms`."""
    if isinstance(given, str):
        if (seconds := span_s(given)) is None:
            raise checks.wrong(key, "must be a number of seconds, or such as '30s', '5m', '1h'", given)
        given = seconds
    return checks.seconds(key, given, 0.0, checks.MAX_TIMEOUT_S)


def _timeout(key: str, given: object) -> float:
    seconds = _seconds(key, given)
    if not seconds:
        raise checks.wrong(key, "must be more than 0 seconds")
    return seconds


def _at(key: str, make: Callable[[], _T]) -> _T:
    """What `make` makes. What it refuses is told with the key that it comes from."""
    try:
        return make()
    except RegistryError as error:
        raise InvalidArgument(f"{key}: {error}", key) from None
