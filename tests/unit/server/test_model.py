"""One instance as the server sees it, whatever stands in the store: no error but BadRecord, one meaning for all."""

import hashlib
from typing import Any

import pytest
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from registry_api.registry.v1 import registry_pb2 as pb
from registry_client import Instance
from registry_server.model import MAX_VALUE_BYTES, BadRecord, Entry, Query
from registry_server.records import Key, Record
from tests.support.core import key

ONE = key("one")
FENCE = 1000


def value(**fields: Any) -> bytes:
    return pb.Instance(
        **{"service": "player", "id": "one", "host": "10.0.0.1", "port": 7, **fields}
    ).SerializeToString()


def entry(encoded: bytes, name: Key = ONE, revision: int = 5, created: int = 3) -> Entry:
    return Entry.of(Record(name, encoded, "lease", revision, created), FENCE)


# ---- any value at all


INSTANCES = st.builds(
    pb.Instance,
    namespace=st.sampled_from(["", "default", "other"]),
    service=st.sampled_from(["", "player", "other"]),
    host=st.sampled_from(["", "10.0.0.1", "a b", "::1", "x" * 300]),
    port=st.integers(0, 2**32 - 1) | st.just(7),
    version=st.text(max_size=3),
    weight=st.none() | st.integers(0, 2**32 - 1),
    tags=st.lists(st.sampled_from(["", "a", "b"]), max_size=3),
    metadata=st.dictionaries(st.sampled_from(["", "k"]), st.text(max_size=3), max_size=2),
    status=st.integers(-1, 4),
    health=st.integers(-1, 5),
    revision=st.integers(-(2**63), 2**63 - 1),
    generation=st.integers(-(2**63), 2**63 - 1) | st.integers(-FENCE - 9, FENCE + 9),
    registered_at=st.none() | st.builds(dict, seconds=st.integers(-(2**63), 2**63 - 1), nanos=st.integers(-5, 2**30)),
    ttl=st.none() | st.builds(dict, seconds=st.integers(-(2**63), 2**63 - 1) | st.integers(-1, 9)),
    leaves_at=st.none() | st.builds(dict, seconds=st.integers(-(2**63), 2**63 - 1)),
)
NAMES = st.text(max_size=4) | st.sampled_from(["default", "player", "one", "a/b", "x" * 129])
KEYS = st.tuples(NAMES, NAMES, NAMES).map(lambda names: Key(*names))


def entry_or_reason(encoded: bytes, name: Key) -> Entry | str:
    try:
        return entry(encoded, name)
    except BadRecord as bad:
        return str(bad)


@given(
    st.binary(max_size=60) | INSTANCES.map(pb.Instance.SerializeToString),
    KEYS,
)
@example(b"", ONE)
@example(b"hello", ONE)
@example(value() + b"\xff\xff", ONE)
def test_any_value_is_an_instance_that_everybody_reads_alike_or_a_bad_record(encoded: bytes, name: Key) -> None:
    found = entry_or_reason(encoded, name)
    if isinstance(found, str):
        assert len(found) < 300
        assert found.isprintable()
        return
    it = found.parse()
    assert (it.namespace, it.service, it.id) == name[:3]
    assert found.key == name
    assert (it.revision, it.create_revision, found.revision) == (5, 3, 5)
    text = f"{it.namespace}/{it.service}/{it.id}@{it.revision}"
    assert found.digest == int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    assert 0 < it.generation == found.owner.generation <= FENCE + 5
    assert it.HasField("weight")
    assert it.version
    assert found.traits.ttl_s > 0
    seen = Instance.from_proto(it)
    assert (seen.weight, seen.routable, seen.ttl_s) == (it.weight, found.routable, found.traits.ttl_s)
    assert tuple(seen.key) == name[:3]
    assert Entry.of(Record(name, found.encoded, "lease", 5, 3), FENCE) == found, "and means the same when read again"


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (b"hello", "not an encoded"),
        (b"", "host: is required"),
        (value(host="10.0.0.1 "), "host: must be"),
        (value(port=0), "port: must be"),
        (value(weight=2**31), "weight: must be"),
        (value(tags=["a", "a"]), "tags: must be"),
        (value(status=7), "status: has no value 7"),
        (value(registered_at={"seconds": 2**62}), "registered_at: must be"),
        (value(registered_at={"nanos": -1}), "registered_at: must be"),
        (value(leaves_at={"seconds": -(2**62)}), "leaves_at: must be"),
        (value(ttl={"seconds": 0}), "ttl: must be"),
        (value(ttl={"seconds": 2**60}), "ttl: must be"),
        (value(metadata={"k": "v" * 17_000}), "metadata: "),
        (value(check_results=[{"name": "tcp", "checked_at": {"nanos": -1}}]), "check_results.checked_at: must be"),
        (value(ttl={"seconds": 5, "nanos": -1}), "ttl: seconds and nanos"),
        (b"\x4a\x02\xff\xff" + value(), "not an encoded"),  # text that is no UTF-8
        (value() + b"\xfa\x3f\x80\x80\x40" + b"x" * (1 << 20), f"at most {MAX_VALUE_BYTES}"),
    ],
)
def test_what_is_no_instance_says_why(encoded: bytes, reason: str) -> None:
    with pytest.raises(BadRecord, match=reason):
        entry(encoded)


@pytest.mark.parametrize("name", [key("a b"), key(""), key("x" * 129), key("one", "a/b"), key("one", "player", "é\n")])
def test_names_that_nobody_can_ask_for_are_no_instance(name: Key) -> None:
    with pytest.raises(BadRecord, match=r"must be 1 to 128|is required"):
        entry(value(), name)


