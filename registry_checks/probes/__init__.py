"""SHELL: a probe for each check that looks by itself. The libraries they need are loaded with the first that does."""

import ssl
from collections.abc import Mapping
from importlib import metadata

from registry_api.registry.v1 import registry_pb2 as pb
from registry_checks.probes.aside import Aside
from registry_checks.probes.base import CustomCheck, Failed, Probe, Target
from registry_checks.probes.reach import Reach
from registry_checks.rules import shown

__all__ = ["ENTRY_POINTS", "CustomCheck", "Failed", "Probe", "Probes", "Reach", "Target", "installed"]

ENTRY_POINTS = "grpc_registry.checks"


def installed() -> dict[str, metadata.EntryPoint]:
    """The kinds of check that other packages bring, by name; each is loaded when it is used."""
    return {point.name: point for point in metadata.entry_points(group=ENTRY_POINTS)}


class Probes:
    """Makes probes. `custom` are the kinds that were added, by name."""

    def __init__(self, reach: Reach, custom: Mapping[str, metadata.EntryPoint | CustomCheck]) -> None:
        self._reach = reach
        self._custom = custom
        # Making one reads all certificates of the system: two are enough for all.
        self._contexts: dict[bool, ssl.SSLContext] = {}
        self._loaded: dict[str, CustomCheck | Failed] = {}
        self._aside = Aside()

    def of(self, target: Target, check: pb.HealthCheck) -> Probe | None:
        """What looks as a settled check says; None for one whose owner reports. Raises Failed if it cannot be made."""
        match check.WhichOneof("kind"):
            case "http":
                from registry_checks.probes.http import HttpProbe

                context = self._context(insecure=check.http.insecure) if check.http.tls else None
                return HttpProbe(target, check.http, self._reach, context)
            case "tcp":
                from registry_checks.probes.tcp import TcpProbe

                return TcpProbe(target, check.tcp.port, self._reach)
            case "grpc":
                from registry_checks.probes.grpc import GrpcProbe

                return GrpcProbe(target, check.grpc, self._reach, check.timeout.ToMilliseconds())
            case "custom":
                return CustomProbe(target, self._kind(check.custom.type), check.custom.settings, self._aside)
        return None

    def _context(self, *, insecure: bool) -> ssl.SSLContext:
        if insecure not in self._contexts:
            self._contexts[insecure] = self._reach.context(insecure=insecure)
        return self._contexts[insecure]

    def _kind(self, name: str) -> CustomCheck:
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        found = self._loaded[name]
        if isinstance(found, Failed):
            raise found
        return found

    def _load(self, name: str) -> CustomCheck | Failed:
        kind = self._custom.get(name)
        if kind is None:
            return Failed(f"the kind of check {name!r} was not added here")
        try:
            made: CustomCheck = kind.load() if isinstance(kind, metadata.EntryPoint) else kind
        except BaseException as error:  # whatever a module does that is loaded
            if isinstance(error, KeyboardInterrupt):
                raise
            return Failed(f"the kind of check {name!r} cannot be loaded: {error!r}")
        return made if callable(made) else Failed(f"the kind of check {name!r} is no function: {made!r:.100}")


class CustomProbe:
    """A check that somebody else brought."""

    def __init__(self, target: Target, check: CustomCheck, settings: Mapping[str, str], aside: Aside) -> None:
        self._target = target
        self._check = check
        self._settings = dict(settings)
        self._aside = aside

    async def look(self) -> str:
        """See Probe."""
        return str(await self._aside.run(id(self), self._asked))

    async def _asked(self) -> str:
        """What it returns is its own as well, and is made text beside the server."""
        return shown(str(await self._check(self._target.host, self._target.port, dict(self._settings)) or "it passes"))

    async def aclose(self) -> None:
        """See Probe."""
        await self._aside.leave(id(self))
