"""What may stand in a request: every rule, at both sides of its limit, with the field named."""

import ipaddress
import itertools
import math
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from registry_api.registry.v1 import registry_pb2 as pb
from registry_checks.rules import settle_all
from registry_server import fields
from registry_server.errors import InvalidField
from registry_server.model import Entry
from registry_server.records import Key, Record
from registry_server.rpc import validate
from registry_server.rules import UPDATABLE, seconds

GOOD_NAMES = ["a", "7", "_", "A" * 128, "player-service", "a.b_c:d@e~f+g-h", "0123", "a" + "-" * 127]
BAD_NAMES = [
    "-a",
    ".",
    "a/b",
    "/",
    "a b",
    "a\n",
    "\na",
    "a\0",
    "größe",
    "a" * 129,
    "a\x7f",
    "a\u202e",
    "a\t",
    "😀",
    "a%",
]
GOOD_HOSTS = [
    *("10.0.0.1", "::1", "2001:db8::1", "::ffff:10.0.0.1", "localhost", "a.b-c.example.com", "example.com.", "_srv.x"),
    *("7up.example", "a" * 63 + ".example", ".".join(["a" * 49] * 5)),
]
BAD_HOSTS = [
    *("10.0.0.1:80", "[::1]", "::1%eth0", "::1%\n", "::1%" + "x" * 100_000, ":::", "a b", "a/b", "-a", "a..b", ".a"),
    *(
        "http://x",
        "a\n",
        "ä.example",
        "a" * 64 + ".example",
        ".".join(["a" * 50] * 5),
        "999.1.1.1",
        "1.2.3",
        "10.0.0.01",
    ),
    *("256", "1.2.3.4.", "x.7", "\0", "*"),
]


def instance(**fields: Any) -> pb.Instance:
    return pb.Instance(**{"service": "player", "host": "10.0.0.1", "port": 8001, **fields})


def accepted(**fields: Any) -> pb.Instance:
    return validate.new_instance(instance(**fields), lambda: "made")


def refused(**fields: Any) -> str:
    """The field that is named when such an instance is registered."""
    with pytest.raises(InvalidField) as error:
        accepted(**fields)
    assert str(error.value) == f"{error.value.field}: {error.value.reason}"
    assert len(str(error.value)) < 400
    return error.value.field


# ---- defaults


def test_defaults_of_a_registration() -> None:
    it = accepted()
    assert (it.namespace, it.id, it.version, it.weight) == ("default", "made", "1.0.0", 100)
    assert (it.status, it.health) == (pb.ACTIVE, pb.UNKNOWN)


def test_what_is_given_stays() -> None:
    it = accepted(namespace="prod", id="one", version="2", weight=0)
    assert (it.namespace, it.id, it.version, it.weight) == ("prod", "one", "2", 0)


def test_what_the_server_sets_is_ignored() -> None:
    it = accepted(revision=7, create_revision=-1, generation=3, leaves_at={"seconds": 5}, check_results=[{"name": "x"}])
    assert (it.revision, it.create_revision, it.generation, it.HasField("leaves_at")) == (0, 0, 3, False)
    assert list(it.check_results) == []


def test_unknown_fields_are_not_kept() -> None:
    """Nobody has measured them: 3 MiB of them would go to every watcher."""
    it = pb.Instance.FromString(instance().SerializeToString() + b"\xfa\x3f\x80\x80\xc0\x01" + b"x" * (3 << 20))
    assert it.ByteSize() > 3 << 20
    assert validate.new_instance(it, lambda: "made").ByteSize() < 100


def test_a_request_is_never_changed() -> None:
    asked = instance(id="one", revision=7, host="0::1")
    before = asked.SerializeToString(deterministic=True)
    assert validate.new_instance(asked, lambda: "made").host == "::1"
    assert validate.changed_instance(asked, ["tags"])[0].weight == 100
    assert asked.SerializeToString(deterministic=True) == before


# ---- names


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_good_names(name: str) -> None:
    it = accepted(namespace=name, service=name, id=name)
    assert it.service == name


