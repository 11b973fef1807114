"""CORE: the rules of the registry: what a write changes, given what is there.

Each function looks at the catalog and returns what the store is to do, all or nothing. If the store has moved on
meanwhile, the commit conflicts and the function is asked again (registrar.py).
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import lru_cache
from sys import intern
from typing import NamedTuple

from google.protobuf.duration_pb2 import Duration

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server import fields
from registry_server.catalog import Catalog
from registry_server.drafts import Draft
from registry_server.errors import Contended, InvalidField, NotFound, OwnershipLost, PermissionDenied
from registry_server.health import findings
from registry_server.model import Address, Entry, Owner, nanoseconds, new_generation
from registry_server.records import UNSAID, Author, Cause, Commit, Delete, Key, Lease, Put
from registry_server.writer import NOBODY, Claimant

UPDATABLE = ("status", "weight", "metadata", "tags", "version", "health")


class Plan(NamedTuple):
    """What the store is to do, the leases that may hold nothing afterwards, the instances that leave by it, those that
    are put, and those whose owners lose an id or an address by it."""

    commit: Commit
    bereft: frozenset[str] = frozenset()
    leaving: tuple[Key, ...] = ()
    drafts: tuple[Draft, ...] = ()
    losers: tuple[Entry, ...] = ()


class Leaving(NamedTuple):
    """Who is to leave: of these names, those that the lease holds when it is done, if it is given; and only with this
    generation, unless it is 0. `by` is who may or may not say so, `author` who says it."""

    keys: Sequence[Key]
    lease_id: str = ""
    generation: int = 0
    by: Claimant = NOBODY
    author: Author = UNSAID


class Rival(NamedTuple):
    """Who has what a former owner wants back: an id, or an address (then `may_stay` is False).

    Who has an id may stay if its address answers, as whoever came last is the owner. Not if that address is none of its
    own, since it took it from somebody else, or if it is gone by now.
    """

    key: Key
    generation: int
    address: Address
    may_stay: bool

    def is_(self, key: Key, owner: Owner) -> bool:
        """Whether it is that owner of that id."""
        return (self.key, self.generation) == (key, owner.generation)


class Rules:
    """`lingering` are the instances that the view still shows though the store has let go of them (guard.py)."""

    def __init__(self, catalog: Catalog, lingering: Container[Key], now: Callable[[], float]) -> None:
        self._catalog = catalog
        self._lingering = lingering
        self._now = now

    def register(self, wanted: pb.Instance, lease: Lease, by: Claimant = NOBODY, over: Sequence[Rival] = ()) -> Plan:
        """Make the instance known under the lease. Its own id and its address are taken over from whoever has them.

        Who gives the lease that holds the instance is its owner. Anybody else is a new owner, also who claims by
        `wanted.generation` to have had the id before. Raises OwnershipLost if somebody else has had it since, or has
        the address by now, unless that is one of `over`; Contended for an address that somebody had before;
        PermissionDenied if what is there belongs to another identity.
        """
        key = _key_of(wanted)
        current, ghost = self._catalog.get(key), self._ghost(key, wanted)
        stamped = self._stamped(key, wanted, lease, current, over)
        stamped.registered_by = by.identity
        plan = self._plan(key, stamped, lease.id, by.author)
        if current is None and ghost is None:
            return plan
        losers = tuple([it for it in (current, ghost) if it is not None and it.lease_id != lease.id])
        for loser in losers:
            if by.if_absent and not _was_its_own(loser, key, wanted):
                raise OwnershipLost(str(key), f"{loser.key} is {shown(loser.owner)}, and nothing was to be taken over")
            _check_right(loser, wanted, by)
            if wanted.generation and loser is ghost and not any(it.is_(loser.key, loser.owner) for it in over):
                raise _outdone(key, wanted, loser)
        deletes = self._deletes([ghost] if ghost else [])
        author = by.author._replace(detail=key.id)
        commit = plan.commit._replace(deletes=deletes, cause=Cause.REPLACED, author=author)
        return plan._replace(commit=commit, bereft=frozenset(it.lease_id for it in losers), losers=losers)

    def rivals(self, wanted: pb.Instance) -> Sequence[Rival]:
        """Who has by now what somebody claims to have had before them: that may be given back (registrar.py)."""
        key = _key_of(wanted)
        latest, ghost, found = self._catalog.last_owner(key), self._ghost(key, wanted), list[Rival]()
        if latest is not None and wanted.generation < latest.generation:
            if latest.is_leaving or not _is_older(wanted, latest):
                return ()
            is_there = self._catalog.get(key) is not None
            may_stay = is_there and not self._catalog.took_its_address(key, latest.generation)
            found.append(Rival(key, latest.generation, latest.address, may_stay))
        if ghost is not None:
            if not _is_older(wanted, ghost.owner):
                return ()
            found.append(Rival(ghost.key, ghost.owner.generation, ghost.address, may_stay=False))
        return found

    def deregister(self, who: Leaving) -> Plan:
        """Remove the instances. Raises OwnershipLost if one has another generation than it should, PermissionDenied if
        one is another identity's."""
        entries = self._leaving(who)
        return _plan_of(entries, Commit((), self._deletes(entries), Cause.DEREGISTERED, who.author))

    def drain(self, who: Leaving, lease: Lease, until: float) -> Plan:
        """Let the instances stay, DRAINING, as long as the lease lives, which nobody renews.

        That is until `until` of the wall clock, in seconds. Raises as `deregister`.
        """
        entries = self._leaving(who)
        joined = _joined([self._plan_draining(entry, lease, until, who.author) for entry in entries])
        return _plan_of(entries, joined.commit)._replace(drafts=joined.drafts)

    def update(self, wanted: pb.Instance, paths: Iterable[str], by: Claimant = NOBODY) -> Plan:
        """Change the named fields. Raises NotFound, PermissionDenied if it is another identity's, and InvalidField if
        tags and metadata become too large together, or for a health that its checks find and nobody says."""
        key = Key(wanted.namespace, wanted.service, wanted.id)
        current = self._catalog.get(key)
        if current is None or key in self._lingering:
            raise NotFound("instance", str(key))
        _check_owner(current, by)
        changed = storable(current)
        for path in paths:
            if path == "health" and changed.checks:
                self._report(changed, wanted.health)
            else:
                _copy_field(wanted, changed, path)
        fields.size(changed)
        return self._plan(key, changed, current.lease_id, by.author)

    def found(self, key: Key, generation: int, results: Iterable[pb.CheckResult]) -> Plan:
        """Write what checks found of an instance, if that is still the one that they looked at."""
        current = self._examined(key, generation)
        if current is None:
            return Plan(Commit())
        changed = storable(current)
        if not findings.take_in(changed, results):
            return Plan(Commit())
        return self._plan(key, changed, current.lease_id)

    def ruled(self, wanted: Mapping[Key, Sequence[pb.HealthCheck]]) -> Plan:
        """Give instances the checks of their rules, but for those that have their own."""
        return _joined([plan for key, checks in wanted.items() if (plan := self._plan_ruled(key, checks)) is not None])

    def _plan_ruled(self, key: Key, checks: Sequence[pb.HealthCheck]) -> Plan | None:
        current = self._catalog.get(key)
        if current is None or key in self._lingering:
            return None
        changed = storable(current)
        return self._plan(key, changed, current.lease_id) if findings.give_checks(changed, checks) else None

    def remove_sick(self, key: Key, generation: int) -> Plan:
        """Remove an instance whose checks failed for too long, if it is still the one that they looked at."""
        current = self._examined(key, generation)
        if current is None:
            return Plan(Commit())
        return _plan_of([current], Commit(deletes=self._deletes([current]), cause=Cause.UNHEALTHY))

    # ---- within

    def _ghost(self, key: Key, wanted: pb.Instance) -> Entry | None:
        """Another instance that has the address."""
        holder = self._catalog.at_address(key.namespace, key.service, (wanted.host, wanted.port))
        return holder if holder is not None and holder.key != key else None

    def _examined(self, key: Key, generation: int) -> Entry | None:
        current = self._catalog.get(key)
        is_there = current is not None and key not in self._lingering and current.owner.generation == generation
        return current if is_there else None

    def _report(self, changed: pb.Instance, health: pb.Health.ValueType) -> None:
        if not findings.report(changed, health, self._now()):
            raise InvalidField("instance.health", "is what the checks of the instance find; only a ttl check is told")

    def _plan(self, key: Key, instance: pb.Instance, lease_id: str, author: Author = UNSAID) -> Plan:
        """Write the instance, whole as it is but for who did that, under a lease."""
        instance.changed_by, instance.changed_from = author.identity, author.peer
        value = instance.SerializeToString()
        put = Put(key, value, lease_id, self._expect(key))
        return Plan(Commit((put,)), drafts=(Draft(key, value, instance),))

    def _stamped(
        self, key: Key, wanted: pb.Instance, lease: Lease, current: Entry | None, over: Sequence[Rival]
    ) -> pb.Instance:
        """What is to be stored: the instance as wanted, with what is the server's to say."""
        stamped = pb.Instance()
        stamped.CopyFrom(wanted)
        stamped.ttl.CopyFrom(seconds(lease.ttl_s))
        if current is not None and current.lease_id == lease.id and key not in self._lingering:
            stamped.generation = current.owner.generation
            stamped.registered_at.FromNanoseconds(current.owner.registered_ns)
            if wanted.checks:
                _keep_found(current.parse(), stamped)
            return stamped
        if wanted.generation:
            latest = self._catalog.last_owner(key)
            if latest is not None and not any(it.is_(key, latest) for it in over):
                _check_claim(key, wanted, latest)
            if wanted.checks and latest is not None and latest.address == (wanted.host, wanted.port):
                stamped.health = pb.Health.ValueType(latest.health)  # it goes on where it was when it left
        if not _keeps_time(wanted, current, over):
            whole_s, micros = divmod(round(self._now() * 1e6), 10**6)
            stamped.registered_at.seconds, stamped.registered_at.nanos = whole_s, 1_000 * micros
        stamped.generation = new_generation(self._catalog.fence)
        return stamped

    def _plan_draining(self, entry: Entry, lease: Lease, until: float, author: Author) -> Plan:
        draining = storable(entry)
        draining.status = pb.DRAINING
        draining.ttl.CopyFrom(seconds(lease.ttl_s))
        draining.leaves_at.FromMicroseconds(round(until * 1e6))
        return self._plan(entry.key, draining, lease.id, author)

    def _leaving(self, who: Leaving) -> list[Entry]:
        entries = [entry for key in who.keys if (entry := self._catalog.get(key)) is not None]
        for entry in entries:
            current = entry.owner.generation
            if who.generation not in (0, current):
                raise OwnershipLost(str(entry.key), f"it has generation {current}, not {who.generation}")
            _check_owner(entry, who.by)
        return [entry for entry in entries if who.lease_id in ("", entry.lease_id)]

    def _deletes(self, entries: Iterable[Entry]) -> tuple[Delete, ...]:
        return tuple(
            Delete(entry.key, self._expect(entry.key)) for entry in entries if entry.key not in self._lingering
        )

    def _expect(self, key: Key) -> int:
        return 0 if key in self._lingering else self._catalog.revision_of(key)


