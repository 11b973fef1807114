"""A real Consul, built by Go, as a process of its own: started, killed, stopped, wiped, with TLS or with tokens."""

import json
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlencode

from tests.support.building import Program, run
from tests.support.etcd import HOST, Certificates, free_port

START_TIMEOUT_S = 60.0
ATTEMPTS = 5
_MODULE = Path(__file__).parent / "consul_module"


def _make(home: Path) -> None:
    run(["go", "build", "-trimpath", "-ldflags=-s -w", "-o", home / "consul", "github.com/hashicorp/consul"], _MODULE)


CONSUL = Program("consul", "go", "https://go.dev/dl", (_MODULE,), _make)


class ConsulFailed(AssertionError):
    """It ended, was not ready in time, or refused what a test asked. The text has the end of its log."""


class ConsulAgent:
    """One server agent and its data. `more` goes into its configuration."""

    def __init__(
        self, directory: Path, *, certificates: Certificates | None = None, more: Mapping[str, object] | None = None
    ) -> None:
        self._binary = CONSUL.needed() / "consul"
        self._directory = directory
        self._certificates = certificates
        self._more = dict(more or {})
        self.log_path = directory / "consul.log"
        self.port = 0
        self.token = ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """HOST:PORT of its HTTP API."""
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """Of Consul itself."""
        assert self._process is not None
        return self._process.pid

    def url(self, **parameters: str) -> str:
        """The store URL of it."""
        return f"consul://{self.address}" + (f"?{urlencode(parameters)}" if parameters else "")

    def start(self) -> "ConsulAgent":
        """Start it, on the ports that it had before, and wait until it has a leader."""
        for attempt in range(ATTEMPTS):
            if not self.port:
                self._configure()
            self._spawn()
            try:
                self._wait_ready()
            except ConsulFailed:
                self.kill()
                if "address already in use" not in self.log_text or attempt == ATTEMPTS - 1:
                    raise
                self.port = 0
            else:
                return self
        return self

    def _configure(self) -> None:
        self.port = free_port()
        ports = {"dns": -1, "serf_wan": -1, "grpc": -1, "serf_lan": free_port(), "server": free_port()}
        api: dict[str, object] = {"ports": {**ports, "http": self.port}}
        if it := self._certificates:
            tls = {"ca_file": str(it.ca), "cert_file": str(it.server_cert), "key_file": str(it.server_key)}
            api = {
                "ports": {**ports, "http": -1, "https": self.port},
                "tls": {"https": {**tls, "verify_incoming": True}},
            }
        settings: dict[str, object] = {
            "node_name": "consul-test",
            "server": True,
            "bootstrap_expect": 1,
            "data_dir": str(self._directory / "consul.data"),
            "bind_addr": HOST,
            "client_addr": HOST,
            "disable_update_check": True,
            "performance": {"raft_multiplier": 1},
            **api,
            **self._more,
        }
        (self._directory / "consul.json").write_text(json.dumps(settings))

    def _spawn(self) -> None:
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [self._binary, "agent", f"-config-file={self._directory / 'consul.json'}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._is_ready():
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                raise ConsulFailed(f"Consul is not ready; the end of its log:\n{self.log_text[-3000:]}")
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        """It has a leader, and the leader has itself in its catalog."""
        if self._certificates is not None:
            return "Synced node info" in self.log_text.rpartition("==> Starting")[2]
        try:
            has_leader = bool(self.ask("GET", "/v1/status/leader"))
            return has_leader and ("acl" in self._more or bool(self.ask("GET", "/v1/health/service/consul")))
        except (OSError, ConsulFailed):
            return False

    @property
    def log_text(self) -> str:
        """All that its processes so far wrote."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

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

    def cont(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Remove the data of one that is not running."""
        shutil.rmtree(self._directory / "consul.data")

    def ask(self, method: str, path: str, body: object = None) -> object:
        """One request; what it answers, read, or None where it says nothing. Raises ConsulFailed or OSError."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.address}{path}", data=data, method=method)
        if self.token:
            request.add_header("X-Consul-Token", self.token)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                said = answer.read()
        except urllib.error.HTTPError as error:
            raise ConsulFailed(f"{method} {path}: {error.code} {error.read().decode(errors='replace')}") from None
        return json.loads(said) if said.strip() else None
