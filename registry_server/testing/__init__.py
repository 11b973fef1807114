"""For those who write a store of their own: the contract as tests. Needs pytest and pytest-asyncio; docs/stores.md."""

import pytest

pytest.register_assert_rewrite(
    *(f"registry_server.testing.{name}" for name in ("commits", "leases", "settings", "recording"))
)

from registry_server.testing.contract import StoreContract  # noqa: E402 - what is imported before is not rewritten
from registry_server.testing.recording import Recorder, Running, running  # noqa: E402

__all__ = ["Recorder", "Running", "StoreContract", "running"]
