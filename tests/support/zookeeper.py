"""Real ZooKeeper servers, one or three, as processes of their own; and Curator's service discovery beside them.

Maven brings ZooKeeper and Curator, and builds `zookeeper_java`. The environment variable TEST_ZOOKEEPER names another
ZooKeeper, as a Java class path: the same tests judge the store on any version.
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote, urlencode

from cryptography.hazmat.primitives import serialization

from tests.support.building import Program, run
from tests.support.etcd import HOST, Certificates, free_port
from tests.support.stubs import SHORT_LIVED_JAVA
from tests.support.waiting import eventually

START_TIMEOUT_S = 60.0
ATTEMPTS = 5
TICK_MS = 500
_SOURCES = Path(__file__).parent / "zookeeper_java"
_COPY_JARS = "org.apache.maven.plugins:maven-dependency-plugin:3.9.0:copy-dependencies"
_JAVA = ("java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_SERVER = "org.apache.zookeeper.server.quorum.QuorumPeerMain"


def _make(home: Path) -> None:
    shutil.copy(_SOURCES / "pom.xml", home)
    (main := home / "src" / "main" / "java").mkdir(parents=True)
    shutil.copy(_SOURCES / "Discovery.java", main)
    given = {"MAVEN_OPTS": f"{os.environ.get('MAVEN_OPTS', '')} {SHORT_LIVED_JAVA}"}
    run(["mvn", "-q", "-B", "compile", _COPY_JARS, "-DoutputDirectory=target/lib"], home, given)


ZOOKEEPER = Program("zookeeper", "mvn", "https://maven.apache.org", (_SOURCES,), _make)


def class_path() -> str:
    """Of ZooKeeper, Curator, and what is built of them here. Skips the test when that cannot be had."""
    target = ZOOKEEPER.needed() / "target"
    return f"{target / 'classes'}:{target / 'lib'}/*"


def _pkcs8(key: Path) -> bytes:
    """A key in the one form that ZooKeeper reads."""
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return serialization.load_pem_private_key(key.read_bytes(), None).private_bytes(*form)


class ZooKeeperFailed(AssertionError):
    """A process ended, or did not serve in time. The text has the end of its log."""


class ZooKeeperNode:
    """One ZooKeeper process and its data."""

    def __init__(self, directory: Path, number: int, certificates: Certificates | None) -> None:
        self.number = number
        self.name = f"zookeeper-{number}"
        self.client_port, self.peer_port, self.election_port = free_port(), free_port(), free_port()
        self.secure_port = free_port() if certificates else 0
        self._certificates = certificates
        self._home = directory / self.name
        self._home.mkdir()
        self.data = self._home / "data"
        self.log_path = self._home / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """HOST:PORT for clients; the one that wants TLS if there is one."""
        return f"{HOST}:{self.secure_port or self.client_port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log_text(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def spawn(self, peers: Sequence["ZooKeeperNode"]) -> None:
        """Start the process. Does not wait."""
        self.data.mkdir(exist_ok=True)
        (self.data / "myid").write_text(str(self.number))
        (config := self._home / "zoo.cfg").write_text("\n".join(self._settings(peers)))
        classes = os.environ.get("TEST_ZOOKEEPER") or class_path()
        flags = ["-Dzookeeper.forceSync=no", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
        if self._certificates:
            flags.append("-Dzookeeper.serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory")
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*_JAVA, *flags, "-cp", classes, _SERVER, str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _settings(self, peers: Sequence["ZooKeeperNode"]) -> list[str]:
        settings = [
            f"dataDir={self.data}",
            f"clientPort={self.client_port}",
            f"clientPortAddress={HOST}",
            f"tickTime={TICK_MS}",
            "initLimit=20",
            "syncLimit=10",
            "maxClientCnxns=0",
            "admin.enableServer=false",
            "4lw.commands.whitelist=*",
        ]
        if len(peers) > 1:
            settings += [f"server.{it.number}={HOST}:{it.peer_port}:{it.election_port}" for it in peers]
        if self._certificates:
            both = self._home / "server.pem"
            both.write_bytes(_pkcs8(self._certificates.server_key) + self._certificates.server_cert.read_bytes())
            settings += [f"secureClientPort={self.secure_port}", f"secureClientPortAddress={HOST}"]
            settings += [f"ssl.keyStore.location={both}", "ssl.keyStore.type=PEM"]
            settings += [f"ssl.trustStore.location={self._certificates.ca}", "ssl.trustStore.type=PEM"]
        return settings

    def kill(self) -> None:
        """SIGKILL, and waits until it is gone. Does nothing when it is gone."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(10)

    def stop(self) -> None:
        """SIGSTOP: connections stay, nobody answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def cont(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def says(self, word: str) -> str:
        """Its answer to one of the words of four letters; "" when there is none."""
        try:
            with socket.create_connection((HOST, self.client_port), timeout=2) as connection:
                connection.sendall(word.encode())
                return b"".join(iter(lambda: connection.recv(65536), b"")).decode(errors="replace")
        except OSError:
            return ""

    def serves(self) -> bool:
        """Whether it does, which needs a quorum. Raises ZooKeeperFailed when it has ended."""
        if not self.is_running:
            raise ZooKeeperFailed(f"{self.name} ended; the end of its log:\n{self.log_text[-3000:]}")
        return "Mode: " in self.says("srvr")

    @property
    def leads(self) -> bool:
        return "Mode: leader" in self.says("srvr")


class Ensemble:
    """`size` nodes that are one ZooKeeper. A context manager: on entry all serve, on exit all are gone.

    With `tls`, clients come by TLS and with a certificate. Methods block; those that end in `_async` do not.
    """

    def __init__(self, directory: Path, *, size: int = 1, tls: bool = False) -> None:
        self._directory = directory
        self._size = size
        self.certificates = Certificates.make(directory) if tls else None
        self.nodes: list[ZooKeeperNode] = []

    @property
    def log_text(self) -> str:
        return "\n".join(node.log_text for node in self.nodes)

    @property
    def hosts(self) -> str:
        """All of them, as clients want them."""
        return ",".join(node.endpoint for node in self.nodes)

    def url(self, chroot: str = "", **query: str) -> str:
        """The URL of a store there, with the client's certificate."""
        if it := self.certificates:
            query = {"ca": str(it.ca), "cert": str(it.client_cert), "key": str(it.client_key), **query}
        return f"zookeeper://{self.hosts}{chroot}" + (f"?{urlencode(query, quote_via=quote)}" if query else "")

    def leader(self) -> ZooKeeperNode:
        """The node that leads just now."""
        return eventually(lambda: [node for node in self.nodes if node.leads], what="a leader")[0]

    def start(self) -> Self:
        """Start what is not running, with the data it has, and wait until all serve."""
        if self.nodes:
            self._start_all()
            return self
        for left in reversed(range(ATTEMPTS)):
            home = self._directory / f"try-{left}"
            home.mkdir()
            self.nodes = [ZooKeeperNode(home, number, self.certificates) for number in range(1, self._size + 1)]
            try:
                self._start_all()
            except ZooKeeperFailed:
                taken = "Address already in use" in self.log_text
                self.kill()
                if not (left and taken):
                    raise
            else:
                break
        return self

    def _start_all(self) -> None:
        for node in self.nodes:
            if not node.is_running:
                node.spawn(self.nodes)
        began = time.monotonic()
        for node in self.nodes:
            left_s = START_TIMEOUT_S - (time.monotonic() - began)
            eventually(node.serves, timeout_s=max(left_s, 1.0), what=f"{node.name} serves")

    def kill(self) -> None:
        """SIGKILL for all."""
        for node in self.nodes:
            node.kill()

    def wipe(self) -> None:
        """Remove the data of nodes that are not running."""
        for node in self.nodes:
            shutil.rmtree(node.data)

    async def start_async(self) -> Self:
        return await asyncio.to_thread(self.start)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


class Curator:
    """Curator's service discovery, in a process of its own. A context manager; methods block."""

    def __init__(self, hosts: str, base_path: str) -> None:
        self._command = [*_JAVA, "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", class_path()]
        self._command += ["Discovery", hosts, base_path]
        self._process: subprocess.Popen[str] | None = None

    def asked(self, line: str) -> list[str]:
        """What comes of one line, see `zookeeper_java/Discovery.java`. Raises ZooKeeperFailed."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        answer = []
        for said in iter(self._process.stdout.readline, "done\n"):
            if not said:
                raise ZooKeeperFailed("the process with Curator ended")
            answer.append(said.rstrip("\n"))
        return answer

    async def asked_async(self, line: str) -> list[str]:
        return await asyncio.to_thread(self.asked, line)

    def __enter__(self) -> Self:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, text=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate(timeout=10)
