"""The project's own source, parsed: what the tests of the architecture look at."""

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("registry_api", "registry_checks", "registry_server", "registry_client", "balancer")


@dataclass(frozen=True)
class Source:
    """One Python file, by its path from the root of the project."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @property
    def package(self) -> str:
        """The top-level package; what is generated into protos/ has a name of its own."""
        return self.path.removeprefix("protos/").split("/")[0]

    @property
    def module(self) -> str:
        """The dotted name."""
        return self.path.removeprefix("protos/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def imports(self) -> Iterator[tuple[int, str]]:
        """Line and dotted name of everything imported, also under TYPE_CHECKING and inside of functions."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                origin = self._origin(node)
                yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)

    def _origin(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        folder = self.path.split("/")[: -node.level]
        return ".".join([*folder, *([node.module] if node.module else [])])


def tracked_files() -> list[str]:
    """Paths of all files of the project: those that git knows or would add, virtual environments aside; in an unpacked
    sdist, which has no git, those it came with."""
    if not (ROOT / ".git").exists():
        sources = ROOT / "grpc_registry.egg-info" / "SOURCES.txt"
        return sorted(path for path in sources.read_text().splitlines() if ".egg-info/" not in path)
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    foreign = {path.parent.name for path in ROOT.glob("*/pyvenv.cfg")}
    return sorted(path for path in set(listed) if path.split("/")[0] not in foreign and (ROOT / path).is_file())


def sources(*folders: str) -> list[Source]:
    """The hand-written Python files of these packages; of the whole project without any."""
    return [source for source in _sources() if not folders or source.package in folders]


@cache
def _sources() -> tuple[Source, ...]:
    """Read and parsed once for all tests of a process."""
    paths = [path for path in tracked_files() if path.endswith(".py") and "_pb2" not in path]
    return tuple(Source(path, (ROOT / path).read_text()) for path in paths)
