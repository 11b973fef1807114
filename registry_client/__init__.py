"""The client of grpc-registry: register, watch, list, and `registry://` channels.

    async with registry_client.connect("127.0.0.1:7400") as registry:
        async with registry.register(Instance(service="player", host="10.0.0.5", port=8001)):
            async for view in registry.watch("player"):
                ...

`registry_client.sync` is the same for threads; `channel` and `registry_client.aio.channel` make gRPC channels.
"""

from registry_client import aio, sync
from registry_client.backoff import Backoff
from registry_client.callbacks import Subscription
from registry_client.client import RegistryClient, connect
from registry_client.errors import (
    ClientClosed,
    Conflict,
    InvalidArgument,
    InvalidTarget,
    LimitExceeded,
    NotFound,
    PermissionDenied,
    RegistrationLost,
    RegistryError,
    RegistryUnavailable,
    Unauthenticated,
)
from registry_client.instance import Endpoint, Health, Instance, Key, Locality, ServiceSummary, Status
from registry_client.lease import State
from registry_client.registrar import Registration
from registry_client.resolver import channel
from registry_client.signals import run_until_signal
from registry_client.steps import WatchLimits
from registry_client.view import Changes, View
from registry_client.watcher import Watch

__all__ = [
    "Backoff",
    "Changes",
    "ClientClosed",
    "Conflict",
    "Endpoint",
    "Health",
    "Instance",
    "InvalidArgument",
    "InvalidTarget",
    "Key",
    "LimitExceeded",
    "Locality",
    "NotFound",
    "PermissionDenied",
    "Registration",
    "RegistrationLost",
    "RegistryClient",
    "RegistryError",
    "RegistryUnavailable",
    "ServiceSummary",
    "State",
    "Status",
    "Subscription",
    "Unauthenticated",
    "View",
    "Watch",
    "WatchLimits",
    "aio",
    "channel",
    "connect",
    "run_until_signal",
    "sync",
]
