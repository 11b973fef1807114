"""CORE: where a record is, for stores whose keys are text: `instances/NAMESPACE/SERVICE/ID`, and what is set beside
them, `settings/KIND/NAMESPACE/SERVICE/ID`.

A `/` in a name is written `%2F`, a `%` is written `%25`. In the path of a setting a `-` stands for a name that is left
out, and `%2D` for a name that is just that. docs/etcd.md tells the users.
"""

from registry_server.records import Key, Kind

_INSTANCES, _SETTINGS = "instances", "settings"
_KINDS = frozenset(Kind) - {Kind.INSTANCE}
_NONE, _NOT_NONE = "-", "%2D"


def path_of(key: Key) -> str:
    """Where the record of a key is."""
    if key.kind is Kind.INSTANCE:
        return "/".join((_INSTANCES, *map(_escape, key[:3])))
    return "/".join((_SETTINGS, key.kind, *map(_escape_or_none, key[:3])))


def key_of(path: str) -> Key | None:
    """The key whose record is there; None if there is none, or none that `path_of` would put there."""
    found = None
    match path.split("/"):
        case [kind, namespace, service, id_] if kind == _INSTANCES and namespace and service and id_:
            found = Key(_unescape(namespace), _unescape(service), _unescape(id_))
        case [setting, kind, namespace, service, id_] if setting == _SETTINGS and kind in _KINDS and id_ != _NONE:
            found = Key(_unescape_or_none(namespace), _unescape_or_none(service), _unescape_or_none(id_), Kind(kind))
    return found if found is not None and path_of(found) == path else None


def _escape(name: str) -> str:
    return name.replace("%", "%25").replace("/", "%2F")


def _unescape(name: str) -> str:
    return name.replace("%2F", "/").replace("%25", "%")


def _escape_or_none(name: str) -> str:
    return _NOT_NONE if name == _NONE else _escape(name) or _NONE


def _unescape_or_none(name: str) -> str:
    return {_NONE: "", _NOT_NONE: _NONE}.get(name, _unescape(name))
