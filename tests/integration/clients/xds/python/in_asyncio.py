"""grpcio, with asyncio, and its own xDS client. What it does: README.md beside."""

from __future__ import annotations

import asyncio
import faulthandler
import itertools
import signal
import sys
import time

import grpc
import grpc.aio

METHOD = "/registry.test.Backend/Who"
CALL_S = 5.0
WAIT_S = 30.0
AT_A_TIME = 8


class Tally:
    """What came of some calls."""

    def __init__(self) -> None:
        self._answers: dict[str, int] = {}
        self._failed = 0
        self._text = ""
        self._last_s = time.monotonic()
        self._longest_s = 0.0

    def answered(self, name: str) -> None:
        self._answers[name] = self._answers.get(name, 0) + 1
        now_s = time.monotonic()
        self._longest_s = max(self._longest_s, now_s - self._last_s)
        self._last_s = now_s

    def failed(self, error: grpc.aio.AioRpcError) -> None:
        self._failed += 1
        self._text = f"{error.code().name} {error.details()}".replace("\n", " ")

    def say(self) -> None:
        words = " ".join(f"{name}={count}" for name, count in self._answers.items())
        print(words, self._failed, round(self._longest_s * 1000), self._text, sep="\t", flush=True)


class Load:
    """Calls at a rate, until it is stopped; then those are awaited that are under way."""

    def __init__(self, caller: Caller, rate: int) -> None:
        self.tally = Tally()
        self._caller = caller
        self._ended = asyncio.Event()
        self._task = asyncio.create_task(self._run(1 / rate))

    async def _run(self, pause_s: float) -> None:
        async with asyncio.TaskGroup() as calls:
            while not self._ended.is_set():
                calls.create_task(self._caller.call(self.tally))
                try:
                    await asyncio.wait_for(self._ended.wait(), pause_s)
                except TimeoutError:
                    continue

    async def stop(self) -> Tally:
        self._ended.set()
        await self._task
        return self.tally


class Caller:
    """One channel."""

    def __init__(self, target: str) -> None:
        self._channel = grpc.aio.insecure_channel(target)
        # A StringValue with a short text: a byte for the field, one for the length, and the text.
        self._who = self._channel.unary_unary(METHOD, None, lambda message: message[2:].decode())

    async def call(self, tally: Tally, timeout_s: float = CALL_S, wait: bool = False) -> None:
        try:
            tally.answered(await self._who(b"", timeout=timeout_s, wait_for_ready=wait))
        except grpc.aio.AioRpcError as error:
            tally.failed(error)

    async def wait(self) -> Tally:
        tally = Tally()
        await self.call(tally, WAIT_S, wait=True)
        return tally

    async def many(self, count: int) -> Tally:
        tally, due = Tally(), itertools.count()

        async def caller() -> None:
            while next(due) < count:
                await self.call(tally)

        await asyncio.gather(*(caller() for _ in range(AT_A_TIME)))
        return tally


async def main() -> None:
    faulthandler.register(signal.SIGQUIT)
    caller = Caller(sys.argv[1])
    load: Load | None = None
    while line := await asyncio.to_thread(sys.stdin.readline):
        word, *numbers = line.split()
        tally = Tally()
        if word == "wait":
            tally = await caller.wait()
        elif word == "call":
            tally = await caller.many(int(numbers[0]))
        elif word == "load":
            load = Load(caller, int(numbers[0]))
        elif load is not None:
            tally = await load.stop()
        tally.say()


if __name__ == "__main__":
    asyncio.run(main())
