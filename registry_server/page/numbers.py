"""SHELL: how a server is, in numbers, for its page. What grows is told as it is; the page says how fast it does."""

import time
from collections.abc import Callable, Mapping

from registry_server.audience import Audience
from registry_server.metrics.counting import Counting
from registry_server.rights import EVERY
from registry_server.rpc.table import Caller


class Numbers:
    """`store` is the kind of store. What there is in all, and what is done for all, is told to who may see all of it,
    as by `/metrics`."""

    def __init__(self, counting: Counting, audience: Audience, store: str, is_serving: Callable[[], bool]) -> None:
        self._of = counting
        self._audience = audience
        self._store = store
        self._is_serving = is_serving
        self._began = time.time()
        self.listens = ""  # where the registry does, once that is known

    def __call__(self, caller: Caller) -> Mapping[str, object]:
        """As of now."""
        catalog, sees_all = self._of.feed.catalog, caller.rights.may("read", EVERY, EVERY)
        return {
            "at": _ms(time.time()),
            "began": _ms(self._began),
            "identity": caller.identity,
            "serving": self._is_serving(),
            "listens": self.listens,
            "epoch": catalog.epoch,
            "revision": catalog.revision,
            "store": self._store_now(),
            "commits": self._commits() if sees_all else None,
            "size": catalog.size._asdict() if sees_all else None,
            "pushes": self._pushes() if sees_all else None,
        }

    def _store_now(self) -> Mapping[str, object]:
        away_s = self._of.feed.stale_for_s
        return {"kind": self._store, "away": None if away_s is None else round(away_s, 1)}

    def _commits(self) -> Mapping[str, object]:
        """What the store is asked for all services, and what is held or wrong of any."""
        feed, store = self._of.feed, self._of.store
        times = store.times["commit"]
        return {
            "waiting": len(feed.guard),
            "flaws": feed.catalog.flaws,
            "held": store.held,
            "count": sum(times.counts),
            "failed": sum(count for (_, end), count in store.ends.items() if end in ("away", "error")),
            "commit_s": times.sum_s,
        }

    def _pushes(self) -> Mapping[str, object]:
        it = self._of.hub.statistics()
        return {
            "changes": self._of.feed.catalog.seq,
            "calls": sum(sum(counted.codes.values()) for counted in self._of.calls.methods.values()),
            "messages": it.sends,
            "bytes": it.sent_bytes,
            "readers": it.readers,
            "behind": it.behind,
            "streams": len(self._audience),
        }


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
