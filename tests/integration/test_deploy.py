"""deploy/: each file by a tool of others that knows its kind, and against what the server really takes."""

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from registry_server.config.sources import load
from tests.support.servers import RegistryServer
from tests.support.source import ROOT

DEPLOY = ROOT / "deploy"
CONTAINERFILE = DEPLOY / "Containerfile"
UNIT = DEPLOY / "systemd" / "grpc-registry.service"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
# The oldest and the newest whose rules there are.
KUBERNETES = ("1.27", "1.37")
# What systemd makes of the unit's walls, 0 to 10; less is better.
MOST_EXPOSED = 15
ACCESS = f'[access.identities.somebody]\ntokens = ["sha256:{"0" * 64}"]\ngrants = ["read */*"]\n'
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMMANDS = PROJECT["scripts"]


def ran(*command: str | Path) -> str:
    """What it prints. Fails the test where it ends with an error."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# ---- the container


def lines_of(word: str) -> list[str]:
    """What stands after an instruction, wherever that is in the Containerfile."""
    text = CONTAINERFILE.read_text().replace("\\\n", " ")
    return [line.removeprefix(word).strip() for line in text.splitlines() if line.startswith(f"{word} ")]


def hadolint(text: str) -> subprocess.CompletedProcess[str]:
    tool = Path(sysconfig.get_path("scripts")) / "hadolint"
    return subprocess.run([tool, "-"], input=text, capture_output=True, text=True, timeout=60, check=False)


def test_the_containerfile_is_well_made() -> None:
    assert (done := hadolint(CONTAINERFILE.read_text())).returncode == 0, done.stdout
    assert hadolint("FROM python\nRUN cd /tmp\n").returncode != 0


def test_the_container_gets_all_that_the_wheel_is_made_of() -> None:
    copied = {it for line in lines_of("COPY") if "--from" not in line for it in line.split()[:-1]}
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {it.removesuffix("*") for it in config["tool"]["setuptools"]["packages"]["find"]["include"]}
    needed = {"protos" if it == "registry_api" else it for it in packages}
    assert copied == {*needed, "pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]}
    sent = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert sent == copied


def test_the_container_runs_what_there_is() -> None:
    (entry,), (health,) = lines_of("ENTRYPOINT"), lines_of("HEALTHCHECK")
    assert json.loads(entry)[0] in COMMANDS
    assert json.loads(health.partition("CMD")[2])[0] in COMMANDS
    variables = dict(re.findall(r"\b(REGISTRY_\w+)=(\S+)", " ".join(lines_of("ENV"))))
    assert list(variables) == ["REGISTRY_CONFIG"]
    assert lines_of("USER") == ["65532:65532"]


def test_what_the_container_listens_on_is_decided_by_the_file_that_is_mounted(tmp_path: Path) -> None:
    """Its own settings are a file as well: a variable would win over `listen` of somebody's file."""
    (text, name) = re.findall(r"echo '(.*)' >(\S+)", " ".join(lines_of("RUN")))[0]
    (named,) = re.findall(r"REGISTRY_CONFIG=(\S+)", " ".join(lines_of("ENV")))
    assert name == named
    (own := tmp_path / "container.toml").write_text(text)
    (mounted := tmp_path / "config.toml").write_text('listen = "0.0.0.0:9000"\n')
    env = {"REGISTRY_CONFIG": str(own)}
    assert load({}, env, None).config.addresses == ("0.0.0.0:7400",)
    assert load({}, env, mounted).config.addresses == ("0.0.0.0:9000",)


