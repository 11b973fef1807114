"""The file is read again; whatever reading it does, streams are looked after, and the server can end."""

import asyncio
import threading
from pathlib import Path

import pytest

from registry_server.access import rereading
from registry_server.access.grants import Grants
from registry_server.access.identities import Access, Identity, Token
from registry_server.access.rereading import Rereading
from tests.support.waiting import eventually_async, passed

BEFORE = Access((Identity("a", (Token.of("a"),), (), Grants()),))


class Warden:
    def __init__(self) -> None:
        self.granted: list[Access] = []
        self.reviews = self.told = 0
        self.is_due = False

    def grant(self, access: Access) -> None:
        self.granted.append(access)

    async def review(self) -> None:
        self.reviews += 1
        if self.reviews == 1 and self.is_due:
            raise KeyError("a mistake")

    def tell(self) -> None:
        self.told += 1


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rereading, "LOOK_S", 0.01)


async def test_a_disk_that_stands_still_holds_up_neither_streams_nor_the_end(tmp_path: Path) -> None:
    (path := tmp_path / "access.toml").write_text("before")
    entered, may_end = threading.Event(), threading.Event()

    def read(file: str) -> Access:
        entered.set()
        may_end.wait(30)
        return Access()

    warden = Warden()
    running = asyncio.create_task(Rereading(warden, Access(BEFORE.identities, file=str(path)), read).run())  # type: ignore[arg-type]
    path.write_text("after all")
    await eventually_async(entered.is_set)
    warden.is_due = True
    await eventually_async(lambda: warden.reviews > 3, what="streams to be looked after, also after a mistake")
    running.cancel()
    await asyncio.wait([running], timeout=5)
    assert running.done()
    assert warden.granted == []
    may_end.set()
    await eventually_async(lambda: not any(it.name == "registry-aside" for it in threading.enumerate()))


async def test_what_says_the_same_changes_nothing(tmp_path: Path) -> None:
    (path := tmp_path / "access.toml").write_text("one")
    given = [Access(BEFORE.identities), Access()]
    reads: list[str] = []

    def read(file: str) -> Access:
        reads.append(Path(file).read_text())
        return given[len(reads) - 1]

    warden = Warden()
    running = asyncio.create_task(Rereading(warden, Access(BEFORE.identities, file=str(path)), read).run())  # type: ignore[arg-type]
    for text, grants in (("two", []), ("three", [Access()])):
        path.write_text(text)
        await eventually_async(lambda text=text: reads[-1:] == [text])
        await eventually_async(lambda grants=grants: warden.granted == grants)
    running.cancel()
    await asyncio.wait([running])
    assert reads == ["two", "three"]


async def test_what_changed_while_the_server_started_is_taken(tmp_path: Path) -> None:
    """What was granted was read long before anybody looks at the file again."""
    (path := tmp_path / "access.toml").write_text("changed meanwhile")
    warden, reads = Warden(), []

    def read(file: str) -> Access:
        reads.append(file)
        return Access()

    running = asyncio.create_task(Rereading(warden, Access(BEFORE.identities, file=str(path)), read).run())  # type: ignore[arg-type]
    await eventually_async(lambda: warden.granted == [Access()])
    await passed(0.1)
    assert len(reads) == 1
    running.cancel()
    await asyncio.wait([running])
