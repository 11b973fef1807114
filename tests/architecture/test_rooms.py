"""docs/architecture.md against the code: where things live, of what kind each is, what is done in one place alone."""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import PurePosixPath

import pytest

from tests.architecture.test_imports import is_core
from tests.support.source import PACKAGES, ROOT, Source, sources

DOCUMENT = (ROOT / "docs/architecture.md").read_text()
DESCRIBED = ("registry_server", "registry_client", "balancer")
_ROW = re.compile(r"^\| (`[^|]+`) \|.*\| (core|shell|) ?\|$", re.MULTILINE)


def rooms(document: str) -> Iterator[tuple[str, str]]:
    """Path and kind of every room in the table; later names of a row are beside its first."""
    for cell, kind in _ROW.findall(document):
        first, *others = re.findall(r"`([^`]+)`", cell)
        yield first, kind
        for other in others:
            yield other if "/" in other.rstrip("/") else f"{PurePosixPath(first).parent}/{other}", kind


def of_another_kind(path: str, kind: str, found: list[Source]) -> list[str]:
    """Which files of a room are not what its row says: all of a core are cores, and no file that acts is one."""
    inside = [source for source in found if source.path == path or source.path.startswith(f"{path.rstrip('/')}/")]
    if not inside:
        return [f"{path} is not there"]
    if kind == "core":
        return [source.path for source in inside if not is_core(source)]
    return [source.path for source in inside if kind == "shell" and source.path == path and is_core(source)]


def test_rooms_are_of_the_kind_that_the_document_says() -> None:
    found = [(path, kind) for path, kind in rooms(DOCUMENT) if not path.startswith("protos/")]
    assert len(found) > 40
    assert [wrong for path, kind in found for wrong in of_another_kind(path, kind, sources())] == []


def test_every_room_is_in_the_document() -> None:
    here = {"/".join(source.path.split("/")[:2]).removesuffix("/__init__.py") for source in sources(*DESCRIBED)}
    described = {"/".join(path.rstrip("/").split("/")[:2]) for path, _ in rooms(DOCUMENT)}
    assert sorted(here - described - set(DESCRIBED)) == []


@pytest.mark.parametrize(
    ("path", "kind", "text"),
    [
        ("balancer/x.py", "core", '"""SHELL: it acts."""'),
        ("balancer/x/y.py", "core", '"""Whatever it is."""'),
        ("balancer/x.py", "shell", '"""CORE: it decides."""'),
        ("balancer/gone.py", "", ""),
    ],
)
def test_another_kind_is_seen(path: str, kind: str, text: str) -> None:
    row = f"| `{path.replace('/y.py', '/')}` | what it is | {kind} |"
    found = [Source(path.replace("gone", "here"), text)]
    assert [wrong for room, said in rooms(row) for wrong in of_another_kind(room, said, found)]


# ---- what is done in one place alone


@dataclass(frozen=True)
class Alone:
    """What the document says of one place. `finds` gives the lines of a file where that is done; `places` may."""

    says: str
    places: tuple[str, ...]
    finds: Callable[[Source], Iterator[int]]
    planted: str
    within: str = "*"

    def wrong(self, source: Source) -> Iterator[str]:
        if fnmatch(source.path, self.within) and not any(fnmatch(source.path, place) for place in self.places):
            yield from (f"{source.path}:{line}" for line in self.finds(source))


def imports_of(*names: str) -> Callable[[Source], Iterator[int]]:
    return lambda source: (
        line for line, found in source.imports() if any(f"{found}.".startswith(f"{name}.") for name in names)
    )


def private_to_grpcio(source: Source) -> Iterator[int]:
    for line, name in source.imports():
        if re.search(r"^grpc(\.\w+)*\._(?!_)|cygrpc", name):
            yield line
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and (node.attr == "check_connectivity_state" or _is_private_of_grpc(node)):
            yield node.lineno


def _is_private_of_grpc(node: ast.Attribute) -> bool:
    return re.search(r"^grpc(\.\w+)*\._(?!_)|cygrpc", ast.unparse(node)) is not None


def shows(source: Source) -> Iterator[int]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and re.search(r"^(click\.s?echo|print|(\w+\.)*Console)$", ast.unparse(node.func)):
            yield node.lineno


def changes_the_catalog(source: Source) -> Iterator[int]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and re.search(
            r"\bcatalog\.(load|apply|remove|progress)$", ast.unparse(node.func).replace("_catalog", "catalog")
        ):
            yield node.lineno


