"""CORE: which instances each lease keeps alive: mostly one, sometimes thousands."""

from registry_server.records import Key


class Holdings:
    """The keys that each lease holds. One key costs no container; adding and removing cost the same however many."""

    def __init__(self) -> None:
        self._held: dict[str, Key | dict[Key, None]] = {}

    def __len__(self) -> int:
        """How many leases hold something."""
        return len(self._held)

    def add(self, lease_id: str, key: Key) -> None:
        """Let the lease hold the key."""
        held = self._held.get(lease_id)
        if held is None:
            self._held[lease_id] = key
        elif isinstance(held, dict):
            held[key] = None
        elif held != key:
            self._held[lease_id] = {held: None, key: None}

    def remove(self, lease_id: str, key: Key) -> None:
        """Let the lease hold the key no more."""
        held = self._held.get(lease_id)
        if isinstance(held, dict):
            held.pop(key, None)
            if not held:
                del self._held[lease_id]
        elif held == key:
            del self._held[lease_id]

    def drop(self, lease_id: str) -> None:
        """Let the lease hold nothing."""
        self._held.pop(lease_id, None)

    def of(self, lease_id: str) -> tuple[Key, ...]:
        """What the lease holds, in the order in which it was added."""
        held = self._held.get(lease_id)
        if held is None:
            return ()
        return tuple(held) if isinstance(held, dict) else (held,)

    def count(self, lease_id: str) -> int:
        """How many keys the lease holds."""
        held = self._held.get(lease_id)
        return 0 if held is None else len(held) if isinstance(held, dict) else 1
