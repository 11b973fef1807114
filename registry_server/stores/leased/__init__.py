"""A store made of a backend: leases, expiry and the telling are done here, and the backend keeps values under names."""

from registry_server.stores.leased.store import Leased

__all__ = ["Leased"]
