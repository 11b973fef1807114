"""SHELL: whether a connection is taken."""

from registry_checks.probes.base import Target
from registry_checks.probes.reach import Reach


class TcpProbe:
    """Connects, and hangs up. `port` is 0 for that of the instance."""

    def __init__(self, target: Target, port: int, reach: Reach) -> None:
        self._target = target
        self._port = port or target.port
        self._reach = reach

    async def look(self) -> str:
        """See Probe."""
        _, writer = await self._reach.connect(self._target.host, self._port)
        writer.transport.abort()
        return f"port {self._port} takes connections"

    async def aclose(self) -> None:
        """Nothing is kept."""
