"""The client of grpc-registry: register, watch, list, and `registry://` channels.

    async with registry_client.connect("127.0.0.1:7400") as registry:
        async with registry.register(Instance(service="player", host="10.0.0.5", port=8001)):
            async for view in registry.watch("player"):
                ...

`registry_client.sync` is the same for threads; `channel` and `registry_client.aio.channel` make gRPC channels.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from registry_client.backoff import Backoff
from registry_client.callbacks import Subscription
from registry_client.check_rules import CheckRule, CheckRules
from registry_client.client import RegistryClient, connect
from registry_client.config import from_config
from registry_client.discovery import Discovery, DiscoveryStatistics
from registry_client.errors import (
    ClientClosed,
    Conflict,
    InvalidAnswer,
    InvalidArgument,
    InvalidTarget,
    LimitExceeded,
    Misuse,
    NeverRegistered,
    NotFound,
    PermissionDenied,
    RegistrationLost,
    RegistryError,
    RegistryUnavailable,
    Unauthenticated,
)
from registry_client.event import Event, EventCause, EventFilters, Events
from registry_client.events import EventWatch
from registry_client.health import CheckResult, Health, HealthCheck, HealthStats, Prober
from registry_client.instance import (
    Cause,
    Endpoint,
    Instance,
    Key,
    Locality,
    NamespaceSummary,
    Removed,
    ServiceSummary,
    Status,
)
from registry_client.lease import State
from registry_client.many import InEach, Registries, connect_many
from registry_client.policies import TrafficPolicies
from registry_client.policy import (
    Balancing,
    FailurePercentage,
    Follows,
    OutlierDetection,
    Retries,
    RetryCode,
    SuccessRate,
    TrafficPart,
    TrafficPolicy,
    Verdict,
)
from registry_client.registration import Registration
from registry_client.signals import run_until_signal
from registry_client.steps import WatchLimits
from registry_client.tls import TLS
from registry_client.verdicts import Door, Effect, InstanceVerdict, Leaving, Reason, ToldClient, Why
from registry_client.view import Changes, View
from registry_client.watcher import Watch
from registry_client.whoami import WhoAmI
from registry_client.xds_clients import XdsClients

if TYPE_CHECKING:
    from registry_client import aio, metrics, sync, testing, xds
    from registry_client.bridge.asking import why
    from registry_client.monitor import Monitor
    from registry_client.resolver import channel

    __version__: str

__all__ = [
    "TLS",
    "Backoff",
    "Balancing",
    "Cause",
    "Changes",
    "CheckResult",
    "CheckRule",
    "CheckRules",
    "ClientClosed",
    "Conflict",
    "Discovery",
    "DiscoveryStatistics",
    "Door",
    "Effect",
    "Endpoint",
    "Event",
    "EventCause",
    "EventFilters",
    "EventWatch",
    "Events",
    "FailurePercentage",
    "Follows",
    "Health",
    "HealthCheck",
    "HealthStats",
    "InEach",
    "Instance",
    "InstanceVerdict",
    "InvalidAnswer",
    "InvalidArgument",
    "InvalidTarget",
    "Key",
    "Leaving",
    "LimitExceeded",
    "Locality",
    "Misuse",
    "Monitor",
    "NamespaceSummary",
    "NeverRegistered",
    "NotFound",
    "OutlierDetection",
    "PermissionDenied",
    "Prober",
    "Reason",
    "Registration",
    "RegistrationLost",
    "Registries",
    "RegistryClient",
    "RegistryError",
    "RegistryUnavailable",
    "Removed",
    "Retries",
    "RetryCode",
    "ServiceSummary",
    "State",
    "Status",
    "Subscription",
    "SuccessRate",
    "ToldClient",
    "TrafficPart",
    "TrafficPolicies",
    "TrafficPolicy",
    "Unauthenticated",
    "Verdict",
    "View",
    "Watch",
    "WatchLimits",
    "WhoAmI",
    "Why",
    "XdsClients",
    "__version__",
    "aio",
    "channel",
    "connect",
    "connect_many",
    "from_config",
    "metrics",
    "run_until_signal",
    "sync",
    "testing",
    "why",
    "xds",
]

# What not every program needs is imported by those that do: channels bring the balancer along.
_LATER = {
    "aio": "registry_client.aio",
    "Monitor": "registry_client.monitor",
    "channel": "registry_client.resolver",
    "metrics": "registry_client.metrics",
    "sync": "registry_client.sync",
    "testing": "registry_client.testing",
    "why": "registry_client.bridge.asking",
    "xds": "registry_client.xds",
}


def __getattr__(name: str) -> object:
    if name in _LATER:
        module = import_module(_LATER[name])
        return getattr(module, name) if name in ("channel", "Monitor", "why") else module
    if name == "__version__":
        return _version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("grpc-registry")
    except metadata.PackageNotFoundError:  # a source tree on the path
        return "0+unknown"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
