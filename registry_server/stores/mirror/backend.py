"""SHELL: the backend that is several others."""

import asyncio
import random
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from enum import StrEnum

from registry_server.stores.backend import Backend, Changed, Check, Everything
from registry_server.stores.base import StoreAway
from registry_server.stores.mirror.tenure import Tenure, Terms

# After enough backends have answered, the others are waited for so long, in seconds. Where one is enough, longer: of
# the others, one may know more.
GRACE_S, GRACE_OF_ANY_S = 0.5, 3.0


class Write(StrEnum):
    """In how many of the backends a write has to be before it is answered."""

    QUORUM = "quorum"  # more than half
    ANY = "any"


class MirrorBackend:
    """Several backends as one. One server writes at a time; others wait until it is gone."""

    def __init__(self, backends: Mapping[str, Backend], write: Write, rng: random.Random | None = None) -> None:
        """`backends` by the names under which they are spoken of, the first to be read first."""
        self._backends = dict(backends)
        self._holder = secrets.token_hex(8)
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, hides nothing
        count = len(backends)
        to_write = count // 2 + 1
        # Who has promises of so many finds among them one that has all that was answered. Of any, that would be all.
        self._terms = Terms(count - to_write + 1, to_write, GRACE_S)
        if write is Write.ANY:
            self._terms = Terms(1, 1, GRACE_OF_ANY_S)
        self._tenure: Tenure | None = None
        # The last one, whose state is what this server told; of any, it may be the only one that still knows that.
        self._last: Tenure | None = None

    @property
    def most(self) -> int:
        """See Backend."""
        return min(backend.most for backend in self._backends.values()) - 1

    async def watch(self) -> AsyncGenerator[Everything | Changed]:
        """See Backend. Raises StoreAway when too few are reached, and when another server writes."""
        tenure = Tenure(self._backends, self._terms, self._holder, self._rng)
        following = [asyncio.create_task(member.run()) for member in tenure.members]
        leading = asyncio.create_task(tenure.lead(self._last.state if self._last else None))
        tasks = [leading, *following]
        for task in tasks:
            task.add_done_callback(lambda _: tenure.told.set())
        try:
            while not tenure.begun.done() and not any(task.done() for task in tasks):
                tenure.told.clear()
                await tenure.told.wait()
            if tenure.begun.done():
                self._tenure = self._last = tenure
                yield tenure.begun.result()
            while not any(task.done() for task in tasks):
                while tenure.untold:
                    yield tenure.untold.popleft()
                tenure.told.clear()
                await tenure.told.wait()
            await next(task for task in tasks if task.done())
        finally:
            self._tenure = None
            try:
                await _ended(leading)
                await tenure.leave()
            finally:  # also when it is given up in the middle of this
                await _ended(*following)

    async def transact(self, checks: Sequence[Check], writes: Mapping[str, bytes | None]) -> int:
        """See Backend."""
        if self._tenure is None:
            raise StoreAway("too few of the mirror's stores are reached, or another server has it")
        return await self._tenure.transact(checks, writes)

    async def aclose(self) -> None:
        """See Backend."""
        for backend in self._backends.values():
            await backend.aclose()


async def _ended(*tasks: "asyncio.Task[None]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()
