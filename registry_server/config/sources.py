"""Where settings come from: flags win over the environment, that over the file, that over the defaults.

All mistakes of all sources are told at once, each with the place it was made in.
"""

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from registry_checks.text import span_s
from registry_server.access.identities import Access
from registry_server.access.reading import read_access
from registry_server.config.values import Config, ConfigError, Problem, ServiceDefaults, shown, without_urls
from registry_server.stores import BadStoreURL, BadTable, check_url, keys_of, mirror_of, nearest, url_of
from registry_server.transport.limits import Limits

ENV_PREFIX = "REGISTRY_"
FILE_VARIABLE = ENV_PREFIX + "CONFIG"
DEFAULT = "default"
MAX_FILE_BYTES = 1024 * 1024
MAX_SECRET_BYTES = 64 * 1024
MAX_SPAN_S = 1e12

_YES, _NO = ("yes", "true", "on", "1"), ("no", "false", "off", "0", "")
_HEADER = re.compile(r"\s*\[\[?([^\[\]]+)\]\]?\s*(?:#.*)?")
_KEY = re.compile(r"""\s*([A-Za-z0-9_"'.\s-]+?)\s*=""")
Env: TypeAlias = Mapping[str, str]


class Value(NamedTuple):
    """What one source says of one setting, and which place of which source."""

    value: Any
    where: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, and for each that is not its default where it is from. Limits and `service` are by dotted names."""

    config: Config
    where: Mapping[str, str]


@dataclass(slots=True)
class _Found:
    values: dict[str, Value] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


SETTINGS = tuple(it for it in fields(Config) if it.metadata)
NAMES = tuple(it.name for it in SETTINGS)
VARIABLES = (FILE_VARIABLE, *(ENV_PREFIX + name.upper() for name in NAMES))
TABLES = ("stores", "limits", "service", "access", "tls")
TLS_KEYS = ("cert", "key", "client_ca")
WRITES = ("quorum", "any")


def load(flags: Mapping[str, Any], env: Env, file: Path | None) -> Loaded:
    """The settings from all their sources; a flag that is None was not given. Raises ConfigError with all mistakes.

    Without a `file`, REGISTRY_CONFIG names one, if it is set and not empty.
    """
    if file is None and (named := env.get(FILE_VARIABLE)):
        file = Path(named)
    found = _from_file(file, env) if file else _Found()
    for name in NAMES:
        if (variable := ENV_PREFIX + name.upper()) in env:
            found.values[name] = Value(env[variable], variable)
        if flags.get(name) is not None:
            found.values[name] = Value(flags[name], "--" + name.replace("_", "-"))
    _add_access(found)
    return _settled(found, env)


def read_access_of(file: str) -> Access:
    """What the table [access] of a file grants. Raises ConfigError."""
    found = _Found()
    path = Path(file)
    raw, lines = _parsed(path)
    _take_access(found, raw.get("access"), lines, str(path))
    if found.problems:
        raise ConfigError(*found.problems)
    access: Access = found.values["access"].value
    return access


def _add_access(found: _Found) -> None:
    """What is granted may stand in a file of its own."""
    asked = found.values.get("access_file")
    if asked is None or not isinstance(asked.value, str) or not asked.value:
        return
    if "access" in found.values:
        found.problems.append(
            Problem("access_file", "there is a table [access] as well: write one of them", asked.where)
        )
        return
    try:
        raw, lines = _parsed(Path(asked.value))
    except ConfigError as error:
        found.problems += error.problems
        found.values["access"] = Value(Access(), asked.where)
        return
    for name in set(raw) - {"access"}:
        found.problems.append(Problem(_printable(name), "only the table [access] stands in this file", lines.of(name)))
    _take_access(found, raw.get("access"), lines, asked.value)


def _take_access(found: _Found, table: object, lines: "Lines", file: str) -> None:
    def wrong(name: str, text: str) -> None:
        found.problems.append(Problem(_printable(name), without_urls(text), lines.of(name)))

    if not isinstance(table, dict):
        wrong("access", "must be a table")
        return
    found.values["access"] = Value(read_access(table, wrong, file), lines.of("access"))


def _settled(found: _Found, env: Env) -> Loaded:
    settings: dict[str, Any] = {}
    for setting in SETTINGS:
        if value := found.values.get(setting.name):
            try:
                settings[setting.name] = _read(setting.name, type(setting.default), value.value, env)
            except ValueError as error:
                found.problems.append(Problem(setting.name, str(error), value.where))
    tables = {name: found.values[name].value for name in ("limits", "service", "access") if name in found.values}
    try:
        config = Config(**settings, **tables)
    except ConfigError as error:
        found.problems += [_placed(problem, found.values) for problem in error.problems]
    if found.problems:
        raise ConfigError(*found.problems)
    return Loaded(config, {name: value.where for name, value in found.values.items()})


def _placed(problem: Problem, values: Mapping[str, Value]) -> Problem:
    value = values.get(problem.name) or values.get(problem.name.partition(".")[0])
    return Problem(problem.name, problem.text, value.where if value else "")


def _read(name: str, kind: type, value: object, env: Env) -> object:
    """A value as its setting takes it; one that cannot be so is left to the setting to refuse. Raises ValueError."""
    if kind in (int, float):
        return _number(kind, value)
    if kind is bool:
        return _yes(value)
    if not isinstance(value, str):
        raise ValueError("must be a string")  # noqa: TRY004 - of the user, not of the program
    if name == "neighbours":
        return " ".join(indirect(url, env) for url in value.split())
    return indirect(value, env) if name == "store" else value


def _yes(value: object) -> bool:
    if isinstance(value, bool):
        return value
    said = str(value).strip().lower() if isinstance(value, str) else ""
    if said not in (*_YES, *_NO):
        raise ValueError("must be yes or no")
    return said in _YES


def _number(kind: type, value: object) -> object:
    try:
        return kind(value) if isinstance(value, str) else value
    except ValueError:
        return value


def indirect(text: str, env: Env) -> str:
    """The text itself, or what is in the file or variable that `file:PATH` or `env:NAME` names. Raises ValueError.

    The end of the last line is not part of it.
    """
    kind, _, name = text.partition(":")
    if kind == "env":
        if name not in env:
            raise ValueError(f"env: there is no variable {shown(name)}")
        return env[name]
    return _text(Path(name), MAX_SECRET_BYTES).rstrip("\r\n") if kind == "file" else text


# ---- the file


def _from_file(path: Path, env: Env) -> _Found:
    raw, lines = _parsed(path)
    return _File(raw, lines, env, str(path)).read()


def _parsed(path: Path) -> tuple[Mapping[str, Any], "Lines"]:
    """A file of TOML, and where what stands in it. Raises ConfigError."""
    where = without_urls(str(path) if str(path).isprintable() else repr(str(path))[1:-1])
    try:
        text = _text(path, MAX_FILE_BYTES)
        raw = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(Problem("", f"not TOML: {error}", where)) from None
    except RecursionError:
        raise ConfigError(Problem("", "not TOML of this server: nested too deeply", where)) from None
    except ValueError as error:
        raise ConfigError(Problem("", str(error), where)) from None
    return raw, Lines(text, where)


class Lines:
    """In which line of a file a key stands; `where` names the file. Good enough for messages: TOML's own parser does
    not tell."""

    def __init__(self, text: str, where: str) -> None:
        self._where = where
        self._lines: dict[tuple[str, ...], int] = {}
        table: tuple[str, ...] = ()
        for number, line in enumerate(text.splitlines(), 1):
            if header := _HEADER.fullmatch(line):
                table = _path(header[1])
                self._lines.setdefault(table, number)
            elif key := _KEY.match(line):
                self._lines.setdefault(table + _path(key[1]), number)

    def of(self, name: str) -> str:
        """The file and the line of a key, or of what is in it, or of the table that it is in, or the file alone."""
        path = tuple(name.split("."))
        within = (number for key, number in self._lines.items() if key[: len(path)] == path)
        around = (self._lines.get(path[:end]) for end in range(len(path), 0, -1))
        number = next((it for it in (*within, *around) if it), None)
        return f"{self._where}, line {number}" if number else self._where


def _path(text: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in text.split("."))


class _File:
    """One file, read key by key."""

    def __init__(self, raw: Mapping[str, Any], lines: Lines, env: Env, path: str) -> None:
        self._path = path
        self._raw = raw
        self._lines = lines
        self._env = env
        self._found = _Found()

    def read(self) -> _Found:
        """What it says, and all that is wrong with how it says it."""
        for name, value in self._raw.items():
            if name == "store" and isinstance(value, dict):
                self._url("store", partial(self._url_of, value))
            elif name in TABLES:
                getattr(self, f"_{name}")(value)
            elif name in NAMES:
                self._take(name, value)
            else:
                self._wrong(name, f"no such setting; {nearest(name, (*NAMES, *TABLES))}")
        return self._found

    def _take(self, name: str, value: object) -> None:
        self._found.values[name] = Value(value, self._lines.of(name))

    def _wrong(self, name: str, text: str) -> None:
        self._found.problems.append(Problem(_printable(name), without_urls(text), self._lines.of(name)))

    def _table(self, name: str, value: object) -> Mapping[str, object]:
        if isinstance(value, dict):
            return value
        self._wrong(name, "must be a table")
        return {}

    def _limits(self, value: object) -> None:
        good: dict[str, object] = {}
        for name, number in self._table("limits", value).items():
            if wrong := Limits.wrong(name, number):
                self._wrong(f"limits.{name}", wrong)
            else:
                good[name] = number
                self._take(f"limits.{name}", number)
        self._take("limits", Limits.named(good))

    def _service(self, value: object) -> None:
        known, good = [it.name for it in fields(ServiceDefaults)], {}
        for name, span in self._table("service", value).items():
            if name not in known:
                self._wrong(f"service.{name}", f"no such setting; {nearest(name, known)}")
            elif (seconds := _seconds(span)) is None:
                self._wrong(f"service.{name}", "must be a number of seconds, or such as '30s', '5m', '500ms'")
            else:
                good[name] = seconds
                self._take(f"service.{name}", seconds)
        self._take("service", ServiceDefaults(**good))

    def _tls(self, value: object) -> None:
        """The settings tls_cert, tls_key and tls_client_ca as a table."""
        for name, path in self._table("tls", value).items():
            if name not in TLS_KEYS:
                self._wrong(f"tls.{name}", f"no such setting; {nearest(name, TLS_KEYS)}")
            elif f"tls_{name}" in self._raw:
                self._wrong(f"tls.{name}", f"stands there as tls_{name}, too")
            else:
                self._found.values[f"tls_{name}"] = Value(path, self._lines.of(f"tls.{name}"))

    def _access(self, value: object) -> None:
        _take_access(self._found, value, self._lines, self._path)

    def _stores(self, value: object) -> None:
        """Several stores that hold the same: a table or a URL for each, and how many must have what is written."""
        if not (table := dict(self._table("stores", value))):
            if isinstance(value, dict):
                self._wrong("stores", "is empty: write a table or a URL for each store")
            return
        if "store" in self._raw:
            self._wrong("stores", "there is a store as well: write one of them")
        if (write := table.pop("write", "quorum")) not in WRITES:
            self._wrong("stores", f"write must be one of {', '.join(WRITES)}")
            return
        urls = [self._made(f"stores.{name}", partial(self._member, each)) for name, each in table.items()]
        if None not in urls:
            self._url("stores", lambda: checked(mirror_of([url for url in urls if url], str(write))))

    def _member(self, given: object) -> str:
        if isinstance(given, dict):
            return one_of_several(self._url_of(given))
        if not isinstance(given, str):
            raise BadTable("", "must be a table, or a URL")
        return one_of_several(checked(self._secret("", given)))

    def _url(self, at: str, make: Callable[[], str]) -> None:
        if url := self._made(at, make):
            self._found.values["store"] = Value(url, self._lines.of(at))

    def _made(self, at: str, make: Callable[[], str]) -> str | None:
        try:
            return make()
        except BadTable as error:
            self._wrong(".".join(filter(None, (at, error.key))), str(error))
        except BadStoreURL as error:
            self._wrong(at, str(error))
        return None

    def _url_of(self, table: Mapping[str, object]) -> str:
        return url_of(dict(self._resolved(table)))

    def _resolved(self, table: Mapping[str, object]) -> Iterator[tuple[str, object]]:
        """The table with its secrets. One in a file that the store reads by itself it is left to read, each time that
        it needs it: so it may change."""
        for key, value in table.items():
            if not isinstance(value, str) or not is_secret(key):
                yield key, value
            elif value.startswith("file:") and f"{key}_file" in keys_of(f"{table.get('type')}:"):
                yield f"{key}_file", value.removeprefix("file:")
            else:
                yield key, self._secret(key, value)

    def _secret(self, key: str, value: str) -> str:
        try:
            return indirect(value, self._env)
        except ValueError as error:
            raise BadTable(key, str(error)) from None


def checked(url: str) -> str:
    """The URL itself. Raises BadStoreURL."""
    check_url(url)
    return url


def one_of_several(url: str) -> str:
    """The URL itself. Raises BadTable if it would be taken for several, or for what follows them."""
    if "|" in url:
        raise BadTable("", "has a '|', which stands between the stores of a mirror; in a URL it is written %7C")
    return url


def is_secret(key: str) -> bool:
    """Whether a value of that name is shown to nobody."""
    return key in ("password", "token")


def _printable(name: str) -> str:
    return repr(without_urls(name[:200]))[1:-1]


def _seconds(value: object) -> float | None:
    if isinstance(value, str):
        value = span_s(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < MAX_SPAN_S:
        return float(value)
    return None


def _text(path: Path, most: int) -> str:
    """What is in a file. A pipe would be waited for, and a device read for ever: neither is one. Raises ValueError."""
    try:
        if not path.is_file() and path.exists() and not path.is_dir():
            raise ValueError("is no regular file")
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise ValueError(error.strerror) from None
    if len(content) > most:
        raise ValueError(f"larger than {most} bytes")
    return content.decode("utf-8-sig")  # some editors begin a file with a mark that it is UTF-8
