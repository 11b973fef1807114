"""SHELL: the registry inside of this process, for who names a store in place of addresses."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from registry_api.limits import UNIX
from registry_client.errors import InvalidArgument, InvalidTarget, RegistryError, RegistryUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry_server.embedded import Embedded

# What begins like a URL. A port after the colon makes it the address of a host.
_URL = re.compile(r"[a-z][a-z0-9+.-]*:(?!\d+(?:,|$))")
# There may be a password in it, which what is said of addresses would show.
_SECRETIVE = re.compile(r"://.*[@?]")
_NO_START = "the registry in this process does not start"


def store_url(addresses: object) -> str:
    """The URL of a store, if that is what was given; else nothing. Raises InvalidTarget for one with a mistake."""
    if not isinstance(addresses, str) or not _URL.match(addresses) or addresses.startswith(UNIX):
        return ""
    from registry_server import stores  # whose place is elsewhere, mostly

    if not stores.is_url(addresses) and not _SECRETIVE.search(addresses):
        return ""
    try:
        stores.check_url(addresses)
    except stores.BadStoreURL as error:
        raise InvalidTarget(f"addresses: {error}") from None
    return addresses


def store_kinds() -> list[str]:
    """The kinds of store that there are."""
    from registry_server import stores

    return stores.kinds()


def table_url(table: Mapping[str, object], at: str) -> str:
    """The URL of the store that a table describes, as in the configuration of a server. Raises InvalidArgument, with
    the key below `at`."""
    from registry_server import stores

    try:
        return stores.url_of(table)
    except stores.BadTable as error:
        path = f"{at}.{error.key}" if error.key else at
        raise InvalidArgument(f"{path}: {error}", path) from None
    except stores.BadStoreURL as error:
        raise InvalidArgument(f"{at}: {error}", at) from None


class Inside:
    """A registry in this event loop, on a loopback port, for one client."""

    def __init__(self, server: Embedded, address: str) -> None:
        self._server = server
        self.address = address

    @classmethod
    async def begin(cls, url: str, timeout: float) -> Inside:
        """Start it. Raises RegistryUnavailable when its store has not answered after so many seconds, and RegistryError
        for what no waiting mends.
        """
        from registry_server.embedded import Embedded

        server = Embedded(url)
        try:
            async with asyncio.timeout(timeout):
                return cls(server, await server.start())
        except TimeoutError:
            await server.aclose()
            raise RegistryUnavailable(
                "the registry in this process does not start: its store does not answer"
            ) from None
        except asyncio.CancelledError:
            await server.aclose()
            raise
        except Exception as error:
            raise RegistryError(f"{_NO_START}: {error}") from error

    async def aclose(self) -> None:
        """End it."""
        await self._server.aclose()
