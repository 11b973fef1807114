"""What a Watch stream is told: differences, filters, resume tokens, chunks, and the checksum of registry.proto."""

import hashlib
from collections.abc import Sequence
from typing import Any

import pytest

from registry_api.registry.v1 import registry_pb2 as pb
from registry_server import model
from registry_server.catalog import Catalog
from registry_server.errors import InvalidField
from registry_server.hub import Step
from registry_server.model import Query
from registry_server.records import Cause, Snapshot
from registry_server.rows import MAX_BYTES, Block
from registry_server.rpc import answers, watch
from registry_server.rpc.steps import AT_ONCE, FullSet, Pieces
from registry_server.rpc.watch import Sums, WatchTopic, claim_of
from tests.support.core import Core, Fold, Sink, Watcher, counted, gone, key, loaded, put, record, settle, sum_of

ONE, TWO, THREE = key("one"), key("two"), key("three")
PLAYER = Query("default", frozenset({"player"}))


class Topic(WatchTopic):
    """A topic as the hub sees it, in few words: what it takes in in slices is taken in whole."""

    def __init__(self, catalog: Catalog, query: Query = PLAYER) -> None:
        super().__init__(catalog, query, lambda: None)

    def refresh(self) -> int:
        for _ in range(10_000):
            if self.advance():
                return self.version
        raise AssertionError("it never has taken everything in")

    def render(self, since: int | None) -> list[bytes]:
        self.refresh()
        step = self.step(since)
        return [] if step is None else messages(step)

    def mark(self) -> list[bytes]:
        self.refresh()
        return [self.bookmark()]

    def resume(self, token: str) -> int | None:
        claim = claim_of(token, self.query)
        assert claim is not None
        self.expect(claim)
        self.refresh()
        return self.known(claim)


def messages(step: Step) -> list[bytes]:
    """All of a step, as one reader gets it."""
    found: list[bytes] = []
    place: int | None = 0
    while place is not None:
        chunks, place = step.part(place)
        found += [b"".join(chunks)] if chunks is not None else []
    return found


def topic_of(catalog: Catalog, query: Query = PLAYER) -> Topic:
    return Topic(catalog, query)


def parsed(parts: Sequence[bytes]) -> list[pb.WatchResponse]:
    return [pb.WatchResponse.FromString(part) for part in parts]


def only(parts: Sequence[bytes]) -> pb.WatchResponse:
    (response,) = parsed(parts)
    return response


def ids(response: pb.WatchResponse) -> tuple[list[str], list[str]]:
    return [it.id for it in response.upserts], [it.id for it in response.removed]


def core_of(*deltas: object) -> Core:
    core = Core()
    core.feed.emit(Snapshot("e1", 10, ()))
    for delta in deltas:
        core.feed.emit(delta)  # type: ignore[arg-type]
    return core


# ---- differences


def test_first_is_the_full_set() -> None:
    topic = topic_of(loaded(record(TWO, 5), record(ONE, 6), record(key("x", "other"), 7)))
    response = only(topic.render(None))
    assert response.reset
    assert ids(response) == (["one", "two"], [])
    assert (response.header.epoch, response.header.revision) == ("e1", 10)
    assert response.checksum == sum_of(response.upserts)
    assert response.resume_token


def test_full_set_of_nothing_is_told_too() -> None:
    response = only(topic_of(loaded()).render(None))
    assert (response.reset, response.checksum, ids(response)) == (True, 0, ([], []))


def test_difference_holds_what_changed_alone_in_the_order_of_revisions() -> None:
    catalog = loaded(record(ONE, 5), record(TWO, 6))
    topic = topic_of(catalog)
    before = topic.refresh()
    for delta in (put(11, THREE), put(12, ONE), gone(13, TWO)):
        catalog.apply(delta)
    assert topic.refresh() > before
    response = only(topic.render(before))
    assert not response.reset
    assert ids(response) == (["three", "one"], ["two"])
    assert response.checksum == sum_of(it.parse() for it in catalog.select(PLAYER))


