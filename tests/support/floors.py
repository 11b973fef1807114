"""The oldest of each package that grpc-registry says will do, as constraints for pip."""

import re
import tomllib
from collections.abc import Iterable, Iterator

from tests.support.source import ROOT

_FLOOR = re.compile(r"([\w-]+)>=([\w.]+)(?:,<[\w.]+)?(?:;.*)?")


def dependencies() -> list[str]:
    """What every installation of grpc-registry needs."""
    return list(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])


def floors(requirements: Iterable[str]) -> Iterator[str]:
    """`name==version` for each. Raises ValueError for one without a floor."""
    for requirement in requirements:
        found = _FLOOR.fullmatch(requirement)
        if found is None:
            raise ValueError(f"{requirement!r} has no floor")
        yield f"{found[1]}=={found[2]}"


if __name__ == "__main__":
    print(*floors(dependencies()), sep="\n")
