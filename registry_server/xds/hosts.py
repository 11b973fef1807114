"""CORE: hosts that are names, and the numbers that they stand for: xDS clients take numbers alone.

Names are looked up again and again while somebody is told of them. One that cannot be found any more keeps its number:
that is likelier right than that nobody listens there.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from registry_server.xds.kinds import numeric
from registry_server.xds.names import ServiceKey

# After how long a name is looked up again: one that was found, and one that was not.
REFRESH_S, RETRY_S = 30.0, 5.0


@dataclass(eq=False, slots=True)
class _Host:
    """A name: its address, empty while it has none; when it is due; whose instances are there; whether it is lost."""

    address: str = ""
    due: float = 0.0
    users: set[ServiceKey] = field(default_factory=set)
    is_lost: bool = False


class HostBook:
    """Names that are in use. `on_due` is called when one is that was not before."""

    def __init__(self) -> None:
        self._hosts: dict[str, _Host] = {}
        self._of: dict[ServiceKey, set[str]] = {}
        self.on_due: Callable[[], None] = lambda: None

    def address(self, host: str) -> str:
        """The number of a host; empty while it is not known. To be used is said by `used`."""
        if found := numeric(host):
            return found
        known = self._hosts.get(host)
        return known.address if known is not None else ""

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
            self._hosts.setdefault(host, _Host()).users.add(key)
        if names:
            self._of[key] = names
        else:
            self._of.pop(key, None)
        if are_new:
            self.on_due()

    def due(self, now: float) -> list[str]:
        """The names to be looked up, in the order in which they came."""
        return [name for name, host in self._hosts.items() if host.due <= now]

    def next_due(self, but: Collection[str] = ()) -> float | None:
        """When there is something to be looked up, but for these; None for nothing."""
        return min((host.due for name, host in self._hosts.items() if name not in but), default=None)

    def found(self, name: str, addresses: Collection[str], now: float) -> tuple[Collection[ServiceKey], bool]:
        """Take in what a name stands for, nothing if it cannot be found. Gives the services that are elsewhere now, and
        whether it is news that there is no such name."""
        host = self._hosts.get(name)
        if host is None:
            return (), False
        host.due = now + (REFRESH_S if addresses else RETRY_S)
        was_lost, host.is_lost = host.is_lost, not addresses
        if not addresses or host.address in addresses:
            return (), host.is_lost and not was_lost
        host.address = min(addresses, key=lambda it: (":" in it, it))
        return tuple(host.users), False