@pytest.mark.parametrize("field", ["namespace", "service", "id"])
@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names(field: str, name: str) -> None:
    assert refused(**{field: name}) == f"instance.{field}"


def test_service_is_required() -> None:
    assert refused(service="") == "instance.service"


@given(st.text(max_size=200))
def test_no_name_with_anything_strange_in_it(name: str) -> None:
    try:
        fields.name("x", name)
    except InvalidField:
        return
    assert 1 <= len(name) <= 128
    assert name.isascii()
    assert name.isprintable()
    assert not set(name) & set("/ %\\\"'?#")


@pytest.mark.parametrize("field", ["service", "id"])
def test_key_names_its_part(field: str) -> None:
    parts = {"service": "player", "id": "one", field: ""}
    with pytest.raises(InvalidField, match=f"^key.{field}: is required$"):
        validate.key("key", pb.InstanceKey(**parts))
    with pytest.raises(InvalidField, match=f"^key.{field}: must be"):
        validate.key("key", pb.InstanceKey(**{**parts, field: "a/b"}))


def test_key_has_the_default_namespace() -> None:
    assert validate.key("key", pb.InstanceKey(service="player", id="one")) == Key("default", "player", "one")


# ---- addresses


@pytest.mark.parametrize("host", GOOD_HOSTS)
def test_good_hosts(host: str) -> None:
    taken = accepted(host=host).host
    assert taken == host or ipaddress.ip_address(taken) == ipaddress.ip_address(host)


@pytest.mark.parametrize("host", ["", *BAD_HOSTS])
def test_bad_hosts(host: str) -> None:
    assert refused(host=host) == "instance.host"


NOBODYS_HOSTS = [
    *("0.0.0.0", "0.0.0.1", "0.255.255.255", "::", "0::0", "::ffff:0.0.0.0", "::ffff:0.1.2.3"),
    *("224.0.0.1", "239.255.255.255", "ff02::1", "ff00::", "ffff::1", "::ffff:224.0.0.251", "::ffff:e000:1"),
    *("255.255.255.255", "240.0.0.1", "254.1.1.1", "::ffff:255.255.255.255", "fe80::1", "febf::1"),
]
NEIGHBOURS = [
    *("1.0.0.0", "127.0.0.1", "169.254.1.1", "223.255.255.255", "::1", "::2", "fec0::1", "feff::1", "fe7f::1"),
    *("::ffff:127.0.0.1", "::ffff:1.0.0.0", "0.example", "255.example", "ff02.example", "0-0", "100.64.0.1"),
]


@pytest.mark.parametrize("host", NOBODYS_HOSTS)
def test_address_that_nobody_can_call_is_refused_with_what_to_write_instead(host: str) -> None:
    with pytest.raises(InvalidField, match=r"^instance.host: .*write an address or a DNS name that callers reach"):
        accepted(host=host)


@pytest.mark.parametrize("host", NEIGHBOURS)
def test_address_beside_those_that_nobody_can_call_is_taken(host: str) -> None:
    accepted(host=host)


@pytest.mark.parametrize(
    ("port", "is_good"), [(0, False), (1, True), (65535, True), (65536, False), (2**32 - 1, False)]
)
def test_ports(port: int, is_good: bool) -> None:
    if is_good:
        assert accepted(port=port).port == port
    else:
        assert refused(port=port) == "instance.port"


