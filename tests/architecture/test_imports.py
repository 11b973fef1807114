"""The arrows between the packages, and what core modules may know: nothing that waits, reads a clock or does I/O."""

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache

import pytest

from tests.support.source import PACKAGES, Source, sources

# Who may import whom, besides itself.
ARROWS = {
    "registry_api": set(),
    "registry_checks": {"registry_api"},
    "balancer": set(),
    "registry_server": {"registry_api", "registry_checks"},
    "registry_client": {"registry_api", "registry_checks"},
}
# The bridges between client and balancer, and who runs a registry inside of the client's process.
BRIDGES = ("registry_client/resolver.py", "registry_client/bridge/")
INSIDE = (("registry_client/inside.py", "registry_server"), ("registry_client/testing.py", "registry_server"))

# What a module is, the first sentence of its docstring begins with; docs/architecture.md says the same of rooms.
CAPTION = re.compile(r"(CORE|SHELL): \S")
SHELL_ONLY = {"asyncio", "grpc", "http", "logging", "multiprocessing", "os", "select", "signal", "socket"}
SHELL_ONLY |= {"subprocess", "tempfile", "threading", "time", "urllib"}
# Synchronous channels count calls and pick from many threads at once, so what they share may hold a lock.
LOCKS_ALLOWED = ("balancer/load.py", "balancer/policies/*.py")
# Of `random`, the class; its module-level functions share one hidden generator.
RANDOM_ALLOWED = {"Random", "SystemRandom"}


# Rooms that others know by their `__init__.py`, and who may look behind it: who writes, who is told, the shared tests.
FACES = {
    "registry_server.stores": (
        "registry_server.registrar",
        "registry_server.feed",
        "registry_server.health.replicas",
        "registry_server.health.making",
        "registry_server.neighbours",
        "registry_server.testing",
    )
}

# What cores may know that is none: exceptions that have a gRPC status, and what is told of a connection.
KNOWN_TO_CORES = ("registry_client.errors", "registry_server.stores.teller")


def is_core(source: Source) -> bool:
    return _caption(source).startswith("CORE: ")


def _caption(source: Source) -> str:
    return (ast.get_docstring(source.tree) or "").partition("\n")[0]


def wrong_captions(source: Source) -> Iterator[str]:
    """A caption that is the word alone, or is not written as all others are."""
    caption = _caption(source)
    if caption.startswith(("CORE", "SHELL")) and not CAPTION.match(caption):
        yield f"{source.path}: {caption}"


def wrong_arrows(source: Source) -> Iterator[str]:
    allowed = ARROWS.get(source.package)
    for line, name in source.imports():
        target = name.split(".")[0]
        if target == source.package or target not in PACKAGES or allowed is None:
            continue
        is_bridge = target == "balancer" and source.path.startswith(BRIDGES)
        if target not in allowed and not is_bridge and (source.path, target) not in INSIDE:
            yield f"{source.path}:{line} imports {name}"


def server_imports(source: Source) -> Iterator[str]:
    """Nobody but the server itself and the tests imports the server, unless it is to run inside."""
    if source.package in ("registry_server", "tests") or (source.path, "registry_server") in INSIDE:
        return
    for line, name in source.imports():
        if name.split(".")[0] == "registry_server":
            yield f"{source.path}:{line} imports {name}"


def shell_imports(source: Source) -> Iterator[str]:
    for line, name in source.imports():
        top = name.split(".")[0]
        if top == "threading" and any(fnmatch(source.path, pattern) for pattern in LOCKS_ALLOWED):
            continue
        if top in SHELL_ONLY or (name.startswith("random.") and name.split(".")[1] not in RANDOM_ALLOWED):
            yield f"{source.path}:{line} imports {name}"
    yield from _global_random(source)
    yield from _wall_clock(source)


def _global_random(source: Source) -> Iterator[str]:
    for node in _attributes_of(source, "random"):
        if node.attr not in RANDOM_ALLOWED:
            yield f"{source.path}:{node.lineno} uses random.{node.attr}"


def _wall_clock(source: Source) -> Iterator[str]:
    for name in ("datetime", "date"):
        for node in _attributes_of(source, name):
            if node.attr in ("now", "utcnow", "today"):
                yield f"{source.path}:{node.lineno} reads the clock: {name}.{node.attr}"


def _attributes_of(source: Source, name: str) -> Iterator[ast.Attribute]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == name:
            yield node


def test_arrows_point_one_way() -> None:
    assert [wrong for source in sources(*PACKAGES) for wrong in wrong_arrows(source)] == []


def test_nobody_imports_the_server() -> None:
    assert [wrong for source in sources() for wrong in server_imports(source)] == []


def behind_faces(arrows: dict[str, set[str]]) -> list[str]:
    """Who looks behind the `__init__.py` of a room that is known by it."""
    return [
        f"{name} imports {target}"
        for room, known_to in FACES.items()
        for name, targets in arrows.items()
        for target in sorted(targets)
        if target.startswith(f"{room}.") and not name.startswith((room, *known_to))
    ]


def test_rooms_are_known_by_their_faces() -> None:
    assert behind_faces(arrows_among(_modules())) == []


