"""Service configs: what is read, and how a mistake is told."""

import json
from typing import Any

import pytest

from balancer.calls.retry import HedgingPolicy, RetryPolicy
from balancer.policies import names
from balancer.pool.outlier import FailurePercentage, OutlierOptions, SuccessRate
from balancer.service_config import MethodConfig, ServiceConfig, parse_service_config

RETRY: dict[str, Any] = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE", "aborted", 8],
}


def method_config(**fields: Any) -> dict[str, Any]:
    return {"methodConfig": [{"name": [{"service": "a.B"}], **fields}]}


def test_nothing_gives_an_empty_config() -> None:
    assert parse_service_config(None) == ServiceConfig()
    assert parse_service_config("{}") == ServiceConfig()


def test_the_most_specific_name_wins() -> None:
    config = parse_service_config(
        {
            "methodConfig": [
                {"name": [{}], "timeout": "1s"},
                {"name": [{"service": "a.B"}], "timeout": "2s"},
                {"name": [{"service": "a.B", "method": "C"}, {"service": "x.Y", "method": ""}], "timeout": "3.5s"},
            ]
        }
    )
    timeouts = {path: config.method(path) for path in ("/a.B/C", "/a.B/D", "/x.Y/Z", "/q.R/S")}
    assert {path: method and method.timeout_s for path, method in timeouts.items()} == {
        "/a.B/C": 3.5,
        "/a.B/D": 2.0,
        "/x.Y/Z": 3.5,
        "/q.R/S": 1.0,
    }
    assert parse_service_config(method_config()).method("/other.Service/M") is None


def test_reads_all_that_counts() -> None:
    config = parse_service_config(
        json.dumps(
            {
                **method_config(retryPolicy=RETRY, waitForReady=True, timeout="10s"),
                "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1234567},
                "loadBalancingConfig": [{"unknown_one": {}}, {"ring_hash_experimental": {"minRingSize": 3}}],
                "healthCheckConfig": {"serviceName": "a.B"},
                "somethingNew": [1, 2, 3],
            }
        )
    )
    retry = RetryPolicy(4, 0.1, 1.0, 2.0, frozenset({14, 10, 8}))
    assert config.method("/a.B/C") == MethodConfig(10.0, True, retry)
    assert config.throttle is not None
    assert (config.throttle.max_tokens, config.throttle.token_ratio) == (10.0, 0.123)
    assert (config.policy, config.health_service) == ("consistent_hash", "a.B")


def test_policy_inside_outlier_detection() -> None:
    inner = [{"round_robin": {}}]
    config = parse_service_config({"loadBalancingConfig": [{"outlier_detection_experimental": {"childPolicy": inner}}]})
    assert config.policy == "round_robin"


@pytest.mark.parametrize("name", [name for name in names() if name != "locality_aware"])
def test_own_names_are_taken(name: str) -> None:
    assert parse_service_config({"loadBalancingConfig": [{"mystery": {}}, {name: {}}]}).policy == name


@pytest.mark.parametrize(
    ("entry", "policy"),
    [
        ({"least_connections": {"choices": "full"}}, "least_connections?choices=full"),
        ({"least_connections": {"choices": 2.0}}, "least_connections?choices=2"),
        (
            {"consistent_hash": {"virtual_nodes": 50, "load_factor": 1.25}},
            "consistent_hash?virtual_nodes=50&load_factor=1.25",
        ),
        ({"locality_aware": {"child": "random", "zone": "a"}}, "locality_aware?child=random&zone=a"),
        ({"pick_first": {"shuffleAddressList": True}}, "pick_first?shuffle=true"),
        ({"pick_first": {"shuffle": False}}, "pick_first"),
        ({"weighted_round_robin": {"enableOobLoadReport": True}}, "weighted_round_robin"),
        ({"least_request_experimental": {}}, "least_connections"),
        ({"least_request_experimental": {"choiceCount": 2}}, "least_connections?choices=2"),
        ({"least_request_experimental": {"choiceCount": 5}}, "least_connections"),
        ({"ring_hash_experimental": {"minRingSize": 1024}}, "consistent_hash?virtual_nodes=1024"),
        ({"ring_hash_experimental": {"minRingSize": 8_000_000}}, "consistent_hash?virtual_nodes=4096"),
    ],
)
def test_options_of_policies(entry: dict[str, Any], policy: str) -> None:
    assert parse_service_config({"loadBalancingConfig": [entry]}).policy == policy


