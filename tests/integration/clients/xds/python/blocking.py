"""grpcio, in threads: with its own xDS client, or through a proxy that is one. What it does: README.md beside."""

from __future__ import annotations

import faulthandler
import itertools
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc

METHOD = "/registry.test.Backend/Who"
CALL_S = 5.0
WAIT_S = 30.0
AT_A_TIME = 8


class Tally:
    """What came of some calls."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: dict[str, int] = {}
        self._failed = 0
        self._text = ""
        self._last_s = time.monotonic()
        self._longest_s = 0.0

    def answered(self, name: str) -> None:
        with self._lock:
            self._answers[name] = self._answers.get(name, 0) + 1
            now_s = time.monotonic()
            self._longest_s = max(self._longest_s, now_s - self._last_s)
            self._last_s = now_s

    def failed(self, error: grpc.RpcError) -> None:
        with self._lock:
            self._failed += 1
            self._text = f"{error.code().name} {error.details()}".replace("\n", " ")

    def say(self) -> None:
        words = " ".join(f"{name}={count}" for name, count in self._answers.items())
        print(words, self._failed, round(self._longest_s * 1000), self._text, sep="\t", flush=True)


class Caller:
    """One channel. A target that is no `xds:///` one is a proxy, which goes by the authority."""

    def __init__(self, target: str, authority: str) -> None:
        options = [("grpc.default_authority", authority)] if authority else []
        self._channel = grpc.insecure_channel(target, options)
        # A StringValue with a short text: a byte for the field, one for the length, and the text.
        self._who = self._channel.unary_unary(METHOD, None, lambda message: message[2:].decode())
        self._threads = ThreadPoolExecutor(50)
        self._load: tuple[threading.Event, threading.Thread, Tally] | None = None

    def call(self, tally: Tally, timeout_s: float = CALL_S, wait: bool = False) -> None:
        try:
            tally.answered(self._who(b"", timeout=timeout_s, wait_for_ready=wait))
        except grpc.RpcError as error:
            tally.failed(error)

    def wait(self) -> Tally:
        tally = Tally()
        self.call(tally, WAIT_S, wait=True)
        return tally

    def many(self, count: int) -> Tally:
        tally, due = Tally(), itertools.count()

        def caller() -> None:
            while next(due) < count:
                self.call(tally)

        for done in [self._threads.submit(caller) for _ in range(AT_A_TIME)]:
            done.result()
        return tally

    def load(self, rate: int) -> Tally:
        """Calls at a rate, until it is stopped."""
        tally, ended = Tally(), threading.Event()

        def pace() -> None:
            with ThreadPoolExecutor(50) as callers:
                while not ended.wait(1 / rate):
                    callers.submit(self.call, tally)

        thread = threading.Thread(target=pace)
        thread.start()
        self._load = (ended, thread, tally)
        return Tally()

    def stop(self) -> Tally:
        assert self._load is not None
        ended, thread, tally = self._load
        ended.set()
        thread.join()
        return tally


def main() -> None:
    faulthandler.register(signal.SIGQUIT)
    caller = Caller(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "")
    words = {"wait": caller.wait, "call": caller.many, "load": caller.load, "stop": caller.stop}
    for line in sys.stdin:
        word, *numbers = line.split()
        words[word](*map(int, numbers)).say()


if __name__ == "__main__":
    main()
