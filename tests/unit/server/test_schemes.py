"""Kinds of store: built in, registered, or installed by others' packages; a mistake is one line that names it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry_server import stores
from registry_server.config import Config, ConfigError
from registry_server.stores import Scheme, Store, check_url, has_password, open_store, register
from registry_server.stores.base import BadStoreURL
from registry_server.stores.etcd.store import EtcdStore
from registry_server.stores.memory import MemoryStore
from registry_server.stores.schemes import Schemes, installed

BUILT_IN = ", ".join(f"{name}:" for name in stores._BUILT_IN)
MODULE = """
from registry_server.stores import Scheme
from registry_server.stores.base import BadStoreURL
from registry_server.stores.memory import MemoryStore

def check(url):
    if url == "mine:wrong":
        raise BadStoreURL("store URL: not so")

def open_store(url):
    return MemoryStore()

scheme = Scheme(open_store, check)
no_store = lambda url: "a store"
number = 7
"""
POINTS = """
[grpc_registry.stores]
mine = mine_stores:scheme
plain = mine_stores:open_store
broken = mine_stores:no_such_thing
absent = no_such_module:maker
number = mine_stores:number
text = mine_stores:no_store
memory = mine_stores:open_store
"""


def install(folder: Path, name: str, module: str, points: str) -> None:
    """A package as pip leaves it."""
    (folder / f"{name}.py").write_text(module)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)


@pytest.fixture
def others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which a package is installed that brings stores."""
    install(tmp_path, "mine_stores", MODULE, POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("mine_stores", None)


@pytest.fixture(autouse=True)
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this test registers is gone after it, and what others did is not there."""
    monkeypatch.setattr(stores, "_SCHEMES", Schemes(stores._BUILT_IN, installed))


def said(url: str) -> str:
    """What is said of the mistake in it."""
    with pytest.raises(BadStoreURL) as error:
        open_store(url)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("url", ["redis://h", "Memory:", "memory", "", ":", "hunter2"])
def test_unknown_kind_lists_what_there_is(url: str, others: Path) -> None:
    told = said(url)
    assert told.endswith(f"one of {BUILT_IN}, absent:, broken:, mine:, number:, plain:, text:")
    assert "hunter2" not in told


@pytest.mark.parametrize("url", ["mine:x", "plain:"])
def test_installed_kind_is_used(url: str, others: Path) -> None:
    check_url(url)
    assert isinstance(open_store(url), MemoryStore)


def test_checking_asks_the_kind_and_makes_no_store(others: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (MemoryStore, EtcdStore):
        monkeypatch.setattr(kind, "__init__", lambda self: pytest.fail("made a store"))
    for url in ("mine:right", "memory:", "plain:", "etcd://h"):
        check_url(url)
    with pytest.raises(BadStoreURL, match="not so"):
        check_url("mine:wrong")


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        (
            "broken",
            "point broken = mine_stores:no_such_thing of mine_stores cannot be loaded: AttributeError",
        ),
        (
            "absent",
            "point absent = no_such_module:maker of mine_stores cannot be loaded: ModuleNotFoundError",
        ),
        ("number", "point number = mine_stores:number of mine_stores cannot be loaded: TypeError: a kind of"),
        ("text", "makes a str, which is no Store"),
    ],
)
def test_broken_kind_is_named(kind: str, named: str, others: Path) -> None:
    assert named in said(f"{kind}:x")


def test_two_packages_that_bring_one_kind_are_named(others: Path) -> None:
    install(others, "other_stores", MODULE, "[grpc_registry.stores]\nmine = other_stores:scheme\n")
    told = said("mine:x")
    assert "of mine_stores" in told
    assert "of other_stores" in told


def test_broken_kind_harms_no_other(others: Path) -> None:
    assert isinstance(open_store("memory:"), MemoryStore)


def test_registered_kind_is_used() -> None:
    urls: list[str] = []
    register("x-1.y+z", lambda url: urls.append(url) or MemoryStore())
    check_url("x-1.y+z:whatever")
    assert urls == []
    assert isinstance(open_store("x-1.y+z:whatever"), MemoryStore)
    assert urls == ["x-1.y+z:whatever"]
    with pytest.raises(BadStoreURL, match=rf"one of {BUILT_IN}, x-1\.y\+z:$"):
        open_store("other:")


def test_registered_comes_before_installed(others: Path) -> None:
    register("broken", lambda url: MemoryStore())
    assert isinstance(open_store("broken:"), MemoryStore)


@pytest.mark.parametrize("name", ["memory", "", "Mine", "1x", "a b", "a:", "a/b"])
def test_names_that_cannot_be_registered(name: str) -> None:
    with pytest.raises(ValueError, match="kind of store"):
        register(name, lambda url: MemoryStore())


@pytest.mark.parametrize(
    ("url", "has_one"),
    [
        ("mine://h", False),
        ("mine://user@h", False),
        ("mine://user:@h", False),
        ("mine://user:secret@h", True),
        ("mine://:secret@h", True),
        ("mine://h?token=secret", True),
        ("mine://h?a=b&password=secret", True),
        ("mine://h?token=", False),
        ("mine://h?token=&x=1", False),
        ("mine:user:secret", False),
        ("memory:", False),
    ],
)
def test_passwords_in_the_urls_of_others(url: str, has_one: bool, others: Path) -> None:
    assert has_password(url) is has_one


def test_server_says_in_one_line_what_is_broken(others: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "registry_server", "--store", "absent:x"],
        env={"PYTHONPATH": ":".join([str(others), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("registry-server: store: store URL: the entry point absent = no_such_module:maker")
    assert done.stderr.count("\n") == 1


def raises(url: str) -> Store:
    raise RuntimeError(f"it says more than it should of {url}")


async def waits(url: str) -> Store:
    return MemoryStore()


def no_table() -> str:
    raise RuntimeError


def test_a_kind_whose_code_raises_is_one_line_that_says_where_and_no_secret() -> None:
    register("raises", Scheme(raises, raises, raises, no_table))  # type: ignore[arg-type]
    for ask in (open_store, check_url, has_password):
        with pytest.raises(
            BadStoreURL, match=r"kind of store, raises, fails with RuntimeError in .*, line \d+$"
        ) as refused:
            ask("raises:hunter2")
        assert "hunter2" not in str(refused.value)
    with pytest.raises(BadStoreURL, match="fails with RuntimeError"):
        stores.template("raises")
    with pytest.raises(ConfigError, match=r"^store: .*fails with RuntimeError"):
        Config(store="raises:hunter2")
    assert stores.hidden("raises:hunter2") == "raises:…"


def test_a_kind_that_has_to_be_waited_for_makes_no_store() -> None:
    register("waits", waits)  # type: ignore[arg-type]
    with pytest.raises(BadStoreURL, match="makes a coroutine, which is no Store"):
        open_store("waits:")
