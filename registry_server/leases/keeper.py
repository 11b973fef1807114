"""SHELL: keeps the key of lease ids, which the first server of a registry makes and all find in the store.

It is made with an order of changes and ends with it: a store that starts anew has forgotten all leases, so ids from
before are nobody's. Where somebody deletes the key, or writes something else there, it is put back as it was.
"""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Sequence
from typing import Protocol

from registry_server.catalog import Catalog
from registry_server.changes import Change
from registry_server.errors import RequestError, Unavailable
from registry_server.leases.seal import KEY_BYTES, Seal, packed, unpacked
from registry_server.records import Key, Kind
from registry_server.settings import SettingChange

log = logging.getLogger(__name__)

KEY = Key("", "", "key", Kind.LEASE_KEY)
RETRY_S = 0.2
# How long a start waits for a key. A store that takes no write just now may be read all the same.
READY_S = 2.0


class KeyWriter(Protocol):
    """Writes a setting if nobody was faster."""

    async def set_if(self, key: Key, value: bytes, revision: int) -> int:
        """See SettingWriter."""


class Keeper:
    """A listener. `new_key` makes a key of so many bytes."""

    def __init__(
        self, writer: KeyWriter, catalog: Catalog, new_key: Callable[[int], bytes] = secrets.token_bytes
    ) -> None:
        self._writer = writer
        self._catalog = catalog
        self._new_key = new_key
        self._key = b""
        self._epoch = ""
        self._seal: Seal | None = None
        self._said = ""
        self._news = asyncio.Event()
        self._is_ready = asyncio.Event()

    def seal(self) -> Seal:
        """By which ids are made and opened now. Raises Unavailable until there is a key."""
        if self._seal is None:
            raise Unavailable("the key of lease ids is not in the store yet")
        return self._seal

    async def ready(self, within_s: float = READY_S) -> None:
        """Wait until there is a key, or so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._is_ready.wait()

    # ---- what happens in the store

    def changed(self, changes: Sequence[Change]) -> None:
        """Instances mean nothing here."""

    def settings_changed(self, changes: Sequence[SettingChange]) -> None:
        """The key may be there, or gone."""
        if any(change.key == KEY for change in changes):
            self._look()

    def refresh_all(self) -> None:
        """Another order of changes: the key of the one before is of no use."""
        self._look()

    def _look(self) -> None:
        if self._epoch != self._catalog.epoch:
            self._epoch, self._key, self._seal = self._catalog.epoch, b"", None
            self._is_ready.clear()
        key = self._written()
        if key is None:
            self._news.set()
        elif key != self._key:
            self._key, self._seal = key, Seal(key)
            self._is_ready.set()

    def _written(self) -> bytes | None:
        record = self._catalog.settings.get(KEY)
        return None if record is None else unpacked(record.value, self._catalog.epoch)

    # ---- writing it

    async def run(self) -> None:
        """Have a key in the store, until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._written() is None:
                await self._write()

    async def _write(self) -> None:
        """Write the key that is in use, or a new one, unless another server was faster."""
        record = self._catalog.settings.get(KEY)
        value = packed(self._key or self._new_key(KEY_BYTES), self._catalog.epoch)
        try:
            await self._writer.set_if(KEY, value, record.revision if record is not None else 0)
        except RequestError as error:
            log.debug("the key of lease ids is not written: %s", error)
        except Exception as error:  # whatever a store raises that somebody else wrote, again and again
            if repr(error) != self._said:
                self._said = repr(error)
                log.warning("the key of lease ids is not written, and tried on: %s", self._said)
        if self._written() is None:
            await asyncio.sleep(RETRY_S)
