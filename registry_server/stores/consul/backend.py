"""SHELL: the backend on Consul's KV: follows the log and writes it (ledger.py says how that works)."""

import asyncio
import json
import random
import secrets
import time
from base64 import b64encode
from binascii import a2b_base64
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import NamedTuple, cast

from registry_server.stores.backend import Changed, Check, ChecksFailed, Everything, Item
from registry_server.stores.base import Refused, StoreAway, StoreError
from registry_server.stores.consul.http import ANSWER_S, Answer, Consul, TokenRefused, next_index
from registry_server.stores.consul.ledger import (
    BASE,
    DATA,
    FOLD,
    HEAD,
    LOG,
    Batch,
    Bid,
    ConsulLog,
    Folded,
    Logged,
    batch,
    place,
)
from registry_server.stores.consul.url import ConsulURL

# Consul takes bodies of 512 KiB, in base64 and with what is around it; an entry has at most so much of it.
MAX_ENTRY_BYTES = 360 * 1024
# What waits together goes into one entry up to so much.
MAX_BATCH_BYTES = 128 * 1024
MAX_WAITING = 10_000
MAX_UNTOLD = 10_000
# Of a transaction, beside the first.
OPERATIONS = 63
# A blocking query is answered after so long even if nothing changed; Consul adds up to a sixteenth.
WAIT_S = 10
# The pause after one that told of nothing but what this process wrote itself.
REST_S = 0.02
LOAD_S = 30.0
# Who has just written is a round trip ahead of everybody else. While others write too, which was so if they did in the
# last few seconds, it lets them go first now and then.
SHARED_S = 5.0

Operation = dict[str, dict[str, object]]


class Pair(NamedTuple):
    """A key as it is in Consul."""

    key: str
    value: bytes
    modified: int


