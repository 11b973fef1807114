"""What pages tell their readers to type, carried out: one line after the other, against a real server.

Not a shell, but as much of one as pages may ask of their readers: variables, `export`, `>FILE`, comments, lines that go
on. Whatever else a line has is refused, so nothing that stands on a page is passed over.
"""

import asyncio
import json
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import click

from registry_client import Instance, cli, testing
from registry_server import __main__ as server_command
from registry_server.config import Config
from registry_server.server import serve
from tests.support.etcd import free_port
from tests.support.grpcurl import grpcurl_path
from tests.support.registryctl import REGISTRYCTL, runner
from tests.support.servers import READY
from tests.support.source import ROOT
from tests.support.tls import Authority
from tests.support.xds_clients import ENVOY

WAIT_S = 30.0
TTL_S = 3600.0
# Where a reader has the registry, and a second one.
FIRST = ("127.0.0.1:7400", "h1:7400")
SECOND = ("127.0.0.1:7500", "h2:7400")
ADMIN = "127.0.0.1:7401"
# Commands of registryctl that end by Ctrl-C alone, as they stand or with an option.
ENDLESS = {"watch", "sync", "register", "--follow", "--hold"}
# What is done elsewhere than on the machine of the tests: of these it is checked that what they name is there.
ELSEWHERE = {"kubectl", "systemctl", "journalctl", "podman", "docker", "pip", "python3", "cp", "mkdir"}
EMBEDDED = ("memory:", "sqlite:")

_LINE = re.compile(rb"\n")
_MESSAGE = re.compile(rb"^}\n", re.MULTILINE)  # a whole one, as grpcurl writes them
_ABSOLUTE = re.compile(r"(?<![\w.:/])/(?:etc|run|var)/[\w./-]+")
_ASSIGNS = re.compile(r"(\w+)=(.*)", re.DOTALL)
_ACCESS = """[access.identities.reader]
tokens = ["sha256:{}"]
grants = ["read */*"]
""".format("0" * 64)


@dataclass(frozen=True)
class Place:
    """Where the registries of a reader are in a test."""

    first: str
    second: str
    admin: str

    def instead(self, text: str) -> str:
        """The text of a page, with what is there in place of what a reader has."""
        known = dict.fromkeys(FIRST, self.first) | dict.fromkeys(SECOND, self.second) | {ADMIN: self.admin}
        for written, here in known.items():
            text = re.sub(rf"(?<![\w.]){re.escape(written)}(?!\d)", here, text)
        return text


@contextmanager
def place() -> Iterator[Place]:
    """Two registries that are empty, in threads of this process; the first with an HTTP side."""
    admin = f"127.0.0.1:{free_port()}"
    with _served(Config(listen="127.0.0.1:0", admin=admin)) as first, testing.registry() as second:
        yield Place(first, second, admin)


@contextmanager
def _served(config: Config) -> Iterator[str]:
    ready, told = threading.Event(), list[tuple[str, Callable[[], object]]]()

    async def run() -> None:
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        async with serve(config) as address:
            told.append((address, lambda: loop.call_soon_threadsafe(over.set)))
            ready.set()
            await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()), name="documented registry", daemon=True)
    thread.start()
    assert ready.wait(WAIT_S), "the server did not start"
    address, leave = told[0]
    try:
        yield address
    finally:
        leave()
        thread.join()


@dataclass(frozen=True)
class Line:
    """What one line asks for."""

    variables: dict[str, str]
    words: list[str]
    out: str = ""


