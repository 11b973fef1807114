"""What is published: the sdist has everything to go on with, the wheel what is needed to run and nothing else."""

import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path
from shutil import copy2

import pytest

from tests.support.source import ROOT, tracked_files

KINDS = (".py", ".pyi", ".proto", "py.typed", ".html", ".js", ".css", ".svg")
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"


def build(kind: str, source: Path, into: Path) -> Path:
    """Builds as a front end does, in a copy of the source."""
    command = [sys.executable, "-c", BUILD, f"build_{kind}", str(into)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return max(into.iterdir(), key=lambda path: path.stat().st_mtime_ns)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("sdist")
    for path in tracked_files():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        copy2(ROOT / path, source / path)
    with tarfile.open(build("sdist", source, built)) as archive:
        archive.extractall(built, filter="data")
    (folder,) = (path for path in built.iterdir() if path.is_dir())
    return folder


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel that is built from the sdist, as pip does it."""
    return zipfile.ZipFile(build("wheel", sdist, tmp_path_factory.mktemp("wheel")))


def test_sdist_has_all_that_the_repository_has(sdist: Path) -> None:
    files = tracked_files()
    assert {"docs/protocol.md", "tests/conftest.py", "examples/demo.py", "protos/generate.py"} <= set(files)
    assert [path for path in files if not (sdist / path).is_file()] == []


def test_wheel_has_the_packages_alone(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    info = {name for name in names if ".dist-info/" in name}
    packages = ("protos/registry_api/", "registry_checks/", "registry_server/", "registry_client/", "balancer/")
    wanted = {
        path.removeprefix("protos/") for path in tracked_files() if path.startswith(packages) and path.endswith(KINDS)
    }
    assert names - info == wanted


def test_metadata_says_where_to_look(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = Parser().parsestr(wheel.read(name).decode())
    labels = {url.split(",")[0] for url in metadata.get_all("Project-URL", [])}
    assert labels == {"Homepage", "Documentation", "Changelog", "Issues"}
    assert metadata["Requires-Python"] == ">=3.11"


def test_wheel_runs_by_itself(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Imported from the wheel and from nowhere else."""
    wheel.extractall(tmp_path)
    program = "import registry_server.server, registry_client, balancer; print(registry_server.server.__file__)"
    command = [sys.executable, "-P", "-c", program]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "registry_server" / "server.py")