ALONE = (
    Alone(
        "nothing else touches what is private to grpcio",
        ("balancer/grpcio_internals/*",),
        private_to_grpcio,
        "import grpc\nx = grpc._channel.Channel",
    ),
    Alone(
        "`resolver.py` and `bridge/` alone know the balancer",
        ("registry_client/resolver.py", "registry_client/bridge/*", "balancer/*"),
        imports_of("balancer"),
        "from balancer import Endpoint",
    ),
    Alone(
        "these two alone know the server",
        ("registry_client/inside.py", "registry_client/testing.py"),
        imports_of("registry_server"),
        "import registry_server",
        within="registry_client/*",
    ),
    Alone(
        "`show.py` is the one door to the terminal",
        ("registry_client/cli/show.py",),
        shows,
        "import click\nclick.echo('x')",
        within="registry_client/*",
    ),
    Alone(
        "the catalog changes by events of the store alone",
        ("registry_server/feed.py",),
        changes_the_catalog,
        "self._catalog.remove(keys, cause)",
        within="registry_server/*",
    ),
    Alone(
        "nothing of the server imports it",
        ("registry_server/testing/*",),
        imports_of("registry_server.testing"),
        "from registry_server import testing",
    ),
    Alone(
        "no gRPC",
        (),
        imports_of("grpc"),
        "import grpc",
        within="balancer/calls/*",
    ),
    Alone(
        "imports no grpc",
        (),
        imports_of("grpc"),
        "from grpc import aio",
        within="registry_server/rpc/*",
    ),
    Alone(
        "`balancer/` as a whole knows nothing of registries",
        (),
        imports_of("registry_api", "registry_client", "registry_server"),
        "import registry_api",
        within="balancer/*",
    ),
)


@pytest.mark.parametrize("rule", ALONE, ids=lambda rule: rule.says)
def test_one_place_is_the_only_one(rule: Alone) -> None:
    assert rule.says in " ".join(DOCUMENT.split())
    assert [wrong for source in sources(*PACKAGES) for wrong in rule.wrong(source)] == []


@pytest.mark.parametrize("rule", ALONE, ids=lambda rule: rule.says)
def test_another_place_is_seen(rule: Alone) -> None:
    elsewhere = rule.within.replace("*", "elsewhere.py") if rule.within != "*" else "registry_server/elsewhere.py"
    assert list(rule.wrong(Source(elsewhere, rule.planted)))


# ---- one word for one thing


# The front for threads has the names of what is behind it; the tests of a store are no part of the server.
FRONTS = ("registry_client/sync.py", "registry_server/testing/*")
# Channels for asyncio and for threads are made of parts that correspond, to each other and to what they share.
TWINS = re.compile(r"^balancer/(aio|threads|channels)/")


def words_of_several_meanings(found: list[Source]) -> list[str]:
    """Classes of one name at several addresses of a package."""
    at: dict[tuple[str, str], set[str]] = {}
    for source in found:
        if any(fnmatch(source.path, front) for front in FRONTS):
            continue
        place = TWINS.sub("balancer/*/", source.path)
        for node in source.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                at.setdefault((source.package, node.name), set()).add(place)
    return [f"{name}: {', '.join(sorted(places))}" for (_, name), places in at.items() if len(places) > 1]


def test_a_word_means_one_thing_in_a_package() -> None:
    assert words_of_several_meanings(sources(*DESCRIBED)) == []


def test_a_word_of_two_meanings_is_seen() -> None:
    text = "class Feed: ..."
    assert words_of_several_meanings([Source("balancer/a.py", text), Source("balancer/b.py", text)])
    assert not words_of_several_meanings(
        [Source(f"{twin}call.py", text) for twin in ("balancer/aio/", "balancer/threads/")]
    )
    assert not words_of_several_meanings([Source("balancer/a.py", text), Source("registry_client/a.py", text)])


_WORD = re.compile(r"^\| (\w+) \| [^|]+ \| (`[^|]+`) \|$", re.MULTILINE)


def test_words_are_where_the_document_says() -> None:
    words = _WORD.findall(DOCUMENT.partition("## Words")[2].partition("\n## ")[0])
    assert len(words) > 20
    assert [word for word, cell in words for path in re.findall(r"`([^`]+)`", cell) if not _is_there(word, path)] == []


def _is_there(word: str, path: str) -> bool:
    tree = next(source.tree for source in sources() if source.path == path)
    return any(isinstance(node, ast.ClassDef) and node.name == word for node in tree.body)
