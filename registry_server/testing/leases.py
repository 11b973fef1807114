"""What every store promises about leases: NoEarlyExpiry, ExpiryWithinOneTick, and what expiry takes with it."""

import asyncio
import time

from registry_server.records import Cause, Commit, Deleted, Delta, Lease, Outcome, Put, Renewal
from registry_server.testing.recording import Running


class Leases:
    """Granting, renewing and releasing leases, and their ends."""

    short_ttl_s: float
    slack_s: float

    # ---- granting and renewing

    async def test_grant_gives_at_least_what_was_asked(self, run: Running) -> None:
        leases = [await run.store.grant(ttl_s) for ttl_s in (2, 2.5, 15, 3600)]
        for asked, lease in zip((2, 2.5, 15, 3600), leases, strict=True):
            assert asked <= lease.ttl_s < asked + 1
        assert len({lease.id for lease in leases}) == len(leases)

    async def test_keep_alive_answers_in_order(self, run: Running) -> None:
        one, two = await run.store.grant(20), await run.store.grant(30)
        unknown = ["no lease", "0123456789abcdef", "", one.id.upper() + "-"]
        asked = [two.id, unknown[0], one.id, unknown[1], unknown[2], unknown[3]]
        assert await run.store.keep_alive(asked) == [
            Renewal(two.id, Outcome.RENEWED, 30.0),
            Renewal(unknown[0], Outcome.UNKNOWN, None),
            Renewal(one.id, Outcome.RENEWED, 20.0),
            *(Renewal(name, Outcome.UNKNOWN, None) for name in unknown[1:]),
        ]

    async def test_keep_alive_of_nothing_and_of_one_twice(self, run: Running) -> None:
        lease = await run.store.grant(20)
        assert await run.store.keep_alive([]) == []
        assert await renewed(run, lease.id, lease.id) == [Outcome.RENEWED] * 2

    async def test_many_leases_at_once(self, run: Running) -> None:
        leases = await asyncio.gather(*(run.store.grant(60) for _ in range(1000)))
        assert len({lease.id for lease in leases}) == 1000
        asked = [lease.id for lease in leases]
        renewals = await run.store.keep_alive(asked)
        assert [renewal.lease_id for renewal in renewals] == asked
        assert {renewal.outcome for renewal in renewals} == {Outcome.RENEWED}

    async def test_many_callers_renew_at_once(self, run: Running) -> None:
        leases = [(await run.store.grant(60)).id for _ in range(20)]
        answers = await asyncio.gather(*(renewed(run, *leases) for _ in range(20)))
        assert answers == [[Outcome.RENEWED] * 20] * 20

    # ---- releasing

    async def test_release_ends_an_empty_lease(self, run: Running) -> None:
        lease = await run.store.grant(60)
        await run.store.release(lease.id)
        assert await renewed(run, lease.id) == [Outcome.UNKNOWN]

    async def test_release_leaves_a_lease_that_holds_something(self, run: Running) -> None:
        lease, key = await run.store.grant(60), run.key()
        await run.put(key, lease.id)
        await run.store.release(lease.id)
        assert await renewed(run, lease.id) == [Outcome.RENEWED]
        assert key in run.seen.view
        await run.delete(key)
        await run.store.release(lease.id)
        assert await renewed(run, lease.id) == [Outcome.UNKNOWN]

    async def test_release_of_what_is_no_lease_does_nothing(self, run: Running) -> None:
        for name in ("0123456789abcdef", "no lease", ""):
            await run.store.release(name)
        lease = await run.store.grant(60)
        for _ in range(2):
            await run.store.release(lease.id)

    async def test_a_renewal_beside_a_release_keeps_nothing(self, run: Running) -> None:
        for _ in range(5):
            lease = await run.store.grant(60)
            await asyncio.gather(renewed(run, lease.id), run.store.release(lease.id), renewed(run, lease.id))
            assert await renewed(run, lease.id) == [Outcome.UNKNOWN]

    async def test_release_after_the_last_record_was_taken_over(self, run: Running) -> None:
        old, new, key = await run.store.grant(60), await run.store.grant(60), run.key()
        await run.put(key, old.id)
        await run.put(key, new.id)
        await run.store.release(old.id)
        assert await renewed(run, old.id, new.id) == [Outcome.UNKNOWN, Outcome.RENEWED]
        assert run.seen.view[key].lease_id == new.id

    # ---- expiry

    async def test_expiry_takes_all_its_records_in_one_delta(self, run: Running) -> None:
        lasting = await run.store.grant(60)
        lease = await run.store.grant(self.short_ttl_s)
        keys = [*(run.key() for _ in range(5)), run.setting()]
        kept, bare = run.key(), run.setting()
        puts = [*(Put(key, b"", lease.id, 0) for key in keys), Put(kept, b"", lasting.id, 0), Put(bare, b"", "", 0)]
        await run.commit(Commit(puts=tuple(puts)))
        delta = await told_gone(run, lease, self.slack_s)
        assert set(delta.deletes) == {Deleted(key, Cause.EXPIRED) for key in keys}
        assert delta.puts == ()
        assert set(run.seen.view) == {kept, bare}
        assert await renewed(run, lease.id, lasting.id) == [Outcome.UNKNOWN, Outcome.RENEWED]

    async def test_no_early_expiry_and_expiry_within_one_tick(self, run: Running) -> None:
        before = time.monotonic()
        lease = await run.store.grant(self.short_ttl_s)
        after = time.monotonic()
        await run.put(run.key(), lease.id)
        gone = run.seen.time_of(await told_gone(run, lease, self.slack_s))
        assert gone - before >= lease.ttl_s, "NoEarlyExpiry"
        assert gone - after <= lease.ttl_s + self.slack_s, "ExpiryWithinOneTick"

    async def test_renewed_lease_lives_from_the_renewal_on(self, run: Running) -> None:
        lease = await run.store.grant(self.short_ttl_s)
        await run.put(run.key(), lease.id)
        started = time.monotonic()
        while time.monotonic() - started < 2.5 * lease.ttl_s:
            before = time.monotonic()
            assert await renewed(run, lease.id) == [Outcome.RENEWED]
            after = time.monotonic()
            await run.seen.stays(lambda: not run.deleted, lease.ttl_s / 4)
        gone = run.seen.time_of(await told_gone(run, lease, self.slack_s))
        assert gone - before >= lease.ttl_s, "NoEarlyExpiry"
        assert gone - after <= lease.ttl_s + self.slack_s, "ExpiryWithinOneTick"

    async def test_reading_and_committing_renews_nothing(self, run: Running) -> None:
        before = time.monotonic()
        lease, key = await run.store.grant(self.short_ttl_s), run.key()
        after = time.monotonic()
        for _ in range(3):
            await run.put(key, lease.id)
        seen = run.seen.time_of(await told_gone(run, lease, self.slack_s))
        assert lease.ttl_s <= seen - before
        assert seen - after <= lease.ttl_s + self.slack_s

    async def test_expiry_spares_what_was_taken_over_or_deleted(self, run: Running) -> None:
        lasting, lease = await run.store.grant(60), await run.store.grant(self.short_ttl_s + 0.6)
        moved, deleted, left = (run.key() for _ in range(3))
        await run.commit(Commit(puts=tuple(Put(key, b"", lease.id, 0) for key in (moved, deleted, left))))
        await run.put(moved, lasting.id)
        await run.delete(deleted)
        delta = await told_gone(run, lease, self.slack_s)
        assert delta.deletes == (Deleted(left, Cause.EXPIRED),)
        assert set(run.seen.view) == {moved}

    async def test_empty_lease_ends_in_silence(self, run: Running) -> None:
        empty, lease = await run.store.grant(self.short_ttl_s), await run.store.grant(self.short_ttl_s)
        key = run.key()
        await run.put(key, lease.id)
        deltas = len(run.seen.of(Delta))
        delta = await told_gone(run, lease, self.slack_s)
        assert delta.deletes == (Deleted(key, Cause.EXPIRED),)
        assert len(run.seen.of(Delta)) == deltas + 1
        assert await renewed(run, empty.id) == [Outcome.UNKNOWN]

    async def test_each_lease_has_its_own_end(self, run: Running) -> None:
        first, second = await run.store.grant(self.short_ttl_s), await run.store.grant(self.short_ttl_s + 1)
        keys = {lease.id: run.key() for lease in (second, first)}
        for lease_id, key in keys.items():
            await run.put(key, lease_id)
        one, two = await told_gone(run, first, self.slack_s), await told_gone(run, second, self.slack_s)
        assert one.revision < two.revision
        assert [delta.deletes for delta in (one, two)] == [
            (Deleted(keys[lease.id], Cause.EXPIRED),) for lease in (first, second)
        ]


async def renewed(run: Running, *lease_ids: str) -> list[Outcome]:
    return [renewal.outcome for renewal in await run.store.keep_alive(lease_ids)]


async def told_gone(run: Running, lease: Lease, slack_s: float) -> Delta:
    """The Delta that ends what `lease` holds."""
    keys = {key for key, record in run.seen.view.items() if record.lease_id == lease.id}

    def gone() -> bool:
        return any({left.key for left in delta.deletes} & keys for delta in run.seen.of(Delta))

    await run.seen.wait(gone, f"lease {lease.id} ends", lease.ttl_s + slack_s + 5)
    return next(delta for delta in run.seen.of(Delta) if {left.key for left in delta.deletes} & keys)
