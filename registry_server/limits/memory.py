"""SHELL: how much memory this process has, and how much the system lets it have. Linux says; elsewhere nobody knows."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_KIBIBYTE = 1024
# What cgroups of the first version say where there is no limit is about so much.
_NO_LIMIT = 1 << 60


def memory_used() -> int | None:
    """How many bytes of memory this process has."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None


def memory_limit() -> int | None:
    """How many bytes it may have: what there is, or what the group that it is in may have."""
    return min(_limits(), default=None)


def _limits() -> Iterator[int]:
    with suppress(OSError, ValueError):
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for file in _files():
        with suppress(OSError, ValueError):
            limit = int(file.read_text())  # or `max`
            if 0 < limit < _NO_LIMIT:
                yield limit


def _files() -> Iterator[Path]:
    """Where limits of the groups may stand that this process is in."""
    yield _CGROUPS / "memory/memory.limit_in_bytes"
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, _, path = line.split(":", 2)
            group = _CGROUPS / path.lstrip("/")
            while group != _CGROUPS and group.is_relative_to(_CGROUPS):
                yield group / "memory.max"
                group = group.parent
    yield _CGROUPS / "memory.max"
