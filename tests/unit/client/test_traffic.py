"""Traffic policies become what a channel goes by."""

import pytest

from registry_api.registry.v1 import policies_pb2 as pb
from registry_client.bridge.traffic import config_of
from registry_server.policies.rules import settled
from tests.unit.balancer.test_outlier import Watched

RULE = pb.OutlierDetection.FailurePercentage


@pytest.mark.parametrize(("threshold", "bad", "ejected"), [(100, 100, [0]), (100, 99, []), (50, 50, [0]), (50, 49, [])])
def test_who_fails_by_the_part_of_a_policy_is_ejected(threshold: int, bad: int, ejected: list[int]) -> None:
    policy = settled(pb.Policy(service="player", outlier_detection={"failure_percentage": RULE(threshold=threshold)}))
    outlier = config_of(policy).outlier
    assert outlier is not None
    subject = Watched(failure_percentage=outlier.failure_percentage)
    for node in subject.nodes[1:]:
        subject.calls(node, 100)
    subject.calls(subject.nodes[0], 100 - bad, bad)
    assert subject.sweep(10.0) == ejected


@pytest.mark.parametrize(
    "policy",
    [
        pb.Policy(timeout={}),
        pb.Policy(timeout={"seconds": -1}),
        pb.Policy(timeout={"seconds": 1, "nanos": -(2**31)}),
        pb.Policy(retries={}),
        pb.Policy(retries={"attempts": 1, "backoff": {"seconds": 1}, "max_backoff": {"seconds": -(2**63)}}),
        pb.Policy(outlier_detection={}),
        pb.Policy(outlier_detection=pb.OutlierDetection(max_ejection_percent=101)),
        pb.Policy(balancing="RING_HASH", hash_header="a\nb"),
        pb.Policy(split=[pb.Part(weight=1)] * 100_000),
    ],
)
def test_what_no_registry_would_keep_is_no_policy(policy: pb.Policy) -> None:
    with pytest.raises(ValueError, match=r"it|must"):
        config_of(policy)
