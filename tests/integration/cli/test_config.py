"""`registry-server config …` as it is typed: a template that starts a server, all mistakes at once, no secret shown."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import grpc
import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from registry_api.registry.v1 import registry_pb2_grpc
from registry_client import Instance, sync
from registry_server import stores
from registry_server.config import Config
from registry_server.config.sources import NAMES, load
from tests.support.servers import NO_PAGE, RegistryServer


def run(*args: str, code: int = 0, **env: str) -> str:
    command = [sys.executable, "-m", "registry_server", *args]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
    done = subprocess.run(command, env={**clean, **env}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr if code else done.stdout


def test_a_server_starts_with_its_template(tmp_path: Path) -> None:
    path = tmp_path / "registry.toml"
    path.write_text(run("config", "template"))
    assert load({}, {}, path).config == Config()
    with RegistryServer(tmp_path, name="templated", args=("--config", str(path))) as server:
        assert server.is_running


def test_the_template_has_every_setting_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "registry.toml"
    text = run("config", "template")
    said = {match[1] for match in re.finditer(r"^(?:# )?(\w+) = ", text, re.MULTILINE)}
    assert said >= set(NAMES)
    path.write_text(re.sub(r"^# (\w+) = ", r"\1 = ", text, flags=re.MULTILINE))
    assert load({}, {}, path).config == Config(), "what is commented out is what holds anyway"


@pytest.mark.parametrize("kind", sorted(stores._BUILT_IN))
def test_every_kind_of_store_has_a_template(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "registry.toml"
    path.write_text(run("config", "template", kind))
    assert run("config", "check", str(path)) == f"{path}: ok\n"
    assert load({}, {}, path).config.store.startswith(f"{kind}:")


def test_no_such_template() -> None:
    assert run("config", "template", "etdc", code=2) == (
        "registry-server: config template: no such kind of store; did you mean etcd?\n"
    )
    said = run("config", "template", "etcd://me:hunter2@h", code=2)
    assert "no such kind of store" in said
    assert "hunter2" not in said


def test_check_says_all_that_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "registry.toml"
    path.write_text(
        "listen = 'x'\ncheks = 'on'\n[store]\ntype = 'etcd'\nendpoint = 'h'\n[limits]\nmax_streams = 'many'\n"
    )
    said = run("config", "check", str(path), code=2, REGISTRY_LISTEN="127.0.0.1:1").splitlines()
    assert [line.partition(":")[0] for line in said] == ["cheks", "store.endpoint", "limits.max_streams", "listen"]
    assert [int(re.search(r"line (\d+)\)$", line)[1]) for line in said] == [2, 5, 7, 1]  # type: ignore[index]
    assert "did you mean checks?" in said[0]
    assert "did you mean endpoints?" in said[1]


def test_show_says_where_each_is_from(tmp_path: Path) -> None:
    path = tmp_path / "registry.toml"
    path.write_text("log_level = 'debug'\n[limits]\nmax_streams = 7\n")
    args = ("--config", str(path), "--listen", "127.0.0.1:1")
    said = run(*args, "config", "show", REGISTRY_CHECKS="off").splitlines()
    assert 'listen = "127.0.0.1:1"  # --listen' in said
    assert 'checks = "off"  # REGISTRY_CHECKS' in said
    assert f'log_level = "debug"  # {path}, line 1' in said
    assert f"limits.max_streams = 7  # {path}, line 3" in said
    assert 'store = "memory:"  # default' in said
    tomllib.loads("\n".join(said))


SECRET = "hunter2"


@pytest.mark.parametrize(
    ("args", "env", "text"),
    [
        ((), {"REGISTRY_STORE": f"etcd://me:{SECRET}@127.0.0.1:1"}, ""),
        ((), {"REGISTRY_STORE": f"etcd://127.0.0.1:1?user=me&password={SECRET}"}, ""),
        (("--store", "env:URL"), {"URL": f"etcd://me:{SECRET}@127.0.0.1:1"}, ""),
        ((), {}, f"store = 'etcd://me:{SECRET}@127.0.0.1:1'"),
        ((), {}, f"[store]\ntype = 'etcd'\nhost = '127.0.0.1'\nport = 1\nuser = 'me'\npassword = '{SECRET}'"),
        ((), {"PW": SECRET}, "[store]\ntype = 'etcd'\nhost = '127.0.0.1'\nport = 1\nuser = 'me'\npassword = 'env:PW'"),
        ((), {}, f"[store]\ntype = 'etcd'\nendpoints = ['me:{SECRET}@127.0.0.1:1']"),
    ],
)
def test_no_secret_is_shown(args: tuple[str, ...], env: dict[str, str], text: str, tmp_path: Path) -> None:
    path = tmp_path / "registry.toml"
    path.write_text(text)
    shown = run("--config", str(path), *args, "config", "show", **env)
    assert 'store = "etcd://' in shown
    assert SECRET not in shown
    # One that waits for an etcd that is not there, until it is told to end.
    command = [sys.executable, "-m", "registry_server", "--listen", "127.0.0.1:0", "--config", str(path), *args]
    process = subprocess.Popen(command, env={**os.environ, **NO_PAGE, **env}, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert SECRET not in process.stderr.readline()
        assert SECRET not in Path(f"/proc/{process.pid}/cmdline").read_text()
    finally:
        process.terminate()
        assert SECRET not in process.communicate(timeout=30)[1]


def test_a_password_on_the_command_line_is_taken_with_a_warning() -> None:
    command = [sys.executable, "-m", "registry_server", "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(
        [*command, "--store", f"etcd://me:{SECRET}@127.0.0.1:1"],
        env={**os.environ, **NO_PAGE},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "REGISTRY_STORE" in line
        assert "process list" in line
        assert SECRET not in line
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_who_says_no_ttl_gets_that_of_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "registry.toml"
    path.write_text("[service]\nttl = '42s'\nhealth_check_interval = 5\n")
    with RegistryServer(tmp_path, name="configured", args=("--config", str(path))) as server:
        asked = pb.RegisterRequest(instance=pb.Instance(service="a", host="127.0.0.1", port=1))
        with grpc.insecure_channel(server.address) as channel:
            assert registry_pb2_grpc.RegistryStub(channel).Register(asked).ttl.seconds == 42
        with sync.connect(server.address) as registry, registry.register(Instance("b", "127.0.0.1", 1), ttl=9):
            [instance] = registry.list("b")
            assert [check.kind for check in instance.checks] == ["tcp"]