# ---- the rest of an instance


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("weight", [0, 1, 1_000_000], [1_000_001, 2**32 - 1]),
        ("version", ["", "1", "v" * 128, "größe 2"], ["v" * 129, "a\nb", "\0", "\u202e"]),
        ("status", [0, 1, 2], [3, -1, 2**31 - 1]),
        ("health", [0, 1, 2, 3], [4, -1]),
        ("tags", [[], ["a"], ["a", "b"], ["t" * 16384]], [[""], ["a", "a"], ["t" * 16385], ["a", ""]]),
        ("metadata", [{}, {"a": ""}, {"k": "v" * 16383}], [{"": "v"}, {"k": "v" * 16384}, {"ü": "v" * 16383}]),
        ("generation", [0, 1, 2**53], [-1, 2**53 + 1, 2**63 - 1]),
    ],
)
def test_limits(field: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        accepted(**{field: value})
    for value in bad:
        assert refused(**{field: value}) == f"instance.{field}", value


@pytest.mark.parametrize("part", ["region", "zone", "sub_zone"])
@pytest.mark.parametrize("value", ["x" * 129, "a\nb", "\0"])
def test_locality(part: str, value: str) -> None:
    assert refused(locality=pb.Locality(**{part: value})) == f"instance.locality.{part}"
    accepted(locality=pb.Locality(**{part: "x" * 128}))


def test_tags_and_metadata_count_together() -> None:
    accepted(tags=["t" * 8000], metadata={"k": "v" * 8383})
    assert refused(tags=["t" * 8000], metadata={"k": "v" * 8384}) == "instance.metadata"
    assert refused(tags=["t" * 16385], metadata={"k": "v"}) == "instance.tags"


def test_what_is_taken_can_be_read_again_whatever_it_is_made_of() -> None:
    """Pairs of a few bytes take several times as many encoded, and more is written beside them later."""
    pairs = ["".join(pair) for pair in itertools.product(map(chr, range(33, 127)), repeat=2)]
    assert refused(metadata=dict.fromkeys(pairs[:8192], "")) == "instance.metadata"
    most, face = max(count for count in range(4090, 5200) if _is_taken(pairs[:count])), "\N{GRINNING FACE}"
    it = accepted(metadata=dict.fromkeys(pairs[:most], ""), version="v" * 128, host="h" * 63)
    it.checks.extend(pb.HealthCheck(name=f"{n}" * 128, http={"path": "/" + "p" * 600}) for n in range(10))
    settle_all(it.checks)
    for made in it.checks:
        it.check_results.append(pb.CheckResult(name=made.name, output=face * 256, checked_at=Timestamp(seconds=2**33)))
    Entry.of(Record(Key("n" * 128, "s" * 128, "i" * 128), it.SerializeToString(), "lease", 5, 5))


def _is_taken(pairs: list[str]) -> bool:
    try:
        accepted(metadata=dict.fromkeys(pairs, ""))
    except InvalidField:
        return False
    return True


@pytest.mark.parametrize(
    ("time", "is_good"),
    [
        (Timestamp(seconds=0), True),
        (Timestamp(seconds=253_402_300_799, nanos=999_999_999), True),
        (Timestamp(seconds=253_402_300_800), False),
        (Timestamp(seconds=-62_135_596_801), False),
        (Timestamp(seconds=5, nanos=-1), False),
        (Timestamp(seconds=5, nanos=10**9), False),
    ],
)
def test_time_of_an_earlier_registration_is_one_that_json_can_say(time: Timestamp, is_good: bool) -> None:
    if is_good:
        accepted(generation=3, registered_at=time)
    else:
        assert refused(generation=3, registered_at=time) == "instance.registered_at"
    accepted(registered_at=time)  # ignored: a new owner has no earlier registration


# ---- updates


def test_update_names_each_field_once() -> None:
    it, named = validate.changed_instance(instance(id="one"), ["tags", "weight", "tags"])
    assert named == ("tags", "weight")
    assert (it.namespace, it.weight, it.version) == ("default", 100, "1.0.0")


@pytest.mark.parametrize(
    "path", ["", "host", "port", "id", "ttl", "instance.tags", "*", "Tags", "metadata.k", "generation"]
)
def test_update_of_what_cannot_be_updated(path: str) -> None:
    with pytest.raises(InvalidField, match=r"^update_mask: .*only status, weight"):
        validate.changed_instance(instance(id="one"), ["tags", path])


def test_update_of_nothing() -> None:
    with pytest.raises(InvalidField, match=r"^update_mask: must name"):
        validate.changed_instance(instance(id="one"), [])


def test_a_huge_path_does_not_come_back_in_the_message() -> None:
    with pytest.raises(InvalidField) as error:
        validate.changed_instance(instance(id="one"), ["x" * 1_000_000])
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("path", UPDATABLE)
def test_update_checks_what_it_takes(path: str) -> None:
    bad = {
        "status": 9,
        "weight": 1_000_001,
        "metadata": {"": ""},
        "tags": [""],
        "version": "\n",
        "health": 9,
    }
    with pytest.raises(InvalidField, match=f"^instance.{path}: "):
        validate.changed_instance(instance(id="one", **{path: bad[path]}), [path])


@pytest.mark.parametrize("field", ["service", "id"])
def test_update_needs_a_key(field: str) -> None:
    it = instance(**{"id": "one", field: ""})
    with pytest.raises(InvalidField, match=f"^instance.{field}: is required$"):
        validate.changed_instance(it, ["tags"])


# ---- times


def ttl(**parts: int) -> float:
    return validate.ttl_s(pb.RegisterRequest(ttl=Duration(**parts)))


def test_ttl() -> None:
    assert validate.ttl_s(pb.RegisterRequest()) == 15.0
    assert (ttl(seconds=2), ttl(seconds=3600), ttl(seconds=2, nanos=500_000_000)) == (2.0, 3600.0, 2.5)


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"seconds": 1, "nanos": 999_999_999},
        {"seconds": 3600, "nanos": 1},
        {"seconds": -5},
        {"seconds": 2**63 - 1},
        {"seconds": -(2**63)},
        {"seconds": 5, "nanos": 2**31 - 1},
        {"seconds": 5, "nanos": -(2**31)},
    ],
)
def test_ttl_out_of_bounds(parts: dict[str, int]) -> None:
    with pytest.raises(InvalidField, match=r"^ttl: "):
        ttl(**parts)