def test_outlier_detection_becomes_ours() -> None:
    detection = {
        "interval": "1s",
        "baseEjectionTime": "2s",
        "maxEjectionPercent": 50,
        "successRateEjection": {"stdevFactor": 1000, "requestVolume": 7},
        "failurePercentageEjection": {"threshold": 40, "minimumHosts": 2.0},
        "childPolicy": [{"mystery": {}}, {"least_connections": {"choices": "full"}}],
    }
    config = parse_service_config({"loadBalancingConfig": [{"outlier_detection_experimental": detection}]})
    assert config.policy == "least_connections?choices=full"
    assert config.outlier == OutlierOptions(
        interval_s=1.0,
        base_ejection_s=2.0,
        max_ejection_s=300.0,
        max_ejection_percent=50,
        success_rate=SuccessRate(stdev_factor=1000, request_volume=7),
        failure_percentage=FailurePercentage(threshold_percent=40, minimum_hosts=2),
        consecutive_failures=None,
    )


def test_outlier_detection_without_a_rule_is_none() -> None:
    detection = {"interval": "1s", "childPolicy": [{"round_robin": {}}]}
    assert (
        parse_service_config({"loadBalancingConfig": [{"outlier_detection_experimental": detection}]}).outlier is None
    )


def test_hedging() -> None:
    hedging = {"maxAttempts": 9, "hedgingDelay": "0.25s", "nonFatalStatusCodes": ["INTERNAL"]}
    config = parse_service_config(method_config(hedgingPolicy=hedging)).method("/a.B/C")
    assert config == MethodConfig(hedging=HedgingPolicy(5, 0.25, frozenset({13})))


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ("{", "not JSON"),
        ([], "service config"),
        ({"methodConfig": {}}, "methodConfig"),
        ({"methodConfig": ["x"]}, r"methodConfig\[0\]"),
        ({"methodConfig": [{"name": [{"method": "C"}]}]}, r"methodConfig\[0\].name"),
        ({"methodConfig": [{"name": [{"service": "a"}, {"service": "a"}]}]}, "named twice"),
        ({"methodConfig": [{"name": [{"service": 5}]}]}, r"methodConfig\[0\].name.service: must be a text, is 5"),
        ({"methodConfig": [{"name": [{"service": "a", "method": ["b"]}]}]}, r"methodConfig\[0\].name.method"),
        ({"healthCheckConfig": {"serviceName": 5}}, "healthCheckConfig.serviceName: must be a text, is 5"),
        (method_config(timeout="1"), r"methodConfig\[0\].timeout"),
        (method_config(timeout="-1s"), r"methodConfig\[0\].timeout"),
        (method_config(waitForReady="yes"), "waitForReady"),
        (method_config(retryPolicy=RETRY, hedgingPolicy={"maxAttempts": 2}), "exclude each other"),
        (method_config(retryPolicy={**RETRY, "maxAttempts": 1}), "retryPolicy.maxAttempts"),
        (method_config(retryPolicy={**RETRY, "maxAttempts": "3"}), "retryPolicy.maxAttempts"),
        (method_config(retryPolicy={**RETRY, "initialBackoff": "0s"}), "retryPolicy.initialBackoff"),
        (method_config(retryPolicy={**RETRY, "maxBackoff": None}), "retryPolicy.maxBackoff"),
        (method_config(retryPolicy={**RETRY, "backoffMultiplier": 0}), "retryPolicy.backoffMultiplier"),
        (method_config(retryPolicy={**RETRY, "retryableStatusCodes": []}), "retryPolicy.retryableStatusCodes"),
        (method_config(retryPolicy={**RETRY, "retryableStatusCodes": ["NOPE"]}), "'NOPE'"),
        (method_config(retryPolicy={**RETRY, "retryableStatusCodes": [17]}), "17"),
        ({"retryThrottling": {"maxTokens": 1001, "tokenRatio": 1}}, "retryThrottling.maxTokens"),
        ({"retryThrottling": {"maxTokens": 10}}, "retryThrottling.tokenRatio"),
        ({"loadBalancingConfig": [{"a": {}, "b": {}}]}, "loadBalancingConfig"),
        ({"loadBalancingConfig": [{"a": {}}, {"b": {}}]}, "no policy is known of 'a', 'b'"),
        ({"loadBalancingConfig": [{"least_connections": {"choices": 7}}]}, "choices"),
        ({"loadBalancingConfig": [{"least_connections": {"speed": 7}}]}, "unknown option 'speed'"),
        ({"loadBalancingConfig": [{"consistent_hash": {"table": ["ring"]}}]}, "consistent_hash.table"),
        ({"loadBalancingConfig": [{"least_request_experimental": {"choiceCount": 1}}]}, "choiceCount"),
        ({"loadBalancingConfig": [{"ring_hash_experimental": {"minRingSize": 9, "maxRingSize": 8}}]}, "maxRingSize"),
        ({"loadBalancingConfig": [{"outlier_detection_experimental": {"childPolicy": [{"a": {}}]}}]}, "known of 'a'"),
        (
            {
                "loadBalancingConfig": [
                    {"outlier_detection_experimental": {"failurePercentageEjection": {"threshold": 101}}}
                ]
            },
            "failurePercentageEjection.threshold",
        ),
    ],
)
def test_a_mistake_is_named(config: Any, field: str) -> None:
    with pytest.raises(ValueError, match=field):
        parse_service_config(config)