def test_what_came_and_went_is_not_told() -> None:
    catalog = loaded(record(ONE, 5))
    topic = topic_of(catalog)
    before = topic.refresh()
    catalog.apply(put(11, TWO))
    catalog.apply(gone(12, TWO))
    topic.refresh()
    assert topic.render(before) == []


def test_changes_of_one_revision_come_in_one_step() -> None:
    catalog = loaded(record(ONE, 5, host="h", port=1))
    topic = topic_of(catalog)
    before = topic.refresh()
    catalog.apply(put(11, TWO, host="h", port=1))
    topic.refresh()
    assert ids(only(topic.render(before))) == (["two"], ["one"])


def test_change_of_another_service_is_no_new_version() -> None:
    catalog = loaded(record(ONE, 5))
    topic = topic_of(catalog)
    before = topic.refresh()
    catalog.apply(put(11, key("one", "other")))
    assert topic.refresh() == before


def test_reader_the_log_does_not_reach_gets_the_full_set() -> None:
    catalog = loaded(record(ONE, 5), log_limit=3)
    topic = topic_of(catalog)
    before = topic.refresh()
    for number in range(10):
        catalog.apply(put(11 + number, key(f"{number}")))
    topic.refresh()
    response = only(topic.render(before))
    assert response.reset
    assert response.checksum == sum_of(response.upserts)
    assert len(response.upserts) == 11


# ---- filters

FILTERS = [
    (Query("default", frozenset({"player"}), tags=frozenset({"a", "b"})), {"tags": ["b", "c", "a"]}, {"tags": ["a"]}),
    (
        Query("default", frozenset({"player"}), metadata=frozenset({("k", "v")})),
        {"metadata": {"k": "v", "l": "w"}},
        {"metadata": {"k": "w"}},
    ),
    (
        Query("default", frozenset({"player"}), metadata=frozenset({("k", "")})),
        {"metadata": {"k": ""}},
        {"metadata": {}},
    ),
    (Query("default", frozenset({"player"}), version="2"), {"version": "2"}, {"version": "2.0"}),
    (
        Query("default", frozenset({"player"}), statuses=frozenset({0, 2})),
        {"status": pb.DOWN},
        {"status": pb.DRAINING},
    ),
    (Query("default", frozenset({"player"}), healths=frozenset({0})), {}, {"health": pb.HEALTHY}),
    (
        Query("default", frozenset({"player"}), locality=("r", "", "s")),
        {"locality": {"region": "r", "zone": "any", "sub_zone": "s"}},
        {"locality": {"region": "r", "zone": "any"}},
    ),
    (Query("default", frozenset({"player"}), routable_only=True), {"weight": 1}, {"weight": 0}),
    (Query("default", tags=frozenset({"a"})), {"tags": ["a"]}, {}),
]


@pytest.mark.parametrize(("query", "fits", "does_not"), FILTERS)
def test_filter_lets_in_and_out(query: Query, fits: dict[str, Any], does_not: dict[str, Any]) -> None:
    catalog = loaded(record(ONE, 5, **fits), record(TWO, 6, **does_not))
    topic = topic_of(catalog, query)
    assert ids(only(topic.render(None))) == (["one"], [])
    steps = []
    for delta in (put(11, TWO, **fits), put(12, ONE, **does_not), put(13, TWO, **does_not), put(14, ONE, **does_not)):
        before = topic.refresh()
        catalog.apply(delta)
        topic.refresh()
        steps += [ids(response) for response in parsed(topic.render(before))]
    assert steps == [(["two"], []), ([], ["one"]), ([], ["two"])]
    assert only(topic.mark()).checksum == 0


def test_equal_questions_are_one_question() -> None:
    healths = [pb.HEALTHY, pb.UNKNOWN]
    first = pb.Filter(tags=["x", "y"], metadata={"k": "v", "l": "w"}, healths=healths)
    second = pb.Filter(tags=["y", "x"], metadata={"l": "w", "k": "v"}, healths=healths[::-1])
    one, two = Query.of("default", ["b", "a"], first), Query.of("default", ["a", "b", "a"], second)
    assert one == two
    assert hash(one) == hash(two)
    assert one.fingerprint == two.fingerprint


