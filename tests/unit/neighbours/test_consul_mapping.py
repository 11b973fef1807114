"""How instances look in Consul, and Consul's services here: both whatever is in them."""

import json

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from registry_api.registry.v1 import registry_pb2 as pb
from registry_checks.rules import settle_all
from registry_server.model import MAX_VALUE_BYTES
from registry_server.neighbours.consul.shown import MARK, native, shown
from registry_server.neighbours.consul.taken import taken
from registry_server.neighbours.sides import taken_in
from registry_server.records import Key

KEY = Key("default", "player", "one")
INSTANCE = pb.Instance(service="player", id="one", host="10.0.0.5", port=7001, version="1.0.0", weight=100)
NINE = Duration(seconds=9)
TEXT = st.text(st.characters(), max_size=20)  # halves of characters as well
FIELDS = st.sampled_from(["ID", "Service", "Address", "Port", "Tags", "Meta", "Weights", "Kind"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


def instance(**fields: object) -> pb.Instance:
    made = pb.Instance()
    made.CopyFrom(INSTANCE)
    made.MergeFrom(pb.Instance(**fields))  # type: ignore[arg-type]
    return made


def definition(it: pb.Instance) -> dict[str, object]:
    found: dict[str, object] = json.loads(shown(KEY, it, "mine").body)
    return found


# ---- ours


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, "passing"),
        ({"health": pb.HEALTHY}, "passing"),
        ({"health": pb.UNHEALTHY}, "critical"),
        ({"health": pb.CRITICAL}, "critical"),
        ({"status": pb.DRAINING}, "critical"),
        ({"status": pb.DOWN}, "critical"),
        ({"weight": 0}, "critical"),
    ],
)
def test_what_is_routable_passes(fields: dict[str, object], status: str) -> None:
    checks = definition(instance(**fields))["Checks"]
    assert isinstance(checks, list)
    assert {it["Status"] for it in checks} == {"passing", status}


@pytest.mark.parametrize(("weight", "there"), [(0, 1), (1, 1), (7, 7), (65_535, 65_535), (1_000_000, 65_535)])
def test_weights_that_consul_takes(weight: int, there: int) -> None:
    assert definition(instance(weight=weight))["Weights"] == {"Passing": there, "Warning": there}


def test_metadata_that_consul_takes() -> None:
    """What it does not take is left out, and nobody gives himself our mark."""
    many = {f"key-{number}": "x" for number in range(100)}
    odd = {"größe": "x", "a b": "x", "consul-x": "x", "x" * 129: "x", "long": "x" * 513, MARK: "yours"}
    meta = definition(instance(metadata=odd))["Meta"]
    assert isinstance(meta, dict)
    assert set(meta) == {"version", MARK, f"{MARK}-digest"}
    assert meta[MARK] == "mine"
    assert len(definition(instance(metadata=many))["Meta"]) == 64  # type: ignore[arg-type]


def test_a_change_has_another_digest() -> None:
    assert shown(KEY, INSTANCE, "mine").digest == shown(KEY, instance(), "mine").digest
    others = (instance(tags=["x"]), instance(weight=7), instance(status=pb.DRAINING), instance(metadata={"a": "b"}))
    assert len({shown(KEY, it, "mine").digest for it in (INSTANCE, *others)}) == 5


@pytest.mark.parametrize(
    ("check", "there"),
    [
        (
            {"http": pb.HealthCheck.Http(path="/x?y", port=81, method="HEAD", headers={"A": "b"}, host="game.example")},
            {"HTTP": "http://10.0.0.5:81/x?y", "Method": "HEAD", "Header": {"A": ["b"], "Host": ["game.example"]}},
        ),
        (
            {"http": pb.HealthCheck.Http(tls=True, host="game.example:443", insecure=True)},
            {"HTTP": "https://10.0.0.5:7001/", "TLSServerName": "game.example", "TLSSkipVerify": True},
        ),
        ({"tcp": pb.HealthCheck.Tcp(port=82)}, {"TCP": "10.0.0.5:82"}),
        ({"grpc": pb.HealthCheck.Grpc()}, {"GRPC": "10.0.0.5:7001", "GRPCUseTLS": False}),
        (
            {"grpc": pb.HealthCheck.Grpc(service="game.Logic", tls=True, authority="game.example")},
            {"GRPC": "10.0.0.5:7001/game.Logic", "GRPCUseTLS": True, "TLSServerName": "game.example"},
        ),
        (
            {"tcp": pb.HealthCheck.Tcp(), "deregister_after": Duration(seconds=5)},
            {"TCP": "10.0.0.5:7001", "DeregisterCriticalServiceAfter": "60s"},
        ),
        (
            {
                "tcp": pb.HealthCheck.Tcp(),
                "deregister_after": Duration(seconds=90),
                "critical_after": Duration(seconds=9),
            },
            {"DeregisterCriticalServiceAfter": "99s"},
        ),
    ],
)
def test_checks_that_consul_has(check: dict[str, object], there: dict[str, object]) -> None:
    made = pb.HealthCheck(**check)  # type: ignore[arg-type]
    settle_all([made])
    found = native(made, INSTANCE, "id", "passing")
    assert found is not None
    assert {name: found[name] for name in there} == there
    assert (found["Interval"], found["Timeout"], found["FailuresBeforeCritical"]) == ("5s", "3s", 3)


