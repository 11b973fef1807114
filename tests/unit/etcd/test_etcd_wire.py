"""CORE of the etcd store: keys, what stands under them, and requests."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_api.registry.etcd.v3 import etcd_pb2 as etcd
from registry_server.records import Commit, Delete, Key, Kind, Put
from registry_server.stores.base import Conflict
from registry_server.stores.epoch import Epoch
from registry_server.stores.etcd.leases import LeaseIds
from registry_server.stores.etcd.wire import (
    Layout,
    Vouched,
    asks_in_order,
    conflicts,
    epoch_name,
    outcomes,
    read_secret,
    whole_seconds,
)

LAYOUT = Layout.below("/registry")
LEASES = LeaseIds(b"secret")
NAMES = st.text(
    alphabet=st.one_of(st.sampled_from("/%25F"), st.characters(exclude_categories=["Cs"])), min_size=1, max_size=8
)
LEFT_OUT = st.one_of(st.sampled_from(["", "-", "%2D"]), NAMES)
SETTINGS = st.builds(Key, LEFT_OUT, LEFT_OUT, NAMES, st.sampled_from([Kind.POLICY, Kind.REPLICA, Kind.CHECKS]))
KEYS = st.one_of(st.builds(Key, NAMES, NAMES, NAMES, st.just(Kind.INSTANCE)), SETTINGS)


# ---- names


@given(KEYS)
def test_key_comes_back(key: Key) -> None:
    assert LAYOUT.parse(LAYOUT.record(key)) == key


@given(KEYS, KEYS)
def test_different_keys_have_different_names(one: Key, two: Key) -> None:
    assert (one == two) == (LAYOUT.record(one) == LAYOUT.record(two))


@given(KEYS)
def test_every_key_is_in_the_range(key: Key) -> None:
    for name in (LAYOUT.record(key), *LAYOUT.own):
        assert LAYOUT.root <= name < LAYOUT.end


@given(st.binary(max_size=30))
def test_any_bytes_are_a_key_of_ours_or_none(rest: bytes) -> None:
    for name in (LAYOUT.root + rest, LAYOUT.root + b"instances/" + rest, LAYOUT.root + b"settings/policy/" + rest):
        key = LAYOUT.parse(name)
        assert key is None or LAYOUT.record(key) == name


def test_name_as_people_see_it() -> None:
    assert (
        LAYOUT.record(Key("default", "player", "größe 1")) == "/registry/v1/instances/default/player/größe 1".encode()
    )
    assert LAYOUT.record(Key("a/b", "50%", "x")) == b"/registry/v1/instances/a%2Fb/50%25/x"
    assert LAYOUT.record(Key("a/b", "player", "x", Kind.POLICY)) == b"/registry/v1/settings/policy/a%2Fb/player/x"
    assert LAYOUT.record(Key("a", "", "x", Kind.POLICY)) == b"/registry/v1/settings/policy/a/-/x"
    assert LAYOUT.record(Key("", "", "-", Kind.REPLICA)) == b"/registry/v1/settings/replica/-/-/%2D"


@pytest.mark.parametrize(
    "rest", ["instances///", "instances/a/b/", "instances//b/c", "instances/a/b", "instances/a/b/c/d"]
)
def test_a_key_without_three_names_is_not_ours(rest: str) -> None:
    assert LAYOUT.parse(LAYOUT.root + rest.encode()) is None


@pytest.mark.parametrize(
    "rest",
    [
        "settings/policy/a/b",
        "settings/policy/a/b/",
        "settings/policy/a/b/-",
        "settings/policy//b/c",
        "settings/policy/a/b/c/d",
        "settings/instance/a/b/c",
        "settings/weather/a/b/c",
        "settings/POLICY/a/b/c",
    ],
)
def test_what_names_no_setting_is_not_ours(rest: str) -> None:
    assert LAYOUT.parse(LAYOUT.root + rest.encode()) is None


@given(st.floats(0, 10_000))
def test_ttl_is_rounded_up(ttl_s: float) -> None:
    assert max(ttl_s, 1) <= whole_seconds(ttl_s) < max(ttl_s, 1) + 1


# ---- the registry's own keys


@given(st.binary(max_size=40))
def test_any_value_of_an_own_key_is_right_or_none(value: bytes) -> None:
    for found in (Epoch.read(value), Vouched.read(value)):
        assert found is None or found.value == value
    secret = read_secret(value)
    assert secret is None or secret.hex().encode() == value


def test_own_values_come_back() -> None:
    epoch, vouched = Epoch("f9aa8b032f42de28", 1_764_083_735_112_907), Vouched("f9aa8b032f42de28", 2**62)
    assert (Epoch.read(epoch.value), Vouched.read(vouched.value)) == (epoch, vouched)
    assert epoch_name(epoch, 0xC1) == "c1.f9aa8b032f42de28"
    assert read_secret(bytes(range(32)).hex().encode()) == bytes(range(32))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"hello",
        b"f9aa8b032f42de28",
        b"f9aa8b032f42de28 -1",
        b"f9aa8b032f42de28 1 ",
        b"F9AA8B032F42DE28 1",
        b"f9aa8b032f42de28 99999999999999999999",
        b"\xff\xfe",
    ],
)
def test_broken_own_values_are_none(value: bytes) -> None:
    assert (Epoch.read(value), Vouched.read(value), read_secret(value)) == (None, None, None)


# ---- commits


def test_conflicts_are_the_keys_that_differ() -> None:
    keys = [Key("n", "s", name) for name in "abcd"]
    commit = Commit(
        puts=(Put(keys[0], b"", "1", 0), Put(keys[1], b"", "1", 7)), deletes=(Delete(keys[2], 8), Delete(keys[3], 9))
    )
    found = [[], [etcd.KeyValue(mod_revision=7)], [etcd.KeyValue(mod_revision=9)], []]
    answers = [etcd.ResponseOp(range=etcd.RangeResponse(kvs=kvs)) for kvs in found]
    assert conflicts(commit, etcd.TxnResponse(responses=answers)) == [keys[2], keys[3]]


def test_each_of_several_commits_has_an_outcome_of_its_own() -> None:
    one, two, three = (Key("n", "s", name) for name in "abc")
    commits = [
        Commit(puts=(Put(one, b"", "1", 0),)),
        Commit(deletes=(Delete(two, 8),)),
        Commit((Put(three, b"", "1", 5),)),
    ]
    request = LAYOUT.txn(commits, LEASES)
    assert [it.WhichOneof("request") for it in request.success] == ["put", "txn", "txn", "txn"]
    assert not request.compare
    refused = etcd.TxnResponse(responses=[etcd.ResponseOp(range=etcd.RangeResponse())])
    answers = [
        etcd.ResponseOp(),
        *(etcd.ResponseOp(txn=it) for it in (etcd.TxnResponse(succeeded=True), refused, refused)),
    ]
    response = etcd.TxnResponse(header=etcd.ResponseHeader(revision=9), succeeded=True, responses=answers)
    written, *others = outcomes(commits, response)
    assert written == 9
    assert [(it.keys, it.revision) for it in others if isinstance(it, Conflict)] == [((two,), 9), ((three,), 9)]


def test_commit_writes_its_cause_only_with_deletes() -> None:
    key = Key("n", "s", "i")
    for commit, keys in (
        (Commit(puts=(Put(key, b"", LEASES.id(LEASES.number(15, 5)), 0),)), [LAYOUT.record(key)]),
        (Commit(deletes=(Delete(key, 3),)), [LAYOUT.cause]),
    ):
        operations = LAYOUT.txn([commit], LEASES).success
        assert [operation.put.key for operation in operations if operation.HasField("put")] == keys


@pytest.mark.parametrize(
    ("version", "in_order"),
    [
        ("3.3.27", False),
        ("3.4.24", False),
        ("3.4.25", True),
        ("3.4.30", True),
        ("3.5.0", False),
        ("3.5.1", False),
        ("3.5.7", False),
        ("3.5.8", True),
        ("3.5.21", True),
        ("3.6.0-rc.2", True),
        ("3.7.0", True),
        ("4.0.0", True),
        ("", False),
    ],
)
def test_versions_whose_progress_comes_in_order(version: str, in_order: bool) -> None:
    assert asks_in_order(version) is in_order
