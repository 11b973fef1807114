"""Every setting of the server: what it may be, where it comes from, and the commands that look at them."""

from registry_server.config.values import (
    GUEST_LIMITS,
    TRANSPORTS,
    Config,
    ConfigError,
    Problem,
    ServiceDefaults,
    without_urls,
)

__all__ = ["GUEST_LIMITS", "TRANSPORTS", "Config", "ConfigError", "Problem", "ServiceDefaults", "without_urls"]
