"""The newest etcd, built by Go from the module that `newest_etcd/go.mod` names: `python -m tests.support.newest`.

PyPI's etcd is of 2021. The binary is built once and kept in tests/.cache, by version. Without Go, or without the
modules, tests that want it are skipped with the reason (under CI a skip is a failure).
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCE = HERE / "newest_etcd"
CACHE = HERE.parent / ".cache"
BUILD_S = 900
_VERSION = re.compile(r"^require go\.etcd\.io/etcd/server/v3 (v\S+)$", re.MULTILINE)


class NotBuilt(Exception):
    """There is no Go here, or it could not build etcd; the text says which."""


def newest_etcd() -> Path:
    """Where its binary is; the first who asks builds it. Skips the test when that cannot be done."""
    try:
        return build()
    except NotBuilt as error:
        pytest.skip(f"no newest etcd: {error}")


def build() -> Path:
    """Build it unless it is there. Raises NotBuilt."""
    match = _VERSION.search((SOURCE / "go.mod").read_text())
    assert match is not None
    home = CACHE / f"etcd-{match[1]}"
    if home.exists():
        return home
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "etcd.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the workers of one run would all build it
        if not home.exists():
            _build(home)
    return home


def _build(home: Path) -> None:
    go = shutil.which("go")
    if go is None:
        raise NotBuilt("there is no Go on this machine (https://go.dev/dl)")
    scratch = home.with_suffix(f".{os.getpid()}")
    command = [go, "build", "-trimpath", "-ldflags=-s -w", "-o", str(scratch), "."]
    done = subprocess.run(command, cwd=SOURCE, capture_output=True, text=True, timeout=BUILD_S, check=False)
    if done.returncode:
        raise NotBuilt(f"Go could not build it: {done.stderr.strip()[-500:]}")
    scratch.rename(home)


if __name__ == "__main__":
    try:
        build()
    except NotBuilt as error:
        sys.exit(f"the tests on the newest etcd will be skipped: {error}")
