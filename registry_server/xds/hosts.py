"""CORE: hosts that are names, and the numbers that they stand for: xDS clients take numbers alone.

Names are looked up again and again while somebody is told of them. One that cannot be found any more keeps its number:
that is likelier right than that nobody listens there.
"""

import heapq
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from registry_server.xds.kinds import numeric
from registry_server.xds.names import ServiceKey

# After how long a name is looked up again: one that was found, and one that was not.
REFRESH_S, RETRY_S = 30.0, 5.0
# For so long the first answer about a service waits for the names of its hosts to be looked up.
PATIENCE_S = 2.0


@dataclass(eq=False, slots=True)
class _Host:
    """A name: its address, empty while it has none; when it is due, None while it is looked up; whose instances are
    there; whether it was ever looked up, and whether it is lost."""

    address: str = ""
    due: float | None = 0.0
    users: set[ServiceKey] = field(default_factory=set)
    is_known: bool = False
    is_lost: bool = False


class HostBook:
    """Names that are in use. `on_due` is called when one is that was not before, or when a service waits for some.

    A service that begins to be asked for waits until its names have been looked up: it would seem to have no endpoint.
    """

    def __init__(self) -> None:
        self._hosts: dict[str, _Host] = {}
        self._of: dict[ServiceKey, set[str]] = {}
        # When names are due, each in the order in which that was said. What has become otherwise is left there.
        self._queue: list[tuple[float, int, str]] = []
        self._count = 0
        self._awaited: dict[ServiceKey, set[str]] = {}
        self._newly_awaited: list[ServiceKey] = []
        self.on_due: Callable[[], None] = lambda: None

    def address(self, host: str) -> str:
        """The number of a host; empty while it is not known. To be used is said by `used`."""
        if found := numeric(host):
            return found
        known = self._hosts.get(host)
        return known.address if known is not None else ""

    def trouble(self, host: str) -> str:
        """Why a host that is in use has no number; empty if it has one, or nobody asks for it."""
        known = self._hosts.get(host)
        if known is None or known.address:
            return ""
        return f"its host {host} is a name without an address" if known.is_known else f"its host {host} is looked up"

    def used(self, key: ServiceKey, hosts: Iterable[str]) -> None:
        """Those are the hosts of a service from now on; none when nobody asks for it any more."""
        names = {host for host in hosts if not numeric(host)}
        before = self._of.get(key, set())
        if names == before:
            return
        for host in before - names:
            users = self._hosts[host].users
            users.discard(key)
            if not users:
                del self._hosts[host]
        are_new = [host for host in names if host not in self._hosts]
        for host in names - before:
            if host not in self._hosts:
                self._plan(host, self._hosts.setdefault(host, _Host()), 0.0)
            self._hosts[host].users.add(key)
        if names:
            self._of[key] = names
        else:
            self._of.pop(key, None)
        if self._await(key, names, begins=not before) or are_new:
            self.on_due()

    def _await(self, key: ServiceKey, names: set[str], *, begins: bool) -> bool:
        """Note for which names a service waits; give whether it began to."""
        if begins:
            missing = {name for name in names if not self._hosts[name].is_known}
        else:
            missing = self._awaited.pop(key, set()) & names
        if missing:
            self._awaited[key] = missing
            if begins:
                self._newly_awaited.append(key)
        return begins and bool(missing)

    def is_awaited(self, key: ServiceKey) -> bool:
        """Whether a service waits for names of its hosts."""
        return key in self._awaited

    def take_awaited(self) -> list[ServiceKey]:
        """The services that have begun to wait since this was last asked."""
        found, self._newly_awaited = self._newly_awaited, []
        return found

    def give_up(self, key: ServiceKey) -> bool:
        """A service waits no more; give whether it did."""
        return self._awaited.pop(key, None) is not None

    def due(self, now: float, limit: int) -> list[str]:
        """The next names to be looked up, so many at the most; each is due again when it was found, or was not."""
        names: list[str] = []
        while len(names) < limit and (at := self.next_due()) is not None and at <= now:
            name = heapq.heappop(self._queue)[2]
            self._hosts[name].due = None
            names.append(name)
        return names

    def next_due(self) -> float | None:
        """When there is something to be looked up, but for what is under way; None for nothing."""
        while self._queue:
            at, _, name = self._queue[0]
            host = self._hosts.get(name)
            if host is not None and host.due == at:
                return at
            heapq.heappop(self._queue)
        return None

    def _plan(self, name: str, host: _Host, due: float) -> None:
        host.due = due
        self._count += 1
        heapq.heappush(self._queue, (due, self._count, name))

    def found(self, name: str, addresses: Collection[str], now: float) -> tuple[Collection[ServiceKey], bool]:
        """Take in what a name stands for, nothing if it cannot be found. Gives the services that are elsewhere now, or
        wait no more, and whether it is news that there is no such name. An address that one machine alone can call is
        none."""
        addresses = set(filter(None, map(numeric, addresses)))
        host = self._hosts.get(name)
        if host is None:
            return (), False
        self._plan(name, host, now + (REFRESH_S if addresses else RETRY_S))
        was_lost, host.is_lost, host.is_known = host.is_lost, not addresses, True
        ready = tuple(user for user in host.users if self._waits_no_more(user, name))
        if not addresses or host.address in addresses:
            return ready, host.is_lost and not was_lost
        host.address = min(addresses, key=lambda it: (":" in it, it))
        return tuple(host.users), False

    def _waits_no_more(self, key: ServiceKey, name: str) -> bool:
        missing = self._awaited.get(key)
        if missing is None:
            return False
        missing.discard(name)
        return not missing and self.give_up(key)
