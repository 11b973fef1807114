"""The contract sees what a store does wrong, and is of use outside of this project."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from registry_server.records import Commit, Lease, Outcome, Put, Record, Renewal
from registry_server.stores.base import NoSuchLease
from registry_server.stores.memory import MemoryStore
from registry_server.testing import StoreContract, running


class Contract(StoreContract):
    short_ttl_s = 0.3


class GrantsLess(MemoryStore):
    async def grant(self, ttl_s: float) -> Lease:
        return (await super().grant(ttl_s))._replace(ttl_s=ttl_s - 1)


class EndsEarly(MemoryStore):
    async def grant(self, ttl_s: float) -> Lease:
        return (await super().grant(ttl_s / 3))._replace(ttl_s=ttl_s)


class RenewsWhatIsGone(MemoryStore):
    async def keep_alive(self, lease_ids: Sequence[str]) -> list[Renewal]:
        return [Renewal(lease_id, Outcome.RENEWED, 20.0) for lease_id in lease_ids]


class ReleasesWhatIsHeld(MemoryStore):
    async def release(self, lease_id: str) -> None:
        if lease_id in self._leases:
            self._leases.drop(lease_id)


class ChecksNothing(MemoryStore):
    def _check(self, commit: Commit) -> None:
        pass


class ForgetsWhy(MemoryStore):
    async def commit(self, commit: Commit) -> int:
        return await super().commit(Commit(commit.puts, commit.deletes))


class ForgetsSince(MemoryStore):
    def _put(self, put: Put) -> Record:
        return super()._put(put)._replace(create_revision=self._revision)


class TellsTwice(MemoryStore):
    async def commit(self, commit: Commit) -> int:
        part = super().commit
        puts = [await part(Commit((put,))) for put in commit.puts]
        return await part(Commit(deletes=commit.deletes, cause=commit.cause)) if commit.deletes else puts[-1]


class LeasesForAll(MemoryStore):
    def _check(self, commit: Commit) -> None:
        super()._check(Commit(tuple([put._replace(lease_id=put.lease_id or "none") for put in commit.puts])))


@pytest.mark.parametrize(
    ("store", "test"),
    [
        (GrantsLess, "test_grant_gives_at_least_what_was_asked"),
        (EndsEarly, "test_no_early_expiry_and_expiry_within_one_tick"),
        (RenewsWhatIsGone, "test_keep_alive_answers_in_order"),
        (ReleasesWhatIsHeld, "test_release_leaves_a_lease_that_holds_something"),
        (ChecksNothing, "test_creating_what_is_there_conflicts"),
        (ForgetsWhy, "test_cause_is_of_its_own_commit"),
        (ForgetsSince, "test_overwriting_keeps_the_create_revision"),
        (TellsTwice, "test_puts_and_deletes_of_a_commit_are_one_delta"),
        (LeasesForAll, "test_a_setting_needs_no_lease"),
    ],
)
async def test_what_a_store_does_wrong_is_seen(store: type[MemoryStore], test: str) -> None:
    async with running(MemoryStore()) as run:
        await getattr(Contract(), test)(run)
    with pytest.raises((AssertionError, pytest.fail.Exception, NoSuchLease)):
        async with running(store()) as run:
            await getattr(Contract(), test)(run)


OTHERS = """
import pytest
from registry_server.stores.memory import MemoryStore
from registry_server.testing import StoreContract

class TestMine(StoreContract):
    @pytest.fixture
    def store(self):
        return MemoryStore()

class TestBroken(TestMine):
    slack_s = 2.0

    async def test_release_ends_an_empty_lease(self, run):
        await run.store.release("nothing")
        assert run.seen.view == {"is": "shown"}
"""


def test_it_is_of_use_to_others(tmp_path: Path) -> None:
    """With pytest and pytest-asyncio as they come; what is wrong is shown as in any test."""
    (tmp_path / "test_mine.py").write_text(OTHERS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "-k", "release_ends", "."],
        cwd=tmp_path,
        env={"PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "assert {} == {'is': 'shown'}" in done.stdout
