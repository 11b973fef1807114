"""What is published: the sdist has everything to go on with, the wheel what is needed to run and nothing else."""

import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.metadata import distribution
from pathlib import Path
from shutil import copy2

import pytest
from trove_classifiers import classifiers

from tests.support.alone import ENV, alone
from tests.support.source import PACKAGES, ROOT, sources, tracked_files

KINDS = (".py", ".pyi", ".proto", "py.typed", ".html", ".js", ".css", ".svg")
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"


# Whoever imports what needs these has them.
OF_THE_USER = ("pytest", "pytest_asyncio")


def build(kind: str, source: Path, into: Path) -> Path:
    """Builds as a front end does, in a copy of the source."""
    command = [sys.executable, "-c", BUILD, f"build_{kind}", str(into)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return max(into.iterdir(), key=lambda path: path.stat().st_mtime_ns)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository."""
    source = tmp_path_factory.mktemp("source") / "source"
    for path in tracked_files():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        copy2(ROOT / path, source / path)
    return source


@pytest.fixture(scope="module")
def sdist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked."""
    built = tmp_path_factory.mktemp("sdist")
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
    metadata = metadata_of(wheel)
    labels = {url.split(",")[0] for url in metadata.get_all("Project-URL", [])}
    assert labels == {"Homepage", "Documentation", "Changelog", "Issues"}
    assert metadata["Requires-Python"] == ">=3.11"


def test_metadata_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    metadata = metadata_of(wheel)
    assert (metadata["Name"], metadata["License-Expression"]) == ("grpc-registry", "Apache-2.0")
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert str(metadata.get_payload()) == (ROOT / "README.md").read_text()
    assert [it for it in metadata.get_all("Classifier", []) if it not in classifiers] == []
    (license_file,) = (name for name in wheel.namelist() if name.endswith("licenses/LICENSE"))
    assert wheel.read(license_file) == (ROOT / "LICENSE").read_bytes()


def test_every_package_is_typed(wheel: zipfile.ZipFile) -> None:
    (names,) = (name for name in wheel.namelist() if name.endswith(".dist-info/top_level.txt"))
    packages = wheel.read(names).decode().split()
    assert len(packages) == 5
    assert [name for name in packages if f"{name}/py.typed" not in wheel.namelist()] == []


def test_sdist_has_nothing_beside_what_the_repository_has(sdist: Path) -> None:
    (packed,) = sdist.parent.glob("*.tar.gz")
    with tarfile.open(packed) as archive:
        files = {it.name.partition("/")[2] for it in archive.getmembers() if it.isfile()}
    made = {path for path in files if ".egg-info/" in path or path in ("PKG-INFO", "setup.cfg")}
    assert files - made == set(tracked_files())


def test_the_wheel_is_the_same_from_the_sdist_and_from_the_repository(source: Path, wheel: zipfile.ZipFile) -> None:
    other = zipfile.ZipFile(build("wheel", source, source.parent))
    assert {it.filename: it.CRC for it in other.infolist()} == {it.filename: it.CRC for it in wheel.infolist()}


def test_all_that_is_imported_is_asked_for(wheel: zipfile.ZipFile) -> None:
    """By the packages of a plain installation, or by an extra of the name that is missed."""
    asked = {_name_of(it) for it in metadata_of(wheel).get_all("Requires-Dist", []) if _is_for_users(it)}
    brought = {path.parts[0].partition(".")[0] for name in asked for path in distribution(name).files or ()}
    own = {*sys.stdlib_module_names, *PACKAGES}
    tops = {name.split(".")[0] for source in sources(*PACKAGES) for _, name in source.imports() if name}
    assert tops - own - set(OF_THE_USER) - brought == set()


def metadata_of(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


def _name_of(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement)[0]


def _is_for_users(requirement: str) -> bool:
    return not re.search(r"extra == .(test|dev|docs|bench)\b", requirement)


def test_wheel_runs_by_itself(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Installed into an environment of its own, with others' packages from this one, and nothing else of this one."""
    home = tmp_path / "home"
    venv.create(home, with_pip=False, symlinks=True)
    (packages,) = home.glob("lib/*/site-packages")
    command = ["pip", "--python", str(home), "install", "--no-deps", "--no-index", str(wheel.filename)]
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, timeout=100, check=False, env=ENV
    )
    assert done.returncode == 0, done.stderr
    (packages / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    addresses, files = alone(home / "bin").splitlines()
    assert addresses == "['127.0.0.1:8001']"
    assert [it for it in files.split() if not it.startswith(str(packages))] == []
