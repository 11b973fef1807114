"""SHELL: all parts of a server that count something."""

from typing import NamedTuple

from registry_server.audit.log import AuditLog
from registry_server.feed import Feed
from registry_server.health.prober import Prober
from registry_server.hub import Hub
from registry_server.limits.gate import Gate
from registry_server.metrics.calls import Calls
from registry_server.stores import MeasuredStore


class Counting(NamedTuple):
    """One of each."""

    calls: Calls
    store: MeasuredStore
    feed: Feed
    hub: Hub
    gate: Gate
    prober: Prober
    audit: AuditLog | None
