"""What every store promises about records that are no instances: they may stand without a lease, until deleted."""

import pytest

from registry_server.records import Cause, Commit, Deleted, Delta, Key, Kind, Put, Record, Snapshot
from registry_server.stores.base import Conflict, NoSuchLease
from registry_server.testing.recording import Running


class Settings:
    """Records that are no instances."""

    async def test_a_setting_needs_no_lease(self, run: Running) -> None:
        key = run.setting()
        revision = await run.put(key, "", value=b"one")
        assert run.seen.at(revision) == Delta(revision, puts=(Record(key, b"one", "", revision, revision),))
        changed = await run.put(key, "", value=b"two")
        assert run.seen.view[key] == Record(key, b"two", "", changed, create_revision=revision)
        gone = await run.delete(key)
        assert run.seen.at(gone) == Delta(gone, deletes=(Deleted(key, Cause.DEREGISTERED),))

    async def test_an_instance_needs_one_also_beside_a_setting(self, run: Running) -> None:
        setting = Put(run.setting(), b"", "", 0)
        with pytest.raises(NoSuchLease):
            await run.store.commit(Commit(puts=(setting, Put(run.key(), b"", "", 0))))
        await run.commit(Commit(puts=(setting,)))
        assert set(run.seen.view) == {setting.key}

    async def test_a_lease_that_is_named_has_to_exist(self, run: Running) -> None:
        key = run.setting()
        with pytest.raises(NoSuchLease):
            await run.store.commit(Commit(puts=(Put(key, b"", "0123456789abcdef", 0),)))
        await run.put(key, "", expect=0)

    async def test_a_setting_is_expected_to_be_what_it_was(self, run: Running) -> None:
        key = run.setting()
        await run.put(key, "", value=b"one")
        with pytest.raises(Conflict) as refused:
            await run.put(key, "", value=b"two", expect=0)
        assert refused.value.keys == (key,)

    @pytest.mark.parametrize(
        "key",
        [
            Key("default", "", "whole-namespace", Kind.POLICY),
            Key("", "", "server-1", Kind.REPLICA),
            Key("-", "-", "-", Kind.POLICY),
            Key("%2D", "%2D", "%2D", Kind.POLICY),
            Key("a/b", "instances", "größe/✓", Kind.POLICY),
        ],
        ids=str,
    )
    async def test_names_come_back_as_they_were(self, run: Running, key: Key) -> None:
        revision = await run.put(key, "")
        assert [record.key for record in run.seen.at(revision).puts] == [key]
        await run.delete(key)
        assert run.seen.view == {}

    async def test_names_that_look_alike_are_different(self, run: Running) -> None:
        lease = (await run.store.grant(60)).id
        keys = [
            Key("n", "s", "one"),
            Key("n", "s", "one", Kind.POLICY),
            Key("n", "s", "one", Kind.REPLICA),
            Key("n", "", "one", Kind.POLICY),
            Key("n", "-", "one", Kind.POLICY),
            Key("", "n", "one", Kind.POLICY),
            Key("", "", "one", Kind.POLICY),
        ]
        await run.commit(Commit(puts=tuple(Put(key, repr(key).encode(), lease, 0) for key in keys)))
        assert {key: record.value for key, record in run.seen.view.items()} == {key: repr(key).encode() for key in keys}

    async def test_a_lease_is_taken_and_left(self, run: Running) -> None:
        """What a lease no more holds stays when it ends; what it holds keeps it from being released."""
        lease, key, other = (await run.store.grant(60)).id, run.setting(), run.setting()
        await run.put(key, "")
        await run.put(key, lease)
        await run.put(other, lease)
        await run.store.release(lease)
        await run.put(key, "")
        assert {run.seen.view[key].lease_id, run.seen.view[other].lease_id} == {"", lease}
        await run.delete(other)
        await run.store.release(lease)
        with pytest.raises(NoSuchLease):
            await run.put(other, lease)
        assert set(run.seen.view) == {key}

    async def test_settings_are_in_the_full_set(self, run: Running) -> None:
        lease = (await run.store.grant(60)).id
        await run.put(run.key(), lease)
        await run.put(run.setting(), "")
        await run.put(run.setting(service=""), lease)
        view = dict(run.seen.view)
        await run.stop()
        await run.start()
        first = run.seen.events[0]
        assert isinstance(first, Snapshot)
        assert {record.key: record for record in first.records} == view