@pytest.mark.parametrize(
    "check",
    [
        pb.HealthCheck(http=pb.HealthCheck.Http(statuses=[418])),
        pb.HealthCheck(http=pb.HealthCheck.Http(body=b"fine")),
        pb.HealthCheck(ttl=pb.HealthCheck.Ttl()),
        pb.HealthCheck(custom=pb.HealthCheck.Custom(type="redis")),
    ],
)
def test_checks_that_consul_has_not(check: pb.HealthCheck) -> None:
    assert native(check, INSTANCE, "id", "passing") is None


def test_an_address_of_ipv6_stands_in_brackets() -> None:
    found = native(pb.HealthCheck(tcp=pb.HealthCheck.Tcp()), instance(host="fd00::1"), "id", "passing")
    assert found is not None
    assert found["TCP"] == "[fd00::1]:7001"


# ---- theirs


def entry(**service: object) -> dict[str, object]:
    named = {"ID": "one", "Service": "player", "Address": "10.0.0.9", "Port": 7001, **service}
    return {"Node": {"Node": "left", "Address": "10.0.0.1"}, "Service": named, "Checks": []}


def the_one(found: object) -> pb.Instance:
    [it] = taken(found, "mine", "default")
    return it


def test_the_address_of_the_node_where_the_service_has_none() -> None:
    assert the_one([entry(Address="")]).host == "10.0.0.1"


@pytest.mark.parametrize(
    ("statuses", "health"),
    [
        ([], pb.UNKNOWN),
        (["passing"], pb.HEALTHY),
        (["passing", "warning"], pb.HEALTHY),
        (["passing", "critical", "warning"], pb.CRITICAL),
        (["what"], pb.UNKNOWN),
    ],
)
def test_health(statuses: list[str], health: int) -> None:
    checks = [{"CheckID": f"c{number}", "Status": status} for number, status in enumerate(statuses)]
    assert the_one([{**entry(), "Checks": checks}]).health == health


def test_a_node_of_very_many_checks() -> None:
    """What fails is shown first, and the instance is one that can be read from a store."""
    long = "\N{GRINNING FACE}" * 300
    checks = [
        {"CheckID": f"{number:04}", "Name": f"{number}{long}", "Status": status, "Output": long}
        for number, status in enumerate([*["passing"] * 500, "critical"])
    ]
    meta = {f"{number:04}": "" for number in range(4096)}
    found = list(taken([{**entry(Meta=meta), "Checks": checks}], "mine", "default"))
    [it] = taken_in(found, "consul")[0].values()
    assert (it.health, it.check_results[0].health) == (pb.CRITICAL, pb.CRITICAL)
    assert len(it.SerializeToString()) < MAX_VALUE_BYTES


def test_ours_are_not_taken_back_and_those_of_another_registry_are() -> None:
    assert list(taken([entry(Meta={MARK: "mine"})], "mine", "default")) == []
    assert the_one([entry(Meta={MARK: "yours"})]).id == "left:one"


@given(JSON)
def test_whatever_is_answered(found: object) -> None:
    assert list(taken(found, "mine", "default")) == []


@given(
    st.dictionaries(st.sampled_from(["ID", "Service", "Address", "Port", "Tags", "Meta", "Weights", "Kind"]), JSON),
    JSON,
)
def test_whatever_is_in_a_service(service: dict[str, object], checks: object) -> None:
    """It is an instance that can be registered, or is left out."""
    found = list(taken([{**entry(**service), "Checks": checks}], "mine", "default"))
    wanted, refused = taken_in(found, "consul")
    assert len(wanted) + len(refused) == len(found)
    assert all(it.origin == "consul" for it in wanted.values())
