"""What each kind of xDS client is given of a policy: all that it follows, and nothing that it would reject."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_api.registry.v1 import policies_pb2 as pb
from registry_api.registry.xds.v1 import resources_pb2 as xds
from registry_server.policies.explain import REGISTRY, of
from registry_server.policies.rules import settled
from registry_server.xds import clusters
from registry_server.xds.kinds import ClientKind
from registry_server.xds.traffic import divides, one_locality, to_cluster, to_route

C_CORE, GO, JAVA, NODE, RUST, ENVOY, OTHER = ClientKind
Outliers = pb.OutlierDetection
# What was measured: the policies that each kind takes, by the last part of their names.
TAKES = {
    C_CORE: {"ring_hash", "pick_first", "wrr_locality"},
    GO: {"ring_hash", "pick_first", "wrr_locality", "least_request"},
    JAVA: {"ring_hash", "pick_first", "wrr_locality", "least_request"},
    NODE: {"ring_hash", "wrr_locality"},
    RUST: set[str](),
    ENVOY: {"ring_hash", "least_request"},
    OTHER: set[str](),
}


def policy(**fields: Any) -> pb.Policy:
    return settled(pb.Policy(service="player", **fields))


def cluster(it: pb.Policy, kind: ClientKind) -> xds.Cluster:
    found = clusters.cluster("player")
    to_cluster(found, it, kind)
    return found


def route(it: pb.Policy, kind: ClientKind) -> xds.RouteAction:
    found = clusters.action([("player", 1)])
    to_route(found, it, kind)
    return found


def names(it: xds.LoadBalancingPolicy) -> set[str]:
    """All policies in it, those within others too."""
    found: set[str] = set()
    for choice in it.policies:
        extension = choice.typed_extension_config
        name = extension.name.rpartition(".")[2]
        assert f".{name}.v3." in extension.typed_config.type_url
        found.add(name)
        if name == "wrr_locality":
            found |= names(xds.WrrLocality.FromString(extension.typed_config.value).endpoint_picking_policy)
    return found


BALANCING = st.sampled_from(list(pb.Policy.Balancing.values()))
RULES = st.fixed_dictionaries(
    {},
    optional={
        "failure_percentage": st.just(Outliers.FailurePercentage()),
        "success_rate": st.just(Outliers.SuccessRate()),
        "consecutive_failures": st.integers(1, 10),
    },
).filter(bool)
POLICIES = st.fixed_dictionaries(
    {"balancing": BALANCING},
    optional={
        "retries": st.builds(
            pb.Retries, attempts=st.integers(1, 4), codes=st.lists(st.sampled_from([1, 4, 8, 13, 14]))
        ),
        "timeout": st.just({"seconds": 2}),
        "circuit_breaking": st.just(pb.CircuitBreaking(max_requests=5)),
        "outlier_detection": RULES.map(lambda it: Outliers(**it)),
    },
).map(lambda it: policy(**it, hash_header="id" if it["balancing"] == pb.Policy.RING_HASH else ""))


@given(POLICIES, st.sampled_from(ClientKind))
def test_nobody_is_given_what_it_would_reject(it: pb.Policy, kind: ClientKind) -> None:
    made, way = cluster(it, kind), route(it, kind)
    assert made.lb_policy == 0, "round robin is what all take"
    assert names(made.load_balancing_policy) <= TAKES[kind]
    assert made.circuit_breakers.thresholds[0].max_requests.value > 0
    if way.HasField("retry_policy"):
        retry = way.retry_policy
        assert 1 <= retry.num_retries.value <= 4
        assert retry.retry_on
        known = {"cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"}
        known |= {"connect-failure", "refused-stream"} if kind is ENVOY else set()
        assert set(retry.retry_on.split(",")) <= known
        base, most = retry.retry_back_off.base_interval, retry.retry_back_off.max_interval
        assert 0 < base.ToNanoseconds() <= most.ToNanoseconds()
    if made.HasField("outlier_detection"):
        found = made.outlier_detection
        on = [found.enforcing_success_rate, found.enforcing_failure_percentage, found.enforcing_consecutive_5xx]
        assert any(it.value for it in on)
        assert all(it.value <= 100 for it in (*on, found.max_ejection_percent, found.failure_percentage_threshold))


@pytest.mark.parametrize(("asked", "kind", "sent"), [(100, GO, 99), (100, ENVOY, 100), (50, GO, 50), (1, NODE, 1)])
def test_whose_calls_all_fail_can_be_ejected_by_every_kind(asked: int, kind: ClientKind, sent: int) -> None:
    it = policy(outlier_detection=Outliers(failure_percentage=Outliers.FailurePercentage(threshold=asked)))
    assert cluster(it, kind).outlier_detection.failure_percentage_threshold.value == sent


@given(POLICIES, st.sampled_from([it for it in ClientKind if it is not OTHER]))
def test_explain_tells_the_truth_of_what_is_sent(it: pb.Policy, kind: ClientKind) -> None:
    [told] = [each for each in of(it) if each.client == kind.value]
    made, way, follows = cluster(it, kind), route(it, kind), {it.field: it.follows for it in told.verdicts}
    plain, plain_way = clusters.cluster("player"), clusters.action([("player", 1)])
    if kind is not RUST:  # which is sent what it does not look at
        assert (follows.get("timeout") == pb.Verdict.WHOLLY) == (
            way.max_stream_duration != plain_way.max_stream_duration
        )
        assert (follows.get("circuit_breaking") == pb.Verdict.WHOLLY) == (
            made.circuit_breakers != plain.circuit_breakers
        )
        rules = [follows[field] for field in follows if field.startswith("outlier_detection")]
        assert (pb.Verdict.WHOLLY in rules) == made.HasField("outlier_detection")
    assert (follows.get("retries") == pb.Verdict.WHOLLY) == way.HasField("retry_policy")
    if it.balancing not in (pb.Policy.BALANCING_UNSPECIFIED, pb.Policy.ROUND_ROBIN):
        assert (follows["balancing"] == pb.Verdict.NOT) == (not made.HasField("load_balancing_policy")) or kind is RUST
    assert kind.value != REGISTRY


def test_hashing_is_by_the_header_and_in_one_locality() -> None:
    it = policy(balancing=pb.Policy.RING_HASH, hash_header="player-id")
    assert one_locality(it)
    assert not one_locality(None)
    assert not one_locality(policy(balancing=pb.Policy.LEAST_REQUEST))
    for kind in (C_CORE, GO, JAVA, NODE, ENVOY):
        [choice] = cluster(it, kind).load_balancing_policy.policies
        ring = xds.RingHash.FromString(choice.typed_extension_config.typed_config.value)
        assert ring.hash_function == 1, "XX_HASH, without which Go and Java reject it"
        # Else one instance of a small share costs Envoy 400 MB; Node refuses it.
        assert ring.maximum_ring_size.value == (65_536 if kind is ENVOY else 0)
        assert ring.HasField("maximum_ring_size") == (kind is ENVOY)
        assert [by.header.header_name for by in route(it, kind).hash_policy] == ["player-id"]
    assert len(route(it, RUST).hash_policy) == 0


def test_rust_alone_is_given_no_parts() -> None:
    assert [kind for kind in ClientKind if not divides(kind)] == [RUST]
    told = {each.client: each.verdicts[0].follows for each in of(policy(split=[pb.Part(weight=1)]))}
    assert [client for client, follows in told.items() if follows != pb.Verdict.WHOLLY] == ["rust"]


def test_a_policy_that_says_nothing_changes_nothing() -> None:
    for kind in ClientKind:
        assert cluster(policy(), kind) == clusters.cluster("player")
        assert route(policy(), kind) == clusters.action([("player", 1)])


def test_failures_in_a_row_are_for_envoy_alone() -> None:
    it = policy(outlier_detection=Outliers(consecutive_failures=3))
    assert cluster(it, ENVOY).outlier_detection.consecutive_5xx.value == 3
    for kind in (C_CORE, GO, JAVA, NODE):
        assert not cluster(it, kind).HasField("outlier_detection"), "else what nobody asked for would be on"


@pytest.mark.parametrize("kind", [C_CORE, ENVOY])
def test_what_a_retry_and_a_timeout_say(kind: ClientKind) -> None:
    it = route(policy(retries=pb.Retries(attempts=3, codes=[14, 8]), timeout={"seconds": 2}), kind)
    assert it.retry_policy.retry_on.startswith("resource-exhausted,unavailable")
    assert it.retry_policy.num_retries.value == 3
    limits = it.max_stream_duration
    assert (limits.grpc_timeout_header_max.seconds, limits.max_stream_duration.seconds, it.timeout.seconds) == (2, 2, 0)
