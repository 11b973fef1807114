"""A store as a table of TOML, in place of its URL: the same parts under the same names.

    type = "etcd"                                   etcd:
    endpoints = ["etcd-1:2379", "etcd-2:2379"]      //etcd-1:2379,etcd-2:2379
    prefix = "/game"                                ?prefix=%2Fgame

`host` and `port` are one endpoint, `path` is what follows the endpoints, and every other key is a parameter.
"""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from urllib.parse import quote

_PLACE = ("type", "endpoints", "host", "port", "path")


class BadTable(ValueError):
    """A mistake at `key`, which is empty when the whole table is meant. No value is quoted: it may be a password."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


def kind_of(table: Mapping[str, object]) -> str:
    """The kind of store that a table is of. Raises BadTable."""
    kind = _text(table, "type")
    if kind is None:
        raise BadTable("", "must have a type")
    return kind


def written_as_url(table: Mapping[str, object], keys: Sequence[str]) -> str:
    """The URL of the store that a table describes; none but these keys may be in it, if there are any. Raises
    BadTable; whether the URL is right the kind of store has to say."""
    kind = kind_of(table)
    _refuse_others(table, keys)
    endpoints, tls = _endpoints(table)
    path = _text(table, "path") or ""
    given = dict(_parameters(table, tls))
    if endpoints and path:
        path = "/" + quote(path.removeprefix("/"), safe="/")
    url = f"{kind}:" + (f"//{endpoints}" if endpoints else "") + path
    return url + ("?" if given else "") + "&".join(f"{name}={quote(it, safe='')}" for name, it in given.items())


def _refuse_others(table: Mapping[str, object], keys: Sequence[str]) -> None:
    known = ["type", *keys, *(("host", "port") if "endpoints" in keys else ())]
    for key in table if keys else ():
        if key not in known:
            raise BadTable(key, f"no such key; {nearest(key, known)}")


def nearest(name: str, known: Sequence[str]) -> str:
    """What may have been meant by a name that is none of those known."""
    near = get_close_matches(name, known, 1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"


def _endpoints(table: Mapping[str, object]) -> tuple[str, bool]:
    """HOST:PORT,… and whether they are asked for by https."""
    listed = table.get("endpoints")
    if listed is None:
        return _endpoint(table), False
    if "host" in table or "port" in table:
        raise BadTable("endpoints", "and host and port are two ways to say it: write one")
    given = [listed] if isinstance(listed, str) else listed
    if not isinstance(given, Sequence) or not given or not all(isinstance(it, str) and it for it in given):
        raise BadTable("endpoints", "must be a list of HOST:PORT")
    schemes = {it.partition("://")[0] for it in given if "://" in it}
    if not schemes <= {"http", "https"} or len(schemes) > 1:
        raise BadTable("endpoints", "must all be HOST:PORT, all http://HOST:PORT, or all https://HOST:PORT")
    return ",".join(it.rpartition("://")[2].rstrip("/") for it in given), schemes == {"https"}


def _endpoint(table: Mapping[str, object]) -> str:
    host, port = _text(table, "host"), table.get("port")
    if port is not None and (not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65_536):
        raise BadTable("port", "must be a number from 1 to 65535")
    if port is not None and host is None:
        raise BadTable("port", "needs a host")
    return (host or "") + (f":{port}" if port is not None else "")


def _parameters(table: Mapping[str, object], tls: bool) -> Iterator[tuple[str, str]]:
    if tls and "tls" not in table:
        yield "tls", "true"
    for key, value in table.items():
        if key not in _PLACE:
            yield key, _written(key, value)


def _written(key: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise BadTable(key, "must be a string, a number, true or false")


def _text(table: Mapping[str, object], key: str) -> str | None:
    value = table.get(key)
    if value is not None and not isinstance(value, str):
        raise BadTable(key, "must be a string")
    return value
