"""Programs that tests need and no package brings: each is built once, by the tools of its language, in tests/.cache.

A program is known by what it is made of: with other sources it is another one, and the one before is removed. Where
its tools are not to be had, tests that want it are skipped with the reason (under CI a skip is a failure).
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.source import ROOT

CACHE = ROOT / "tests" / ".cache"
BUILD_S = 900
_SHOWN_CHARS = 1500


class NotBuilt(Exception):
    """The tool that builds it is not here, or it failed; the text says which."""


@dataclass(frozen=True)
class Program:
    """What `make` puts into a folder, of the files and folders in `made_of`, by `tool`, which is had at `source`."""

    name: str
    tool: str
    source: str
    made_of: tuple[Path, ...]
    make: Callable[[Path], None]

    @property
    def home(self) -> Path:
        """The folder that it is in, once it is built."""
        return CACHE / f"{self.name}-{_digest(self.made_of)}"

    def built(self) -> Path:
        """Its folder; the first who asks builds it. Raises NotBuilt."""
        home = self.home
        if home.exists():
            return home
        CACHE.mkdir(exist_ok=True)
        with (CACHE / f"{self.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the workers of one run would all build it
            if not home.exists():
                self._build(home)
        return home

    def needed(self) -> Path:
        """Its folder. Skips the test when it cannot be built."""
        try:
            return self.built()
        except NotBuilt as error:
            pytest.skip(f"no {self.name}: {error}")

    def _build(self, home: Path) -> None:
        if shutil.which(self.tool) is None:
            raise NotBuilt(f"there is no `{self.tool}` on this machine ({self.source})")
        scratch = home.with_suffix(".unfinished")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        self.make(scratch)
        for other in CACHE.iterdir():
            if re.fullmatch(rf"{re.escape(self.name)}-[0-9a-f]{{12}}", other.name):
                shutil.rmtree(other)
        scratch.rename(home)


def run(command: Sequence[str | Path], folder: Path, environment: Mapping[str, str] | None = None) -> None:
    """Carry out one step of a build. Raises NotBuilt with what it says when it fails."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=BUILD_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotBuilt(f"`{command[0]}` was not done in {BUILD_S} s") from None
    if done.returncode:
        raise NotBuilt(f"`{command[0]}` could not build it: {(done.stderr + done.stdout).strip()[-_SHOWN_CHARS:]}")


def _digest(made_of: Sequence[Path]) -> str:
    files = [file for path in made_of for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            content = file.read_bytes()
            digest.update(f"{file.relative_to(ROOT)} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:12]