def shown(owner: Owner) -> str:
    """Who somebody is, for whoever it threw out."""
    host, port = owner.address
    return f"at {host}:{port}" + (f", registered by {owner.by!a:.100}" if owner.by else "")


def _check_owner(entry: Entry, by: Claimant) -> None:
    """Whether somebody may change what is there. Raises PermissionDenied."""
    if not by.may_have(entry):
        what = f"it is {shown(entry.owner)}, and changing it needs that identity, or `operate`"
        raise PermissionDenied(by.identity, "operate", "/".join(entry.key[:2]), f"{entry.key}: {what}")


def _check_right(loser: Entry, wanted: pb.Instance, by: Claimant) -> None:
    """Whether an id or an address may be taken from its owner. Raises OwnershipLost for who claims to have had the id
    before, and PermissionDenied for everybody else."""
    if by.may_have(loser):
        return
    what = f"it is {shown(loser.owner)}, and taking it over needs that identity, its lease, or `operate`"
    if wanted.generation:
        raise OwnershipLost(str(loser.key), what)
    raise PermissionDenied(by.identity, "operate", "/".join(loser.key[:2]), f"{loser.key}: {what}")


def _joined(plans: Iterable[Plan]) -> Plan:
    """Puts of several instances as one."""
    found = list(plans)
    puts = [put for plan in found for put in plan.commit.puts]
    return Plan(Commit(tuple(puts)), drafts=tuple([draft for plan in found for draft in plan.drafts]))