def test_different_questions_have_different_fingerprints() -> None:
    questions = [PLAYER, Query("default"), Query("other", PLAYER.services), Query(""), Query("", PLAYER.services)]
    questions += [query for query, _, _ in FILTERS]
    assert len({query.fingerprint for query in questions}) == len(questions)


# ---- why they left


def test_who_left_is_told_with_why() -> None:
    names = {cause: key(cause.value) for cause in Cause}
    catalog = loaded(record(ONE, 5, tags=["x"]), record(TWO, 6, tags=["x"]), *(record(it, 7) for it in names.values()))
    topic, filtered = topic_of(catalog), topic_of(catalog, Query("default", frozenset({"player"}), frozenset({"x"})))
    before, within = topic.refresh(), filtered.refresh()
    for place, (cause, name) in enumerate(names.items()):
        catalog.apply(gone(11 + place, name, cause=cause))
    told = {it.id: pb.Departure.Cause.Name(it.cause) for it in only(topic.render(before)).removed}
    assert told == {cause.value: cause.name for cause in Cause}
    catalog.apply(put(30, ONE))
    catalog.load(Snapshot("e1", 40, (record(ONE, 30),)))
    told = {it.id: pb.Departure.Cause.Name(it.cause) for it in only(filtered.render(within)).removed}
    assert told == {"one": "CAUSE_UNSPECIFIED", "two": "CAUSE_UNSPECIFIED"}, "no longer within the filter; nobody knows"


def test_of_several_causes_the_last_is_told() -> None:
    catalog = loaded(record(ONE, 5))
    topic = topic_of(catalog)
    before = topic.refresh()
    catalog.apply(gone(11, ONE, cause=Cause.DEREGISTERED))
    catalog.apply(put(12, ONE))
    catalog.apply(gone(13, ONE, cause=Cause.EXPIRED))
    (left,) = only(topic.render(before)).removed
    assert left == pb.Departure(namespace="default", service="player", id="one", cause=pb.Departure.EXPIRED)


def test_what_replaced_an_instance_is_why_it_left() -> None:
    catalog = loaded(record(ONE, 5, host="10.0.0.1", port=7))
    topic = topic_of(catalog)
    before = topic.refresh()
    catalog.apply(put(11, TWO, host="10.0.0.1", port=7))
    response = only(topic.render(before))
    assert (ids(response), response.removed[0].cause) == ((["two"], ["one"]), pb.Departure.REPLACED)


# ---- tokens


def token_of(topic: WatchTopic) -> str:
    topic.refresh()
    return only(topic.mark()).resume_token


def test_token_brings_the_difference_since_it() -> None:
    catalog = loaded(record(ONE, 5))
    token = token_of(topic_of(catalog))
    catalog.apply(put(11, TWO))
    catalog.apply(gone(12, ONE))
    topic = topic_of(catalog)
    since = topic.resume(token)
    assert since is not None
    assert ids(only(topic.render(since))) == (["two"], ["one"])


def test_token_of_now_brings_nothing() -> None:
    topic = topic_of(loaded(record(ONE, 5)))
    since = topic.resume(token_of(topic))
    assert since is not None
    assert topic.render(since) == []


def test_token_is_good_on_another_replica() -> None:
    """The two counted differently: one followed every change, the other loaded a full set late."""
    first = loaded(record(ONE, 5))
    for delta in (put(11, TWO), put(12, THREE), gone(13, THREE)):
        first.apply(delta)
    token = token_of(topic_of(first))
    second = loaded(record(ONE, 5), record(TWO, 11), revision=13)
    second.apply(put(14, THREE))
    topic = topic_of(second)
    since = topic.resume(token)
    assert since is not None
    assert ids(only(topic.render(since))) == (["three"], [])


def test_token_whose_holder_knows_something_else_brings_the_full_set() -> None:
    """The other replica still showed an instance whose removal it held back."""
    held = loaded(record(ONE, 5), record(TWO, 6))
    token = token_of(topic_of(held))
    topic = topic_of(loaded(record(ONE, 5)))
    assert topic.resume(token) is None


def test_token_of_another_epoch_brings_the_full_set() -> None:
    token = token_of(topic_of(loaded(record(ONE, 5))))
    assert topic_of(loaded(record(ONE, 5), epoch="e2")).resume(token) is None