class ConsulBackend:
    """Values under names, below one prefix in Consul. See Backend, as for all of these."""

    most = 10_000

    def __init__(self, consul: Consul, prefix: str) -> None:
        self._consul = consul
        self._prefix = f"{prefix}/"
        self._ledger = ConsulLog(0)
        self._waiting: deque[tuple[Bid, asyncio.Future[int]]] = deque()
        self._untold: deque[Changed] = deque()
        self._news = asyncio.Event()
        self._may_write = asyncio.Event()
        self._may_fold = asyncio.Event()
        self._is_mine_to_fold = False
        self._reading = asyncio.Lock()
        self._is_open = False
        self._now = time.monotonic
        self._rng = random.Random()  # noqa: S311 - spreads load, hides nothing
        self._shared_until = 0.0

    @classmethod
    def of(cls, url: ConsulURL) -> "ConsulBackend":
        """Not connected yet."""
        return cls(Consul(url), url.prefix)

    # ---- telling

    async def watch(self) -> AsyncGenerator[Everything | Changed]:
        """Everything, and then what follows in the log."""
        everything = await self._load()
        self._untold.clear()
        self._is_open = True
        tasks = [asyncio.create_task(it) for it in (self._follow(), self._write(), self._fold_now_and_then())]
        for task in tasks:
            task.add_done_callback(lambda _: self._news.set())
        try:
            yield everything
            while not any(task.done() for task in tasks):
                while self._untold:
                    yield self._untold.popleft()
                self._news.clear()
                await self._news.wait()
            await asyncio.gather(*(task for task in tasks if task.done()))
        finally:
            self._is_open = False
            for task in tasks:
                task.cancel()
            self._fail_all(StoreAway("Consul was lost; nobody knows whether that was written"))
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _load(self) -> Everything:
        """All that is there, in one answer: what is folded, and the entries since."""
        await self._ask_for(HEAD, {})  # of what a token may not read, Consul lists nothing, and does not say so
        query = {"recurse": "", "consistent": ""}
        found = _found(await self._consul.ask("GET", f"/v1/kv/{self._prefix}", query, timeout_s=LOAD_S), self._prefix)
        head, base = found.get(HEAD), _seq(found.get(BASE))
        entries = {it.seq: (it, of.modified) for of in found.values() if (it := _logged(of)) is not None}
        seq = _seq(head) or max(entries, default=base)
        self._ledger = ledger = ConsulLog(base)
        items: dict[str, Item] = {}
        for name, kept in _folded(found):
            ledger.keep(name, kept)
            items[name] = Item(name, kept.value, kept.revision, kept.created)
        for number in sorted(it for it in entries if base < it <= seq):
            change = ledger.take(*entries[number])
            items |= {item.name: item for item in change.puts}
            for name in change.deletes:
                del items[name]
        revision = head.modified if head else max((it.modified for it in found.values()), default=0)
        ledger.stand(seq, revision, head.modified if head else 0)
        return Everything(revision, tuple(items.values()))

    async def _follow(self) -> None:
        index = 0
        while True:
            query = {"index": str(index), "wait": f"{WAIT_S}s"} if index else {}
            answer = await self._ask_for(HEAD, query, WAIT_S * 17 / 16 + ANSWER_S)
            index = next_index(index, answer.reached)
            if _seq(_only(answer, self._prefix)) == self._ledger.seq:
                await asyncio.sleep(REST_S)
            else:
                await self._catch_up()

    async def _catch_up(self) -> None:
        """Read all that was written up to now. Raises StoreAway if that is not there, or less than there was."""
        async with self._reading:
            head = _only(await self._ask_for(HEAD, {"consistent": ""}), self._prefix)
            seq = _seq(head)
            if head is None or seq < self._ledger.seq:
                raise StoreAway("Consul has less than it had: it was emptied, or set back")
            if seq == self._ledger.seq:
                self._ledger.head_index = head.modified
            missing = range(self._ledger.seq + 1, seq + 1)
            for start in range(0, len(missing), OPERATIONS):
                await self._read(missing[start : start + OPERATIONS])

    async def _read(self, missing: Sequence[int]) -> None:
        answer = await self._transaction([self._operation("get", place(seq)) for seq in missing])
        if answer.status != 200:
            raise StoreAway("entries of the log are not there")
        for seq, found in zip(missing, _results(answer, self._prefix, len(missing)), strict=True):
            logged = Logged.read(found.value)
            if logged is None or logged.seq != seq:
                raise StoreAway("entries of the log were written over before they could be read")
            self._take(logged, found.modified, is_own=False)

    def _take(self, logged: Logged, revision: int, *, is_own: bool) -> None:
        if len(self._untold) >= MAX_UNTOLD:
            raise StoreAway("it was told of faster than that could be taken in")
        if not is_own:
            self._shared_until = self._now() + SHARED_S
        self._untold.append(self._ledger.take(logged, revision))
        self._news.set()
        if logged.seq % FOLD == 0:
            self._is_mine_to_fold |= is_own
            self._may_fold.set()

    # ---- writing

    async def transact(self, checks: Sequence[Check], writes: Mapping[str, bytes | None]) -> int:
        """Wait for a turn in the log."""
        asked = Bid(checks, writes)
        if asked.size > MAX_ENTRY_BYTES:
            raise Refused(f"{asked.size} bytes in one write, which are more than the {MAX_ENTRY_BYTES} of Consul")
        if not self._is_open or len(self._waiting) >= MAX_WAITING:
            raise StoreAway("Consul is not reached" if not self._is_open else "too many writes wait for Consul")
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, done))
        self._may_write.set()
        return await done

    async def _write(self) -> None:
        while True:
            await self._may_write.wait()
            self._may_write.clear()
            while self._waiting:
                began = self._now()
                try:
                    has_written = await self._write_some()
                except TokenRefused as refused:
                    self._fail_all(refused)
                    raise
                if has_written and began < self._shared_until:
                    await asyncio.sleep(self._rng.uniform(0, 2 * (self._now() - began)))

    async def _write_some(self) -> bool:
        """Write for as many of those who wait as go together. They wait on if somebody else was faster."""
        while self._waiting and self._waiting[0][1].done():  # given up
            self._waiting.popleft()
        if not self._waiting:
            return False
        if not self._ledger.has_room:
            await self._fold()
            if not self._ledger.has_room:
                raise StoreAway("the log in Consul is full, and cannot be folded")
        async with self._reading:
            known = self._ledger.seq, self._ledger.head_index
            some = batch(self._ledger, (asked for asked, _ in self._waiting), MAX_BATCH_BYTES)
            logged = Logged(self._ledger.seq + 1, some.writes)
            answer = await self._transaction(self._operations(logged))
            if answer.status == 200:
                self._answer(logged, some, answer)
                return True
        if answer.status != 409:
            raise StoreAway(f"Consul answers a transaction with {answer.status}")
        await self._catch_up()
        if (self._ledger.seq, self._ledger.head_index) == known:
            raise StoreAway(f"Consul takes no transaction: {answer.shown}")
        return False

    def _answer(self, logged: Logged, some: Batch, answer: Answer) -> None:
        """The head was where it was known to be, so all verdicts are true."""
        if logged.writes:
            self._take(logged, _results(answer, self._prefix, 2)[0].modified, is_own=True)
        for failed in some.verdicts:
            done = self._waiting.popleft()[1]
            if done.done():
                continue
            if failed:
                done.set_exception(ChecksFailed(tuple(failed), self._ledger.revision))
            else:
                done.set_result(self._ledger.revision)

    def _operations(self, logged: Logged) -> list[Operation]:
        index = self._ledger.head_index
        if not logged.writes:
            return [self._still(HEAD, index)]
        head = self._operation("cas", HEAD, b"%d" % logged.seq, Index=index)
        return [head, self._operation("set", place(logged.seq), logged.packed())]

    def _fail_all(self, error: StoreError) -> None:
        while self._waiting:
            done = self._waiting.popleft()[1]
            if not done.done():
                done.set_exception(error)

    # ---- folding

    async def _fold_now_and_then(self) -> None:
        """It is for the one who wrote the entry; if that one is gone, for whoever finds that it was not done."""
        while True:
            await self._may_fold.wait()
            self._may_fold.clear()
            is_mine, self._is_mine_to_fold = self._is_mine_to_fold, False
            found = _only(await self._ask_for(BASE, {"consistent": ""}), self._prefix)
            self._ledger.fold(_seq(found))
            if is_mine or self._ledger.seq - self._ledger.base > 3 * FOLD:
                await self._fold()

    async def _fold(self) -> None:
        """Put all that was written since the base into keys of its own. Whoever begins later than another ends that
        one's folding: each transaction checks that the base is still as it was claimed."""
        found = _only(await self._ask_for(BASE, {"consistent": ""}), self._prefix)
        base, claimed_at = _seq(found), found.modified if found else 0
        self._ledger.fold(base)
        seq, left = self._ledger.seq, deque(self._ledger.unfolded())
        claim = b"%d %s" % (base, secrets.token_hex(8).encode())
        answer = await self._transaction([self._operation("cas", BASE, claim, Index=claimed_at)])
        if answer.status == 200:
            claimed_at = _results(answer, self._prefix, 1)[0].modified
        while answer.status == 200 and left:
            answer = await self._transaction([self._still(BASE, claimed_at), *self._foldings(left)])
        if answer.status == 200:
            answer = await self._transaction([self._operation("cas", BASE, b"%d" % seq, Index=claimed_at)])
        if answer.status == 200:
            self._ledger.fold(seq)
        elif answer.status != 409:
            raise StoreAway(f"Consul answers the folding of the log with {answer.status}")

    def _foldings(self, left: deque[tuple[str, Folded | None]]) -> Iterator[Operation]:
        size = 0
        for _ in range(OPERATIONS):
            if not left or (size and size + _size(left[0]) > MAX_ENTRY_BYTES):
                return
            size += _size(left[0])
            name, kept = left.popleft()
            if kept is None:
                yield self._operation("delete", DATA + name)
            else:
                yield self._operation("set", DATA + name, kept.packed())

    # ---- asking

    def _operation(self, verb: str, key: str, value: bytes | None = None, **more: int) -> Operation:
        valued = {} if value is None else {"Value": b64encode(value).decode()}
        return {"KV": {"Verb": verb, "Key": self._prefix + key, **valued, **more}}

    def _still(self, key: str, index: int) -> Operation:
        """That a key was not written since that index, which is 0 if there is none."""
        return self._operation("check-index", key, Index=index) if index else self._operation("check-not-exists", key)

    async def _transaction(self, operations: Sequence[Operation]) -> Answer:
        return await self._consul.ask("PUT", "/v1/txn", body=json.dumps(operations).encode())

    async def _ask_for(self, key: str, query: Mapping[str, str], timeout_s: float = ANSWER_S) -> Answer:
        return await self._consul.ask("GET", f"/v1/kv/{self._prefix}{key}", query, timeout_s=timeout_s)

    async def aclose(self) -> None:
        """Let go of connections."""
        await self._consul.aclose()