def test_a_look_behind_a_face_is_seen() -> None:
    text = "from registry_server.stores import BadStoreURL, memory\nfrom registry_server.stores.base import Store"
    modules = _modules() | {
        "registry_server.config.values": Source("registry_server/config/values.py", text),
        "registry_server.feed": Source("registry_server/feed.py", text),
    }
    assert behind_faces(arrows_among(modules)) == [
        "registry_server.config.values imports registry_server.stores.base",
        "registry_server.config.values imports registry_server.stores.memory",
    ]


def test_captions_are_alike() -> None:
    assert [wrong for source in sources(*PACKAGES) for wrong in wrong_captions(source)] == []


@pytest.mark.parametrize("caption", ["CORE", "CORE. Rows.", "CORE of it all: rows", "SHELL - rows"])
def test_wrong_caption_is_seen(caption: str) -> None:
    assert list(wrong_captions(Source("balancer/x.py", f'"""{caption}"""')))
    assert not list(wrong_captions(Source("balancer/x.py", '"""SHELL: rows."""')))


def test_core_neither_waits_nor_looks_at_a_clock() -> None:
    core = [source for source in sources(*PACKAGES) if is_core(source)]
    assert [wrong for source in core for wrong in shell_imports(source)] == []


def outside_of_core(modules: dict[str, Source]) -> list[str]:
    """What cores import that is none, and does what they may not: they would do it through that."""
    return [
        f"{modules[name].path} imports {target}"
        for name, targets in arrows_among(modules).items()
        for target in sorted(targets)
        if is_core(modules[name]) and not is_core(modules[target]) and target not in KNOWN_TO_CORES
    ]


def test_core_knows_core_alone() -> None:
    assert outside_of_core(_modules()) == []


def test_shell_behind_a_core_is_seen() -> None:
    core, shell = Source("a.py", '"""CORE: a."""\nimport b'), Source("b.py", '"""SHELL: b."""')
    assert outside_of_core({"a": core, "b": shell}) == ["a.py imports b"]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("balancer/pool/pool.py", "import registry_api"),
        ("balancer/pool/pool.py", "def f():\n    from registry_client import view"),
        ("registry_client/client.py", "import balancer.aio.channel"),
        ("registry_client/client.py", "from registry_server.model import Key"),
        ("registry_server/server.py", "from registry_client import connect"),
        ("protos/registry_api/__init__.py", "import balancer"),
    ],
)
def test_wrong_arrow_is_seen(path: str, text: str) -> None:
    assert list(wrong_arrows(Source(path, text)))


def test_bridge_and_own_package_are_allowed() -> None:
    assert not list(
        wrong_arrows(Source("registry_client/resolver.py", "from balancer import Endpoint\nimport registry_api"))
    )
    assert not list(wrong_arrows(Source("balancer/pool/pool.py", "from . import load\nfrom .policies import base")))


@pytest.mark.parametrize(
    "text",
    [
        "import asyncio",
        "from grpc import aio",
        "from time import monotonic",
        "import threading",
        "from random import choice",
        "import random\nx = random.random()",
        "from datetime import datetime\nx = datetime.now()",
        "if TYPE_CHECKING:\n    import logging",
    ],
)
def test_shell_in_core_is_seen(text: str) -> None:
    assert list(shell_imports(Source("balancer/pool/pool.py", text)))


def test_randomness_as_an_argument_is_allowed() -> None:
    assert not list(
        shell_imports(Source("balancer/pool/pool.py", "import random\ndef f(rng: random.Random) -> None: ..."))
    )
    assert not list(shell_imports(Source("balancer/load.py", "import threading")))


@cache
def _modules() -> dict[str, Source]:
    return {
        source.path.removesuffix("/__init__.py").removesuffix(".py").replace("/", "."): source
        for source in sources(*PACKAGES)
    }


def arrows_among(modules: dict[str, Source]) -> dict[str, set[str]]:
    """Who imports whom, module by module; imports for type checkers count: as objects they are as real."""
    return {
        name: {
            target for _, imported in source.imports() if (target := _module_of(imported, modules)) not in (None, name)
        }
        for name, source in modules.items()
    }


def _module_of(imported: str, modules: dict[str, Source]) -> str | None:
    """The module that an import is of: `a.b.c` may be the name `c` of the module `a.b`."""
    while imported and imported not in modules:
        imported = imported.rpartition(".")[0]
    return imported or None


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other."""
    reach = {name: _reached(name, arrows) for name in arrows}
    groups = {tuple(sorted(other for other in reach[name] if name in reach.get(other, ()))) for name in arrows}
    return sorted(list(group) for group in groups if len(group) > 1)


def _reached(name: str, arrows: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    due = [name]
    while due:
        for target in arrows.get(due.pop(), set()) - seen:
            seen.add(target)
            due.append(target)
    return seen


def test_no_import_circle() -> None:
    assert circles(arrows_among(_modules())) == []


def test_circle_is_seen() -> None:
    modules = {
        "a": Source("a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from b import B"),
        "b": Source("b.py", "from c import C"),
        "c": Source("c.py", "def f():\n    import a"),
        "d": Source("d.py", "import a"),
    }
    assert circles(arrows_among(modules)) == [["a", "b", "c"]]