def test_the_key_decides() -> None:
    """Whatever the value says: a copy under another key is another instance."""
    it = entry(value(namespace="prod", service="chat", id="x", revision=99, create_revision=99)).parse()
    assert (it.namespace, it.service, it.id, it.revision, it.create_revision) == ("default", "player", "one", 5, 3)


def test_what_is_not_set_has_its_default_for_everybody() -> None:
    found = entry(pb.Instance(host="10.0.0.1", port=7).SerializeToString())
    it = found.parse()
    assert (it.version, it.weight, it.ttl.seconds, found.routable, found.traits.ttl_s) == ("1.0.0", 100, 15, True, 15.0)


# ---- the fencing token


@pytest.mark.parametrize(
    ("stored", "generation"),
    [
        (0, FENCE + 5),  # by a writer that knew no fence
        (-FENCE, FENCE + 5),
        (-990, 995),  # written in an earlier epoch
        (7, 7),
        (FENCE + 5, FENCE + 5),
        (FENCE + 6, FENCE + 5),  # never given out: not believed
        (2**53, FENCE + 5),
        (2**63 - 1, FENCE + 5),
        (-(2**63), FENCE + 5),
        (-FENCE - 1, FENCE + 5),
    ],
)
def test_generation_of_a_record(stored: int, generation: int) -> None:
    assert entry(value(generation=stored)).owner.generation == entry(value(generation=stored)).parse().generation
    assert entry(value(generation=stored)).owner.generation == generation


def test_a_later_epoch_changes_no_generation_that_was_given() -> None:
    """The same record under a new epoch (a backup that was restored): nobody has become another owner."""
    written = Record(ONE, value(generation=-FENCE), "lease", 5, 3)
    assert Entry.of(written, FENCE).owner == Entry.of(written, 10 * FENCE).owner


# ---- questions


LABELS = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xy"), max_size=3)
TAGS = st.lists(st.sampled_from("abc"), unique=True, max_size=3)
PLACES = st.fixed_dictionaries({part: st.sampled_from(["", "x", "y"]) for part in ("region", "zone", "sub_zone")})
FIELDS = st.fixed_dictionaries(
    {"tags": TAGS, "metadata": LABELS, "version": st.sampled_from(["1", "2"]), "locality": PLACES}
    | {"status": st.integers(0, 2), "health": st.integers(0, 3), "weight": st.integers(0, 1)}
)
FILTERS = st.fixed_dictionaries(
    {"tags": TAGS, "metadata": LABELS, "version": st.sampled_from(["", "1"]), "locality": PLACES}
    | {"statuses": st.lists(st.integers(0, 2), max_size=2), "healths": st.lists(st.integers(0, 3), max_size=2)}
    | {"routable_only": st.booleans()}
)


def is_meant(it: pb.Instance, filter_: pb.Filter) -> bool:
    """As Filter is described in registry.proto, word by word."""
    parts = [(getattr(filter_.locality, part), getattr(it.locality, part)) for part in ("region", "zone", "sub_zone")]
    routable = it.status == pb.ACTIVE and it.health in (pb.UNKNOWN, pb.HEALTHY) and it.weight > 0
    return (
        all(tag in it.tags for tag in filter_.tags)
        and all(it.metadata.get(name) == text for name, text in filter_.metadata.items())
        and filter_.version in ("", it.version)
        and (not filter_.statuses or it.status in filter_.statuses)
        and (not filter_.healths or it.health in filter_.healths)
        and all(asked in ("", is_) for asked, is_ in parts)
        and (routable or not filter_.routable_only)
    )


@given(FIELDS, FILTERS)
def test_a_filter_means_what_it_says(fields: dict[str, Any], filter_: dict[str, Any]) -> None:
    query = Query.of("default", ["player"], pb.Filter(**filter_))
    assert query.matches(entry(value(**fields))) is is_meant(pb.Instance(**fields), pb.Filter(**filter_))


def test_a_question_parses_no_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    found = entry(value(tags=["a"], metadata={"k": "v"}))

    def parsed(self: Entry) -> pb.Instance:
        raise DecodeError

    monkeypatch.setattr(Entry, "parse", parsed)
    question = pb.Filter(tags=["a"], metadata={"k": "v"}, version="1.0.0", locality={"zone": "z"}, routable_only=True)
    assert not Query.of("default", ["player"], question).matches(found)
    question.ClearField("locality")
    assert Query.of("default", ["player"], question).matches(found)


def test_those_who_are_alike_share_what_filters_ask() -> None:
    fields: dict[str, Any] = {"tags": ["a"], "metadata": {"build": "77"}, "locality": {"zone": "z"}}
    one, two = (entry(value(port=port, **fields)) for port in (7, 8))
    assert one.traits is two.traits
    assert next(iter(one.metadata)) is next(iter(two.metadata))


@pytest.mark.parametrize("span", [{"seconds": 2**60}, {"nanos": 2**31 - 1}, {"seconds": 5, "nanos": -1}])
@pytest.mark.parametrize("name", ["interval", "timeout", "initial_delay", "critical_after", "deregister_after"])
def test_a_time_of_a_check_that_json_cannot_say_costs_no_instance(name: str, span: dict[str, int]) -> None:
    found = entry(value(checks=[{"name": "tcp", "tcp": {}, name: span}])).parse()
    assert getattr(found.checks[0], name).ToJsonString() == "-1s"
    assert MessageToJson(found)