def _plan_of(entries: Sequence[Entry], commit: Commit) -> Plan:
    return Plan(commit, frozenset(entry.lease_id for entry in entries), tuple(entry.key for entry in entries))


def _check_claim(key: Key, wanted: pb.Instance, latest: Owner) -> None:
    """Whether who says to have had the id up to now may have it back."""
    if latest.is_leaving and wanted.generation <= latest.generation:
        raise OwnershipLost(str(key), "it was deregistered; register without a generation to bring it back")
    if wanted.generation < latest.generation and not _is_same_process(wanted, latest):
        reason = f"generation {wanted.generation} was taken over by generation {latest.generation}"
        raise OwnershipLost(str(key), f"{reason} {shown(latest)}")


def _outdone(key: Key, wanted: pb.Instance, ghost: Entry) -> OwnershipLost | Contended:
    """What is told to who claims to have had an id whose address somebody else has."""
    by = f" by {ghost.owner.by!a:.100}" if ghost.owner.by else ""
    taken = f"its address {wanted.host}:{wanted.port} was registered as {ghost.key}{by}"
    if _is_older(wanted, ghost.owner):
        return OwnershipLost(str(key), f"{taken} since")
    return Contended(str(key), f"{taken} before; try again when that has left")


def _is_older(wanted: pb.Instance, owner: Owner) -> bool:
    """Whether who claims to have had an id was registered before another one."""
    return wanted.HasField("registered_at") and nanoseconds(wanted.registered_at) <= owner.registered_ns


