"""The servers that stores need."""

from tests.support.stores import backends

__all__ = ["backends"]