def test_token_of_a_revision_yet_to_come_brings_the_full_set() -> None:
    token = token_of(topic_of(loaded(revision=50)))
    assert topic_of(loaded(revision=10)).resume(token) is None


def test_token_of_a_forgotten_revision_brings_the_full_set() -> None:
    catalog = loaded(record(ONE, 5), log_limit=2)
    token = token_of(topic_of(catalog))
    for number in range(5):
        catalog.apply(put(11 + number, TWO))
    assert topic_of(catalog).resume(token) is None


def test_token_from_before_this_server_began_brings_the_difference_if_nothing_had_changed_by_then() -> None:
    token = token_of(topic_of(loaded(record(ONE, 5), revision=6)))
    catalog = loaded(record(ONE, 5), revision=10)
    assert topic_of(catalog).resume(token) == catalog.seq
    catalog.apply(put(11, TWO))
    topic = topic_of(catalog)
    since = topic.resume(token)
    assert since is not None
    assert ids(only(topic.render(since))) == (["two"], [])
    assert topic_of(loaded(record(ONE, 7), revision=10)).resume(token) is None


@pytest.mark.parametrize(
    "query",
    [Query("default"), Query("other", PLAYER.services), Query("default", frozenset({"player", "x"})), FILTERS[3][0]],
)
def test_token_of_another_question_is_refused(query: Query) -> None:
    catalog = loaded(record(ONE, 5))
    with pytest.raises(InvalidField, match=r"^resume_token: .*another"):
        topic_of(catalog, query).resume(token_of(topic_of(catalog)))


@pytest.mark.parametrize(
    "token", ["x", "a/b/c/d", "e1/10//", "e1/-1/00000000/0000000000000000", "/" * 100, "\0", "e" * 9999]
)
def test_token_that_is_none_is_refused(token: str) -> None:
    with pytest.raises(InvalidField, match=r"^resume_token: is not one"):
        topic_of(loaded()).resume(token)


def test_token_is_told_anew_with_every_bookmark() -> None:
    catalog = loaded(record(ONE, 5), log_limit=2)
    topic = topic_of(catalog)
    for number in range(50):
        catalog.apply(put(11 + number, key("x", "other")))
    response = only(topic.mark())
    assert response.bookmark
    assert response.header.revision == 60
    assert topic_of(catalog).resume(response.resume_token) is not None


# ---- large steps


LARGE = {"k": "v" * 4_000}


def test_large_set_comes_in_parts() -> None:
    names = [key(f"{number:03}") for number in range(200)]
    catalog = loaded(*(record(name, 5, metadata=LARGE) for name in names))
    topic = topic_of(catalog)
    parts = topic.render(None)
    responses = parsed(parts)
    assert len(responses) > 800_000 / MAX_BYTES
    assert all(len(part) < 1.2 * MAX_BYTES for part in parts)
    assert [it.reset for it in responses] == [True] + [False] * (len(parts) - 1)
    assert [it.more for it in responses] == [True] * (len(parts) - 1) + [False]
    assert [bool(it.resume_token) for it in responses] == [False] * (len(parts) - 1) + [True]
    fold = Fold()
    fold.take(parts)
    assert set(fold.instances) == set(names)


def test_large_set_of_which_a_filter_takes_little_comes_in_few_parts() -> None:
    """Whatever the filter lets in: the first part says that the set starts anew, the last one that it is whole."""
    names = [key(f"{number:03}") for number in range(200)]
    for taken in ({0, 199}, {150}, {0}, set[int]()):
        fields = [{"tags": ["x"]} if number in taken else {} for number in range(200)]
        records = [record(name, 5, metadata=LARGE, **its) for name, its in zip(names, fields, strict=True)]  # type: ignore[arg-type]
        parts = topic_of(loaded(*records), Query("default", PLAYER.services, tags=frozenset({"x"}))).render(None)
        fold = Fold()
        fold.take(parts)
        assert {int(name.id) for name in fold.instances} == taken
        assert fold.is_whole
        assert len(parts) <= 2 + len(taken)