@pytest.mark.parametrize(("parts", "is_good"), [({}, True), ({"seconds": 3600}, True), ({"nanos": 1}, True)])
def test_drain(parts: dict[str, int], is_good: bool) -> None:
    assert validate.drain_s(pb.DeregisterRequest(drain=Duration(**parts))) >= 0


@pytest.mark.parametrize("parts", [{"seconds": 3601}, {"seconds": -1}, {"nanos": -1}, {"nanos": 10**9}])
def test_drain_out_of_bounds(parts: dict[str, int]) -> None:
    with pytest.raises(InvalidField, match=r"^drain: "):
        validate.drain_s(pb.DeregisterRequest(drain=Duration(**parts)))


@given(st.floats(0, 1e9, allow_nan=False))
def test_seconds_are_a_duration_that_json_can_say(value: float) -> None:
    duration = seconds(value)
    assert 0 <= duration.nanos <= 999_999_999
    assert math.isclose(duration.seconds + duration.nanos / 1e9, value, abs_tol=1e-6)


def test_seconds_just_below_the_next() -> None:
    assert seconds(5.9999999999) == Duration(seconds=6)


# ---- questions


@pytest.mark.parametrize("size", [-1, 10_001, 2**31 - 1])
def test_page_size_out_of_bounds(size: int) -> None:
    with pytest.raises(InvalidField, match=r"^page_size: "):
        validate.page_size(size)


def test_page_size() -> None:
    assert (validate.page_size(0), validate.page_size(1), validate.page_size(10_000)) == (1_000, 1, 10_000)


def test_filter() -> None:
    validate.filter_(pb.Filter(statuses=[0, 1, 2], healths=[0, 1, 2, 3]))  # type: ignore[list-item]
    with pytest.raises(InvalidField, match=r"^filter.statuses: "):
        validate.filter_(pb.Filter(statuses=[0, 3]))  # type: ignore[list-item]
    with pytest.raises(InvalidField, match=r"^filter.healths: "):
        validate.filter_(pb.Filter(healths=[-1]))  # type: ignore[list-item]


def test_one_address_has_one_spelling() -> None:
    spellings = ("::1", "0:0:0:0:0:0:0:1", "0000::0001")
    assert {accepted(host=host).host for host in spellings} == {"::1"}
