"""Lease ids as users see them: nobody makes one up, and each is for whom it was given to. And the key behind them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_server.errors import Contended, Unavailable
from registry_server.leases import keeper
from registry_server.leases.keeper import KEY, Keeper
from registry_server.leases.seal import KEY_BYTES, Opened, Seal, packed, unpacked
from registry_server.records import Commit, Delete, Key, Put, Snapshot
from registry_server.registrar import Registrar
from registry_server.stores.memory import MemoryStore
from tests.support.core import Core
from tests.support.waiting import eventually_async

SEAL = Seal(b"a" * KEY_BYTES)
OTHER = Seal(b"b" * KEY_BYTES)
IDENTITIES = st.text(max_size=20)


# ---- the seal


@given(st.text("0123456789abcdef-.", min_size=1), IDENTITIES)
def test_who_was_given_it_opens_it(lease_id: str, identity: str) -> None:
    assert SEAL.open(SEAL.close(lease_id, identity), identity) == Opened(lease_id, is_own=True)


@given(IDENTITIES.filter(bool), IDENTITIES)
def test_another_identity_sees_that_it_is_not_its_own(owner: str, other: str) -> None:
    assert SEAL.open(SEAL.close("lease", owner), other) == Opened("lease", is_own=owner == other)


@given(IDENTITIES)
def test_what_was_given_to_nobody_is_for_whoever_has_it(identity: str) -> None:
    assert SEAL.open(SEAL.close("lease", ""), identity) == Opened("lease", is_own=True)


@given(st.data())
def test_one_character_more_or_less_or_another_opens_nothing(data: st.DataObject) -> None:
    whole = SEAL.close("0123456789abcdef-15000", "game")
    at = data.draw(st.integers(0, len(whole) - 1))
    put = data.draw(st.text("abcXYZ019-_.=~+é", max_size=2))
    changed = whole[:at] + put + whole[at + 1 :]
    assert changed == whole or SEAL.open(changed, "game") is None
    assert SEAL.open(whole[:at], "game") is None


@pytest.mark.parametrize("made_up", ["", ".", "lease", "lease.", "." + "A" * 32, "lease." + "A" * 32, "ä." + "ä" * 32])
def test_what_nobody_sealed_opens_nothing(made_up: str) -> None:
    assert SEAL.open(made_up, "") is None


def test_of_another_key_opens_nothing() -> None:
    assert SEAL.open(OTHER.close("lease", "game"), "game") is None


def test_it_proves_128_bits_and_shows_what_the_store_calls_it() -> None:
    id_ = SEAL.close("lease", "game")
    assert id_.startswith("lease.")
    assert len(id_) - len("lease.") == 32
    proofs = {SEAL.close(f"lease-{number}", "game")[-24:] for number in range(100)}
    assert len(proofs) == 100
    assert 24 * 6 >= 128


# ---- the key as it is kept


@given(st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES), st.text())
def test_key_is_read_as_it_was_written(key: bytes, epoch: str) -> None:
    assert unpacked(packed(key, epoch), epoch) == key
    assert unpacked(packed(key, epoch), epoch + "x") is None


@given(st.binary())
def test_what_is_no_key_is_none(value: bytes) -> None:
    assert unpacked(value, "epoch") is None


# ---- who keeps it


class Running(Core):
    """The core over an embedded store, told of what happens there by the feed."""

    def __init__(self) -> None:
        super().__init__()
        self.made = 0
        self.keeper = self.another(self.registrar)
        self.feed.tell_too(self.keeper)

    def another(self, writer: Registrar) -> Keeper:
        def new_key(size: int) -> bytes:
            self.made += 1
            return bytes([self.made]) * size

        return Keeper(writer, self.catalog, new_key)

    @property
    def written(self) -> bytes:
        record = self.catalog.settings.get(KEY)
        return record.value if record is not None else b""

    async def write(self, value: bytes | None) -> None:
        record = self.catalog.settings.get(KEY)
        revision = record.revision if record is not None else 0
        commit = Commit((Put(KEY, value, "", revision),)) if value else Commit(deletes=(Delete(KEY, revision),))
        await self.store.commit(commit)


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[Running]:
    core = Running()
    tasks = [asyncio.create_task(it) for it in (core.feed.run(), core.keeper.run())]
    try:
        await core.keeper.ready()
        yield core
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_the_first_server_makes_a_key_and_the_next_one_finds_it() -> None:
    async with running() as core:
        id_ = core.keeper.seal().close("lease", "")
        second = core.another(core.registrar)
        second.refresh_all()
        assert second.seal().open(id_, "") is not None
        assert core.made == 1


async def test_of_two_that_start_together_one_makes_it() -> None:
    """What the other one made is used by nobody."""
    async with running() as core:
        await core.write(None)
        taken = core.written
        with pytest.raises(Contended):
            await core.registrar.set_if(KEY, b"mine", 1)
        await eventually_async(lambda: core.written != b"", what="the key is back")
        assert core.written != b"mine" != taken


@pytest.mark.parametrize("value", [None, b"", b"junk", packed(b"c" * KEY_BYTES, "another epoch")])
async def test_a_key_that_somebody_laid_hands_on_is_put_back(value: bytes | None) -> None:
    async with running() as core:
        before, seal = core.written, core.keeper.seal()
        await core.write(value or None)
        await eventually_async(lambda: core.written == before, what="the key is back")
        assert core.keeper.seal() is seal


async def test_another_key_of_the_same_order_is_taken_up() -> None:
    async with running() as core:
        await core.write(packed(b"c" * KEY_BYTES, core.catalog.epoch))
        assert core.keeper.seal().close("lease", "") == Seal(b"c" * KEY_BYTES).close("lease", "")


async def test_another_order_has_another_key() -> None:
    """Also where the old one is still written there, as after a restore."""
    async with running() as core:
        seal, record = core.keeper.seal(), core.catalog.settings.get(KEY)
        assert record is not None
        id_ = seal.close("lease", "")
        core.feed.emit(Snapshot("another", record.revision, (record,)))
        with pytest.raises(Unavailable):
            core.keeper.seal()
        await core.keeper.ready()
        assert core.keeper.seal().open(id_, "") is None
        assert core.made == 2


async def test_until_there_is_a_key_nobody_is_given_a_lease() -> None:
    core = Running()
    assert isinstance(core.store, MemoryStore)
    core.feed.emit(Snapshot("e1", 1, ()))
    with pytest.raises(Unavailable, match="key of lease ids"):
        core.keeper.seal()
    await core.keeper.ready(within_s=0.01)


async def test_a_store_that_fails_at_it_again_and_again_is_told_of_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "RETRY_S", 0.0)
    tries = 0

    class Broken:
        async def set_if(self, key: Key, value: bytes, revision: int) -> int:
            nonlocal tries
            tries += 1
            raise RuntimeError("no settings here")

    core = Core()
    core.feed.emit(Snapshot("e1", 1, ()))
    broken = Keeper(Broken(), core.catalog)
    broken.refresh_all()
    task = asyncio.create_task(broken.run())
    await eventually_async(lambda: tries > 5, what="it is tried on")
    task.cancel()
    assert [it.getMessage() for it in caplog.records if it.levelname == "WARNING"] == [
        "the key of lease ids is not written, and tried on: RuntimeError('no settings here')"
    ]