def test_large_difference_comes_in_parts_removals_last() -> None:
    names = [key(f"{number:03}") for number in range(200)]
    catalog = loaded(record(ONE, 5))
    topic = topic_of(catalog)
    fold = Fold()
    fold.take(topic.render(None))
    before = topic.refresh()
    for number, name in enumerate(names):
        catalog.apply(put(11 + number, name, metadata=LARGE))
    catalog.apply(gone(500, ONE))
    topic.refresh()
    parts = topic.render(before)
    responses = parsed(parts)
    assert len(responses) > 800_000 / MAX_BYTES
    assert [it.more for it in responses] == [True] * (len(parts) - 1) + [False]
    assert [bool(it.removed) for it in responses] == [False] * (len(parts) - 1) + [True]
    fold.take(parts)
    assert set(fold.instances) == set(names)


def test_difference_of_removals_alone_comes_in_parts() -> None:
    names = [key(f"{number:05}-{'x' * 100}") for number in range(3_000)]
    catalog = loaded(*(record(name, 5) for name in names))
    topic = topic_of(catalog)
    fold = Fold()
    fold.take(topic.render(None))
    before = topic.refresh()
    catalog.apply(gone(11, *names))
    parts = topic.render(before)
    assert len(parts) > 1
    fold.take(parts)
    assert fold.instances == {}


def test_a_difference_that_is_nothing_after_all_is_a_bookmark() -> None:
    """So many changes that nobody could know before they were looked at."""
    catalog = loaded(record(ONE, 5))
    topic = topic_of(catalog)
    fold = Fold()
    fold.take(topic.render(None))
    before = topic.refresh()
    for number in range(2 * AT_ONCE):
        catalog.apply(put(11 + number, TWO) if number % 2 == 0 else gone(11 + number, TWO))
    response = only(topic.render(before))
    assert response.bookmark
    fold.take([response.SerializeToString()])
    assert set(fold.instances) == {ONE}


# ---- no more at a time than is good


def looks(topic: Topic) -> int:
    """How often it has to be asked until it has taken in everything."""
    for number in range(1, 1000):
        if topic.advance():
            return number
    raise AssertionError("it never has taken everything in")


def test_topic_takes_in_so_much_at_a_time() -> None:
    tagged = Query("default", PLAYER.services, tags=frozenset({"x"}))
    catalog = loaded(*(record(key(f"{number}"), 5, tags=["x"]) for number in range(5 * AT_ONCE)))
    assert looks(topic_of(catalog)) == 1, "a set without a filter costs nothing to begin with"
    topic = topic_of(catalog, tagged)
    assert 4 <= looks(topic) <= 7
    for number in range(3 * AT_ONCE):
        catalog.apply(put(11 + number, key(f"{number}"), tags=["x"] * (number % 2)))
    assert 3 <= looks(topic) <= 5
    assert only(topic.mark()).checksum == sum_of(it.parse() for it in catalog.select(tagged))


def test_changes_of_one_revision_are_taken_in_together() -> None:
    """Also when they are more than are taken in at a time: nobody is told the half of it."""
    catalog = loaded()
    topic = topic_of(catalog)
    version = topic.refresh()
    catalog.apply(put(11, *(key(f"{number}") for number in range(2 * AT_ONCE))))
    assert not topic.advance()
    assert topic.version == version
    topic.refresh()
    assert len(fold_of(topic).instances) == 2 * AT_ONCE


def fold_of(topic: Topic) -> Fold:
    fold = Fold()
    fold.take(topic.render(None))
    return fold


def test_topic_that_falls_behind_while_it_takes_in_begins_anew() -> None:
    tagged = Query("default", PLAYER.services, tags=frozenset({"x"}))
    catalog = loaded(*(record(key(f"{number}"), 5, tags=["x"]) for number in range(2 * AT_ONCE)), log_limit=10)
    topic = topic_of(catalog, tagged)
    assert not topic.advance()
    for number in range(20):
        catalog.apply(put(11 + number, key(f"{number}"), tags=[]))
    topic.refresh()
    assert len(fold_of(topic).instances) == 2 * AT_ONCE - 20


# ---- what a token costs