def test_the_containers_health_is_what_the_server_says(tmp_path: Path) -> None:
    """The very command, in an environment that has as much as a container's."""
    (health,) = lines_of("HEALTHCHECK")
    command, *arguments = json.loads(health.partition("CMD")[2])
    module = COMMANDS[command].partition(":")[0]
    with RegistryServer(tmp_path) as server:
        env = {"REGISTRY_SERVER": server.address, "PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}"}
        asking = [sys.executable, "-m", module, *arguments]
        done = subprocess.run(asking, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (0, "serving\n"), done.stderr
        assert server.terminate() == 0
    done = subprocess.run(asking, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3


# ---- systemd


@pytest.fixture
def systemd_analyze() -> str:
    if (tool := shutil.which("systemd-analyze")) is None:
        pytest.skip("no systemd-analyze on this machine (on Debian: apt install systemd)")
    return tool


def test_the_unit_is_well_made(systemd_analyze: str, tmp_path: Path) -> None:
    """As it stands, but for where the server was installed."""
    text = UNIT.read_text()
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace("/opt/grpc-registry/bin/registry-server", sys.executable))
    assert unit.read_text() != text
    assert ran(systemd_analyze, "verify", "--man=no", unit) == ""
    unit.write_text(unit.read_text().replace("Restart=on-failure", "Restart=sometimes"))
    done = subprocess.run([systemd_analyze, "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert "restart" in done.stderr


def test_the_unit_has_walls(systemd_analyze: str) -> None:
    ran(systemd_analyze, "security", "--offline=yes", f"--threshold={MOST_EXPOSED}", UNIT)


def test_the_page_says_when_the_unit_starts_a_server_again() -> None:
    [seconds] = re.findall(r"^RestartSec=(\d+)$", UNIT.read_text(), re.MULTILINE)
    assert f"is started again after {seconds} s," in (ROOT / "docs" / "deploy.md").read_text()


def test_the_unit_says_what_the_server_does() -> None:
    unit = dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if re.match(r"[A-Z]\w*=", line))
    assert unit["Type"] == "notify"  # tests/integration/test_supervisor.py
    # An address that somebody else has may be free some time later: again and again, whatever the exit code.
    assert (unit["Restart"], unit["StartLimitIntervalSec"]) == ("on-failure", "0")
    assert "RestartPreventExitStatus" not in unit
    assert unit.get("ProcSubset", "all") == "all"  # where metrics of the process are read from
    command, flag, _ = unit["ExecStart"].split()
    assert Path(command).name in COMMANDS
    assert flag == "--config"


# ---- Kubernetes


def documents(path: Path) -> Iterator[dict[str, Any]]:
    yield from yaml.safe_load_all(path.read_text())


def of_kind(path: Path, *kinds: str) -> dict[str, Any]:
    (found,) = (it for it in documents(path) if it["kind"] in kinds)
    return found


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_kubernetes_takes_the_manifests(path: Path, version: str) -> None:
    for document in documents(path):
        kubernetes_validate.validate(document, version, strict=True)
    document["spec"]["thisIsNoField"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_the_server_takes_the_settings_of_the_manifests(path: Path, tmp_path: Path) -> None:
    text = of_kind(path, "ConfigMap")["data"]["config.toml"]
    (access := tmp_path / "access.toml").write_text(ACCESS)
    (file := tmp_path / "config.toml").write_text(re.sub(r"/etc/\S+/access\.toml", str(access), text))
    config = load({}, {}, file).config
    assert config.unguarded() is None
    ports = {address.rpartition(":")[2] for address in (*config.addresses, config.admin_address)}
    container = container_of(path)
    assert {str(it["containerPort"]) for it in container["ports"]} == ports
    assert {str(it["port"]) for it in of_kind(path, "Service")["spec"]["ports"]} == ports
    (grpc,) = (address.rpartition(":")[2] for address in config.addresses)
    probes = [container[it] for it in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert [it["grpc"] for it in probes] == [{"port": int(grpc)}] * 3


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_the_parts_of_a_manifest_are_about_each_other(path: Path) -> None:
    workload = of_kind(path, "Deployment", "StatefulSet")
    pod = workload["spec"]["template"]
    labels = pod["metadata"]["labels"]
    selectors = [workload["spec"]["selector"]["matchLabels"], of_kind(path, "Service")["spec"]["selector"]]
    selectors += [it["spec"]["selector"]["matchLabels"] for it in documents(path) if it["kind"].startswith("PodDis")]
    assert all(it == labels for it in selectors)
    mounts = {it["name"]: it["mountPath"] for it in container_of(path)["volumeMounts"]}
    claimed = [it["metadata"] for it in workload["spec"].get("volumeClaimTemplates", [])]
    assert set(mounts) == {it["name"] for it in [*pod["spec"]["volumes"], *claimed]}
    text = of_kind(path, "ConfigMap")["data"]["config.toml"]
    named = [*re.findall(r'"(/[^"]+)"', text), *re.findall(r"sqlite:(/[^\"]+)", text), container_of(path)["args"][1]]
    assert [it for it in named if not any(it.startswith(f"{mount}/") for mount in mounts.values())] == []


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_pod_may_no_more_than_it_has_to(path: Path) -> None:
    pod = of_kind(path, "Deployment", "StatefulSet")["spec"]["template"]["spec"]
    container: Mapping[str, Any] = container_of(path)
    assert f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" == lines_of("USER")[0]
    assert container["image"].partition(":")[2] == PROJECT["version"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)


def container_of(path: Path) -> dict[str, Any]:
    (found,) = of_kind(path, "Deployment", "StatefulSet")["spec"]["template"]["spec"]["containers"]
    return dict(found)