def _keeps_time(wanted: pb.Instance, current: Entry | None, over: Sequence[Rival]) -> bool:
    """Whether a new owner was registered when it says: not if it takes the id from somebody who lives and was not."""
    if not (wanted.generation and wanted.HasField("registered_at")):
        return False
    return current is None or bool(over) or current.owner.registered_ns in (0, nanoseconds(wanted.registered_at))


def _key_of(wanted: pb.Instance) -> Key:
    return Key(intern(wanted.namespace), intern(wanted.service), wanted.id)


def _was_its_own(loser: Entry, key: Key, wanted: pb.Instance) -> bool:
    """Whether what is there is what the caller itself had registered before, under a lease that is gone."""
    if loser.key != key or not wanted.generation:
        return False
    return loser.owner.generation == wanted.generation or _is_same_process(wanted, loser.owner)


def _is_same_process(wanted: pb.Instance, latest: Owner) -> bool:
    """Whether the latest owner is the very process that asks: its registration took place and the answer was lost."""
    address = (wanted.host, wanted.port)
    return latest.address == address and latest.registered_ns == nanoseconds(wanted.registered_at)


@lru_cache(maxsize=256)
def seconds(value: float) -> Duration:
    """A number of seconds as a Duration, which nobody changes: the same few are asked for again and again."""
    whole, nanos = divmod(round(value * 1e9), 10**9)
    return Duration(seconds=whole, nanos=nanos)


def storable(entry: Entry) -> pb.Instance:
    """The instance as it is written again: without its revisions, which are the store's to say."""
    instance = entry.parse()
    instance.ClearField("revision")
    instance.ClearField("create_revision")
    return instance


def _keep_found(current: pb.Instance, stamped: pb.Instance) -> None:
    """What the checks of an instance found is not its owner's to overwrite; what the owner checks no more is gone."""
    if current.checks:
        stamped.health = current.health
        names = {check.name for check in stamped.checks}
        stamped.check_results.extend(it for it in current.check_results if it.name in names)


def _copy_field(source: pb.Instance, target: pb.Instance, path: str) -> None:
    match path:
        case "status":
            target.status = source.status
        case "health":
            target.health = source.health
        case "version":
            target.version = source.version
        case "weight":
            target.weight = source.weight
        case "tags":
            target.tags[:] = source.tags
        case "metadata":
            target.metadata.clear()
            target.metadata.update(source.metadata)