# ---- what Consul says


def _found(answer: Answer, prefix: str) -> dict[str, Pair]:
    """The keys that an answer is about, without the prefix. Raises StoreAway."""
    if answer.status == 404:
        return {}
    if answer.status != 200:
        raise StoreAway(f"Consul answers with {answer.shown}")
    try:
        found = [_of(it, prefix) for it in cast("list[dict[str, object]]", answer.json())]
    except (TypeError, KeyError, ValueError):
        raise StoreAway("it does not answer as Consul does") from None
    return {it.key: it for it in found}


def _results(answer: Answer, prefix: str, count: int) -> list[Pair]:
    """What a transaction of so many operations is answered. Raises StoreAway."""
    try:
        results = cast("dict[str, list[dict[str, dict[str, object]]]]", answer.json())["Results"]
        pairs = [_of(it["KV"], prefix) for it in results]
    except (TypeError, KeyError, ValueError):
        raise StoreAway("it does not answer as Consul does") from None
    if len(pairs) != count:
        raise StoreAway(f"it answers a transaction of {count} operations with {len(pairs)} results")
    return pairs


def _of(it: Mapping[str, object], prefix: str) -> Pair:
    value, index = it["Value"], it["ModifyIndex"]
    if not isinstance(index, int) or not isinstance(value, str | None):
        raise TypeError
    return Pair(str(it["Key"]).removeprefix(prefix), a2b_base64(value or ""), index)


def _only(answer: Answer, prefix: str) -> Pair | None:
    return next(iter(_found(answer, prefix).values()), None)


def _seq(found: Pair | None) -> int:
    """The number at the beginning of a value; 0 if there is none."""
    number = found.value.partition(b" ")[0] if found else b""
    return int(number) if number.isdigit() and len(number) < 19 else 0


def _logged(found: Pair) -> Logged | None:
    logged = Logged.read(found.value) if found.key.startswith(LOG) else None
    return logged if logged is not None and place(logged.seq) == found.key else None


def _folded(found: Mapping[str, Pair]) -> Iterator[tuple[str, Folded]]:
    for key, it in found.items():
        if key.startswith(DATA) and (kept := Folded.read(it.value)) is not None:
            yield key.removeprefix(DATA), kept


def _size(folding: tuple[str, Folded | None]) -> int:
    name, kept = folding
    return 3 * len(name) + len(kept.value if kept else b"") + 64
