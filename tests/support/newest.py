"""The newest etcd, built by Go from the module that `newest_etcd/go.mod` names. PyPI's etcd is of 2021."""

from pathlib import Path

from tests.support.building import Program, run

_SOURCE = Path(__file__).parent / "newest_etcd"


def _make(home: Path) -> None:
    run(["go", "build", "-trimpath", "-ldflags=-s -w", "-o", home / "etcd", "."], _SOURCE)


NEWEST_ETCD = Program("etcd", "go", "https://go.dev/dl", (_SOURCE,), _make)


def newest_etcd() -> Path:
    """Where its binary is; the first who asks builds it. Skips the test when that cannot be done."""
    return NEWEST_ETCD.needed() / "etcd"
