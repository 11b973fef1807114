"""CORE: what must hold of a recorded history, whatever was harmed. Each check returns what it found wrong, in words."""

from collections import defaultdict
from collections.abc import Callable, Iterator

from tests.faults.history import End, Fault, History, Left, Registered, Renewed, Seen, Stall, Step, Tried, Written

# Who is told RENEWED lives for a whole ttl from then on; who is told HELD has at least this part of it to ask others.
HELD_PART = 1 / 3

Check = Callable[[History], Iterator[str]]


def ordered(history: History) -> Iterator[str]:
    """Within one stream and one epoch, revisions never go back."""
    last: dict[tuple[str, int], Step] = {}
    for step in history.of(Step):
        before = last.get((step.watcher, step.stream))
        if before is not None and before.epoch == step.epoch and step.revision < before.revision:
            yield f"{step.watcher} at {step.replica}: revision {step.revision} after {before.revision}"
        last[step.watcher, step.stream] = step


def sound(history: History) -> Iterator[str]:
    """Every step leads to the set that its checksum names."""
    for step in history.of(Step):
        if not step.is_sound:
            yield f"{step.watcher} at {step.replica}: the checksum of revision {step.revision} does not match"


def counters_grow(history: History) -> Iterator[str]:
    """No stream shows an older acknowledged value of an instance after a newer one."""
    newest: dict[tuple[str, int, str], int] = {}
    acknowledged = {(written.id, written.counter) for written in history.of(Written)}
    for step in history.of(Step):
        for id_, counter in step.upserts.items():
            place = step.watcher, step.stream, id_
            if counter < newest.get(place, -1) and (id_, counter) in acknowledged:
                yield f"{step.watcher} at {step.replica}: {id_} went from {newest[place]} back to {counter}"
            newest[place] = counter


def no_write_lost(history: History) -> Iterator[str]:
    """At the end every counter is the last acknowledged one, or one that was sent and never answered: such a write may
    take place late."""
    acknowledged: dict[str, Written] = {}
    unanswered = {(tried.id, tried.counter) for tried in history.of(Tried)}
    for written in history.of(Written):
        unanswered.discard((written.id, written.counter))
        acknowledged[written.id] = written
    for end in history.of(End):
        for id_, last in acknowledged.items():
            found = end.instances.get(id_)
            if found is None:
                yield f"{end.replica} lost {id_} with the acknowledged write {last.counter}"
            elif found[2] != last.counter and (id_, found[2]) not in unanswered:
                yield f"{end.replica} shows {found[2]} for {id_}, but {last.counter} was acknowledged last"


def no_promise_broken(history: History) -> Iterator[str]:
    """Nobody whom any replica told RENEWED or HELD is removed before the time that this promised is over."""
    promised: dict[str, list[Renewed]] = defaultdict(list)
    for renewal in history.of(Renewed):
        if renewal.state in ("RENEWED", "HELD"):
            promised[renewal.id].append(renewal)
    left = {leaving.id: leaving.at for leaving in reversed(list(history.of(Left)))}
    for step in history.of(Step):
        for id_ in step.removed:
            if step.at >= left.get(id_, float("inf")):
                continue
            for renewal in promised[id_]:
                part = 1.0 if renewal.state == "RENEWED" else HELD_PART
                if renewal.at <= step.at < renewal.sent + part * renewal.ttl_s:
                    yield (
                        f"{step.watcher} at {step.replica}: {id_} was removed {step.at - renewal.sent:.2f} s after "
                        f"{renewal.replica} said {renewal.state} for {renewal.ttl_s:g} s"
                    )
                    break


def no_living_removed(history: History) -> Iterator[str]:
    """An owner that is alive and asks is never removed: not from a stream, not from a view of the library."""
    for step in history.of(Step):
        if gone := step.removed & history.living:
            yield f"{step.watcher} at {step.replica}, {step.at:.2f}: living owners removed: {sorted(gone)}"
    for seen in history.of(Seen):
        if gone := seen.removed & history.living:
            yield f"{seen.client}, {seen.at:.2f}: living owners removed: {sorted(gone)}"


def tokens_grow(history: History) -> Iterator[str]:
    """An owner that registered after another was answered has a greater token; no two owners have the same one."""
    by_id: dict[str, list[Registered]] = defaultdict(list)
    for registered in history.of(Registered):
        by_id[registered.id].append(registered)
    for id_, registrations in by_id.items():
        owners: dict[int, str] = {}
        for one in registrations:
            if owners.setdefault(one.generation, one.owner) != one.owner:
                yield f"{id_}: {owners[one.generation]} and {one.owner} both got the token {one.generation}"
            for other in registrations:
                follows = one.at < other.sent and one.owner != other.owner
                if follows and other.generation <= one.generation:
                    yield f"{id_}: {other.owner} got {other.generation} after {one.owner} had got {one.generation}"


def same_at_the_end(history: History) -> Iterator[str]:
    """When all is whole again, every replica shows the same, and every living owner is in it."""
    ends = list(history.of(End))
    if not ends:
        yield "nobody looked at the end"
        return
    for end in ends[1:]:
        if (end.epoch, end.checksum, end.instances) != (ends[0].epoch, ends[0].checksum, ends[0].instances):
            yield f"{end.replica} and {ends[0].replica} differ: {end.instances} and {ends[0].instances}"
    for end in ends:
        if missing := history.living - end.instances.keys():
            yield f"{end.replica} does not show the living {sorted(missing)}"


CHECKS: tuple[Check, ...] = (
    ordered,
    sound,
    counters_grow,
    no_write_lost,
    no_promise_broken,
    no_living_removed,
    tokens_grow,
    same_at_the_end,
)


def mistakes(history: History) -> list[str]:
    """All that is wrong with a history, each with the check that found it."""
    return [f"{check.__name__}: {text}" for check in CHECKS for text in check(history)]


def story(history: History) -> str:
    """The faults, and the standstills of the recording process, for people to read."""
    lines = [f"{fault.at:8.2f}  {fault.what}" for fault in history.of(Fault)]
    lines += [
        f"{stall.at:8.2f}  (the recorder itself stood still for {stall.for_s:.2f} s)" for stall in history.of(Stall)
    ]
    return "\n".join(sorted(lines, key=lambda line: float(line.split()[0])))