def parsed(text: str) -> Iterator[Line]:
    """The lines of a block. Raises ValueError for what no reader is asked to type."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer)
        if words:
            yield _line(words)


def _line(words: list[str]) -> Line:
    variables: dict[str, str] = {}
    while words and (assigned := _ASSIGNS.fullmatch(words[0])):
        variables[assigned[1]] = assigned[2]
        words = words[1:]
    out = ""
    if len(words) > 2 and words[-2] == ">":
        words, out = words[:-2], words[-1]
    if any(re.fullmatch(r"[<>|&;()]+", word) for word in words):
        raise ValueError(f"what a page has its reader type is simpler than this: {shlex.join(words)}")
    return Line(variables, words, out)


@dataclass
class Shell:
    """A reader at a shell, in an empty directory, which has to be the current one."""

    place: Place
    directory: Path
    somebody: str = "player"
    environment: dict[str, str] = field(default_factory=dict)
    lease: str = ""
    ids: int = 0

    def __post_init__(self) -> None:
        if self.somebody:  # who has an empty registry sees nothing of what a page says
            self._registered(self.somebody)

    def run(self, text: str) -> str:
        """Carry out a block; all that was said on stdout. Raises AssertionError for a line that fails."""
        return "".join(self._line(line) for line in parsed(self.here(text)))

    def here(self, text: str) -> str:
        """What a page says, with the registries and the files that there are. Makes the files."""
        return _ABSOLUTE.sub(lambda it: str(self._file(it[0])), self.place.instead(text))

    def _file(self, path: str) -> Path:
        """In place of a file somewhere on the reader's machine: one of that name, of the kind it has to be."""
        file = self.directory / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".pem":
            _make_certificate(file)
        elif "secrets" in file.parts:
            file.write_text("secret\n")
        return file

    def _line(self, line: Line) -> str:
        words = [word.replace("LEASE", self.lease) for word in line.words]
        if not words:
            return ""
        if words[0] == "export":
            self.environment.update((name, value) for name, _, value in (word.partition("=") for word in words[1:]))
            return ""
        name = Path(words[0]).name
        if name in ELSEWHERE:
            return _elsewhere(words)
        program = getattr(self, f"_{name.replace('-', '_')}", None)
        assert program, f"nobody here knows how to carry out {name}"
        with self._variables(line.variables):
            said: str = program(words[1:])
        if line.out:
            (self.directory / line.out).write_text(said)
            return ""
        return said

    @contextmanager
    def _variables(self, more: dict[str, str]) -> Iterator[None]:
        before = dict(os.environ)
        os.environ.update({"REGISTRY_SERVER": self.place.first, **self.environment, **more})
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)

    # ---- programs

    def _opentelemetry_instrument(self, words: list[str]) -> str:
        """What it is to start; that it starts it is for others to test."""
        ours = next(number for number, word in enumerate(words) if word in ("registry-server", "registryctl"))
        return self._line(Line({}, words[ours:]))

    def _registryctl(self, words: list[str]) -> str:
        for number, word in enumerate(words):
            if word == "ID":
                words[number] = self._registered(words[number - 1])
        if "--" in words:
            self._script(words[words.index("--") + 1])
        elif ENDLESS & set(words):
            return _interrupted([*REGISTRYCTL, *words])
        return _invoked(cli.main, words)

    def _registered(self, service: str) -> str:
        """The id of an instance of that service that nobody has touched yet."""
        self.ids += 1
        instance = Instance(service=service, host="10.0.0.5", port=9100 + self.ids, id=f"p{self.ids}")
        return testing.register_once(self.place.first, instance, ttl=TTL_S).id

    def _script(self, name: str) -> None:
        """The reader's own program."""
        script = self.directory / name
        script.write_text("#!/bin/sh\necho it runs\n")
        script.chmod(0o755)

    def _registry_server(self, words: list[str]) -> str:
        if "config" in words or "token" in words:
            return _invoked(server_command.main, words)
        (self.directory / "access.toml").write_text(_ACCESS)
        shown = _invoked(server_command.main, [*words, "config", "show"])
        if tomllib.loads(shown).get("store", "").startswith(EMBEDDED):
            words = words if "--listen" in words else [*words, "--listen", "127.0.0.1:0"]
            _started([re.sub(r"(?<=:)\d+$", "0", word) if ":" in word else word for word in words])
        return ""

    def _grpcurl(self, words: list[str]) -> str:
        command = [str(grpcurl_path()), *words]
        if words[-1].endswith("Watch"):
            with _process(command) as process:
                return _said(process, _MESSAGE).decode()
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        assert done.stdout, f"{words}: {done.stderr}"
        if words[-1].endswith("/Register"):
            self.lease = json.loads(done.stdout)["leaseId"]
        return done.stdout

    def _curl(self, words: list[str]) -> str:
        *options, url = words
        headers = dict(it.split(": ", 1) for flag, it in pairwise(options) if flag == "-H")
        assert {it for it in options if it.startswith("-")} <= {"-H", "-s", "-f", "-N"}, f"curl {words}"
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=WAIT_S) as answer:
            return str(answer.read(1 << 20).decode())

    def _make(self, words: list[str]) -> str:
        """What it would do; what it does is for others to test."""
        done = subprocess.run(
            ["make", "-n", f"VENV={self.directory}/venv", *words], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return ""

    def _envoy(self, words: list[str]) -> str:
        binary = ENVOY.needed() / "packages" / "envoy" / "_bin" / "envoy"
        done = subprocess.run(
            [binary, "--mode", "validate", *words], capture_output=True, text=True, timeout=WAIT_S, check=False
        )
        assert done.returncode == 0, done.stderr
        return ""


def _invoked(command: click.Command, words: Sequence[str]) -> str:
    """A command in this process."""
    done = runner().invoke(command, words)
    assert done.exit_code == 0, f"{shlex.join(words)}: {done.output}{done.stderr}"
    return done.stdout


def _interrupted(command: Sequence[str]) -> str:
    """Ctrl-C once it has said something on stdout, and what it said first; that it waits is for stderr."""
    with _process(command) as process:
        said = _said(process, _LINE)
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 0, f"{command}: {said!r}"
    return said.decode()


def _started(words: Sequence[str]) -> None:
    """A server, until it is ready."""
    with _process([sys.executable, "-m", "registry_server", *words], REGISTRY_ADMIN="off") as process:
        _said(process, READY)
        process.terminate()
        assert process.wait(WAIT_S) == 0


@contextmanager
def _process(command: Sequence[str], **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    given = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}", "PYTHONUNBUFFERED": "1", **environment}
    with subprocess.Popen(command, env=given, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.kill()


def _said(process: subprocess.Popen[bytes], what: re.Pattern[bytes]) -> bytes:
    """All that it says until that is there."""
    assert process.stdout is not None
    deadline, said = time.monotonic() + WAIT_S, b""
    while not what.search(said):
        readable, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        assert readable, f"nothing in time: {said!r}"
        chunk = os.read(process.stdout.fileno(), 65536)
        assert chunk, f"it ended with {process.wait()}: {said!r}"
        said += chunk
    return said


def _elsewhere(words: list[str]) -> str:
    """Files of the project that such a line names are there, and so are the extras of the package."""
    for word in words:
        named = re.match(r"deploy/[\w./-]+|examples/[\w./-]+", word)
        assert not named or (ROOT / named[0]).exists(), f"{word} is not there"
        if extras := re.match(r"grpc-registry\[([\w,-]+)\]", word):
            known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            assert set(extras[1].split(",")) <= known.keys(), f"{word}: there are {sorted(known)}"
    return ""


def _make_certificate(file: Path) -> None:
    """A certificate or a key, by what its name says. All of a directory are of one pair."""
    pair = file.parent / "pair"
    if not pair.is_dir():
        pair.mkdir()
        authority = Authority()
        authority.write(pair)
        authority.pair("localhost", "127.0.0.1").write(pair)
    name = "server-key" if "key" in file.stem else "server" if "server" in file.stem else "ca"
    file.write_bytes((pair / f"{name}.pem").read_bytes())