def test_made_up_tokens_put_nothing_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each claims another revision; the checksum it claims is wrong. The changes are walked through once."""
    catalog = loaded(record(ONE, 5))
    topic = topic_of(catalog)
    for number in range(1000):
        catalog.apply(put(11 + number, TWO))
    epoch, _, fingerprint, held = token_of(topic).split("/")
    differences = counted(monkeypatch, watch, "Difference")
    walked: list[bool] = []
    monkeypatch.setattr(topic, "_meant", lambda entry: walked.append(True) or entry)
    for revision in range(1, 1011):
        for checksum in ("0" * 16, held):
            assert topic.resume(f"{epoch}/{revision}/{fingerprint}/{checksum}") is None or revision == 1010
    assert differences == []
    assert len(walked) <= 2 * 1001


def test_checksums_of_the_past_are_those_that_were_given_out() -> None:
    """Whether the topic was there all the while, or is new; with and without a filter."""
    for query in (PLAYER, Query("default", PLAYER.services, routable_only=True), Query("default")):
        catalog = loaded(record(ONE, 5))
        old = topic_of(catalog, query)
        tokens = [token_of(old)]
        for number in range(200):
            name = key(f"{number % 7}", "player" if number % 3 else "other")
            catalog.apply(gone(11 + number, name) if number % 5 == 0 else put(11 + number, name, weight=number % 2))
            tokens.append(token_of(old))
        new = topic_of(catalog, query)
        for topic in (new, old, new):
            assert all(topic.resume(token) is not None for token in tokens)
        for number in range(20):
            catalog.apply(put(211 + number, key(f"{number % 7}")))
            tokens.append(token_of(old))
            assert all(new.resume(token) is not None for token in tokens)


def test_checksums_are_remembered_within_a_limit() -> None:
    sums = Sums(floor=0, base=100, limit=4)
    for seq in range(1, 11):
        sums.append(seq * 10, seq)
    assert [sums.at(seq) for seq in (109, 105, 100, 99, 90, 80, 75, 70)] == [10, 10, 10, 9, 9, 8, 7, 7]
    assert sums.at(59) is None
    assert sums.at(0) is None


# ---- what readers share


def test_pieces_are_kept_within_a_limit_the_latest_used() -> None:
    pieces, made = Pieces(max_bytes=250), list[int]()
    blocks = [Block([], [], 0) for _ in range(3)]

    def make(number: int) -> bytes:
        made.append(number)
        return bytes(100)

    for number in (0, 1, 0, 2, 0, 1):
        assert pieces.of("me", blocks[number], lambda number=number: make(number)) == bytes(100)  # type: ignore[misc]
    assert made == [0, 1, 2, 1]
    assert len(pieces) == 200
    pieces.of("you", blocks[1], lambda: make(9))
    assert made[-1] == 9


def test_a_reader_that_stands_still_holds_no_bytes_of_its_own() -> None:
    """Two that are at different places of a set, and the set as it was when a third came: they share the blocks."""
    names = [key(f"{number:03}") for number in range(200)]
    catalog = loaded(*(record(name, 5, metadata=LARGE) for name in names))
    topic = topic_of(catalog)
    topic.refresh()
    first = topic.step(None)
    catalog.apply(put(11, key("000")))
    topic.refresh()
    second = topic.step(None)
    assert isinstance(first, FullSet)
    assert isinstance(second, FullSet)
    shared = [one is other for one, other in zip(first._blocks, second._blocks, strict=True)]
    assert shared == [False] + [True] * (len(shared) - 1)
    fold = Fold()
    fold.take(messages(first))
    assert fold.revision == 10
    assert fold.instances[key("000")].revision == 5


def test_the_same_message_is_the_same_bytes_for_readers_in_step() -> None:
    catalog = loaded(*(record(key(f"{number:03}"), 5, metadata=LARGE) for number in range(200)))
    topic = topic_of(catalog)
    topic.refresh()
    step = topic.step(None)
    assert step is not None
    assert step.part(0)[0] is step.part(0)[0]


def test_a_piece_is_the_same_bytes_for_readers_who_are_told_other_heads() -> None:
    """Of what takes memory there is one, whoever reads it slowly."""
    catalog = loaded(*(record(key(f"{number:03}"), 5, metadata=LARGE) for number in range(200)))
    topic = topic_of(catalog)
    topic.refresh()
    before = topic.version
    catalog.apply(put(11, *(key(f"{number:03}") for number in range(200)), metadata=LARGE))
    topic.refresh()
    for since in (None, before):
        step = topic.step(since)
        assert step is not None
        first, _ = step.part(0)
        catalog.progress(catalog.revision + 1)
        topic.refresh()
        again = topic.step(since)
        assert again is not None
        second, _ = again.part(0)
        assert first is not None
        assert second is not None
        assert first[0] != second[0]
        assert first[1] is second[1]
        assert len(first[1]) > 100 * len(first[0])


# ---- the checksum


def test_checksum_is_the_one_of_the_definition() -> None:
    """By hand: the first 8 bytes of `printf %s 'default/player/one@5' | sha256sum`, and of two@6, added."""
    one = int(hashlib.sha256(b"default/player/one@5").hexdigest()[:16], 16)
    two = int(hashlib.sha256(b"default/player/two@6").hexdigest()[:16], 16)
    response = only(topic_of(loaded(record(ONE, 5), record(TWO, 6))).render(None))
    assert response.checksum == (one + two) & (2**64 - 1)


def test_checksum_is_kept_up_and_not_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = loaded(*(record(key(f"{number}"), 5, port=number + 1) for number in range(500)))
    topic = topic_of(catalog)
    digests = counted(monkeypatch, model, "digest")
    for number in range(20):
        catalog.apply(put(11 + number, ONE))
        topic.refresh()
    assert len(digests) == 20
    assert only(topic.mark()).checksum == sum_of(it.parse() for it in catalog.select(PLAYER))


# ---- encodings do not grow with readers


@pytest.mark.parametrize("readers", [1, 10, 1000])
def test_encodings_do_not_grow_with_readers(monkeypatch: pytest.MonkeyPatch, readers: int) -> None:
    core = core_of(put(11, ONE, TWO))
    watchers = [Watcher(core, services=["player"]) for _ in range(readers)]
    settle(core, watchers)
    steps = counted(monkeypatch, answers, "watch_end")
    marks = counted(monkeypatch, answers, "watch_bookmark")
    for number in range(5):
        core.feed.emit(put(12 + number, THREE))
        settle(core, watchers)
    core.timeline.advance(10)
    core.hub.bookmark()
    settle(core, watchers)
    assert (len(steps), len(marks)) == (5, 1)
    assert all(watcher.fold.steps == 7 for watcher in watchers)
    assert all(set(watcher.fold.instances) == {ONE, TWO, THREE} for watcher in watchers)


def test_full_set_is_put_together_once_for_all_who_come(monkeypatch: pytest.MonkeyPatch) -> None:
    core = core_of(put(11, ONE, TWO))
    bodies = counted(monkeypatch, answers, "upserts")
    sinks = [Sink() for _ in range(100)]
    for sink in sinks:
        core.watch(sink, services=["player"])
    core.timeline.settle()
    assert len(bodies) == 1
    assert all(sink.chunks[0] is sinks[0].chunks[0] for sink in sinks)


def test_a_difference_is_put_together_once_for_all_who_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    core = core_of(put(11, ONE, TWO))
    first = Watcher(core, services=["player"])
    settle(core, [first])
    core.feed.emit(put(12, THREE))
    bodies = counted(monkeypatch, answers, "upserts")
    sinks = [Sink() for _ in range(100)]
    for sink in sinks:
        core.watch(sink, services=["player"], token=first.fold.token)
    core.timeline.settle()
    assert len(bodies) == 1
    assert all(sink.chunks[0] is sinks[0].chunks[0] for sink in sinks)


def test_a_changed_instance_is_encoded_once_whatever_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    core = core_of()
    watchers = [Watcher(core, services=["player"]) for _ in range(50)]
    watchers += [Watcher(core) for _ in range(50)]
    settle(core, watchers)
    entries = counted(monkeypatch, model, "is_routable")  # asked once for each Entry that is made
    core.feed.emit(put(12, ONE))
    settle(core, watchers)
    for _ in range(10):
        core.list(service="player")
    assert len(entries) == 1
