"""CORE: which streams want to hear of which service."""

from collections.abc import Collection

from registry_server.xds.names import ServiceKey
from registry_server.xds.resources import Resources
from registry_server.xds.session import AdsSession


class Index:
    """A session.Interests that can be asked. What nobody wants any more is not kept in `resources` either."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._sessions: dict[ServiceKey, dict[AdsSession, None]] = {}

    def add(self, key: ServiceKey, session: AdsSession) -> None:
        """See session.Interests."""
        sessions = self._sessions.get(key)
        if sessions is None:
            sessions = self._sessions[key] = {}
            self._resources.want(key)
        sessions[session] = None

    def remove(self, key: ServiceKey, session: AdsSession) -> None:
        """See session.Interests."""
        sessions = self._sessions[key]
        del sessions[session]
        if not sessions:
            del self._sessions[key]
            self._resources.unwant(key)

    def of(self, key: ServiceKey) -> Collection[AdsSession]:
        """Those who want to hear of it."""
        return self._sessions.get(key, ())
