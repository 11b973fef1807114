"""What may stand in a traffic policy, and what is made of one that somebody else wrote into the store."""

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from registry_api.registry.v1 import policies_pb2 as pb
from registry_server.errors import InvalidField
from registry_server.policies import book, explain, rules
from registry_server.records import Key, Kind, Record, Snapshot
from registry_server.settings import Settings
from tests.support.source import ROOT

ROUND_ROBIN, RING_HASH, PICK_FIRST = pb.Policy.ROUND_ROBIN, pb.Policy.RING_HASH, pb.Policy.PICK_FIRST
Outliers, Retries = pb.OutlierDetection, pb.Retries
BY_FAILURES = Outliers.FailurePercentage()
WRONG_HEADERS = ("A", "x" * 129, "grpc-x", "a-bin", ":path", "ü")
HOUR, SECOND = Duration(seconds=3600), Duration(seconds=1)
PLAYER = book.key_of("default", "player")


def policy(**fields: Any) -> pb.Policy:
    return pb.Policy(service="player", **fields)


def outliers(**fields: Any) -> pb.Policy:
    return policy(outlier_detection=Outliers(**fields))


def seconds(it: Duration) -> float:
    return it.ToNanoseconds() / 1e9


def test_defaults_are_filled_in() -> None:
    it = rules.settled(
        policy(
            retries=Retries(attempts=2),
            outlier_detection=Outliers(
                failure_percentage=Outliers.FailurePercentage(),
                success_rate=Outliers.SuccessRate(),
            ),
            revision=7,
            flaw="x",
        )
    )
    assert (it.namespace, it.revision, it.flaw) == ("default", 0, "")
    assert list(it.retries.codes) == [Retries.UNAVAILABLE]
    assert (seconds(it.retries.backoff), seconds(it.retries.max_backoff)) == (0.025, 0.25)
    found = it.outlier_detection
    assert [seconds(at) for at in (found.interval, found.base_ejection_time, found.max_ejection_time)] == [10, 30, 300]
    assert (found.max_ejection_percent, found.consecutive_failures) == (10, 0)
    by_failures, by_rate = found.failure_percentage, found.success_rate
    assert (by_failures.threshold, by_failures.minimum_hosts, by_failures.request_volume) == (85, 5, 50)
    assert (by_rate.stdev_factor, by_rate.minimum_hosts, by_rate.request_volume) == (1900, 5, 100)
    assert rules.settled(it) == it, "what is settled stays as it is"


def test_a_policy_that_says_nothing_is_one() -> None:
    assert rules.settled(policy()) == pb.Policy(namespace="default", service="player")


def test_times_are_written_as_all_clients_take_them() -> None:
    """C-core rejects a whole resource for a time span of two signs, which Python's messages allow."""
    odd = Duration(seconds=2, nanos=-500_000_000)
    it = rules.settled(
        policy(
            timeout=odd,
            retries=Retries(attempts=1, backoff=odd, max_backoff=odd),
            outlier_detection=Outliers(
                consecutive_failures=1, interval=odd, base_ejection_time=odd, max_ejection_time=odd
            ),
        )
    )
    outlier = it.outlier_detection
    times = [it.timeout, it.retries.backoff, it.retries.max_backoff]
    times += [outlier.interval, outlier.base_ejection_time, outlier.max_ejection_time]
    assert times == [Duration(seconds=1, nanos=500_000_000)] * len(times)


def test_codes_are_named_once_and_in_order() -> None:
    it = rules.settled(policy(retries=Retries(attempts=1, codes=[Retries.UNAVAILABLE, 1, 14, 1])))
    assert list(it.retries.codes) == [Retries.CANCELLED, Retries.UNAVAILABLE]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (pb.Policy(), "service"),
        (pb.Policy(service="a b"), "service"),
        (policy(namespace="/"), "namespace"),
        (policy(balancing=77), "balancing"),
        (policy(balancing=RING_HASH), "hash_header"),
        *((policy(balancing=RING_HASH, hash_header=it), "hash_header") for it in WRONG_HEADERS),
        (policy(hash_header="player-id"), "hash_header"),
        (policy(timeout=Duration()), "timeout"),
        (policy(timeout=Duration(seconds=86_401)), "timeout"),
        (policy(timeout=Duration(seconds=1, nanos=2**31 - 1)), "timeout"),
        (policy(retries=Retries()), "retries.attempts"),
        (policy(retries=Retries(attempts=5)), "retries.attempts"),
        (policy(retries=Retries(attempts=1, codes=[2])), "retries.codes"),
        (policy(retries=Retries(attempts=1, codes=[0])), "retries.codes"),
        (policy(retries=Retries(attempts=1, backoff=HOUR)), "retries.backoff"),
        (policy(retries=Retries(attempts=1, backoff=Duration(nanos=4_999_999))), "retries.backoff"),
        (policy(retries=Retries(attempts=1, backoff=HOUR, max_backoff=SECOND)), "retries.backoff"),
        (policy(retries=Retries(attempts=1, backoff=SECOND, max_backoff=Duration(nanos=1))), "retries.max_backoff"),
        (policy(retries=Retries(attempts=1, backoff=Duration(seconds=-1))), "retries.backoff"),
        (policy(circuit_breaking=pb.CircuitBreaking()), "circuit_breaking.max_requests"),
        (outliers(), "outlier_detection"),
        (outliers(interval=HOUR), "outlier_detection"),
        (outliers(consecutive_failures=1_000_001), "outlier_detection.consecutive_failures"),
        (outliers(consecutive_failures=1, max_ejection_percent=101), "outlier_detection.max_ejection_percent"),
        (outliers(consecutive_failures=1, interval=Duration(nanos=1)), "outlier_detection.interval"),
        (policy(split=[pb.Part(version="1", weight=1)] * 2), "split[1]"),
        (policy(split=[pb.Part(weight=1), pb.Part(version="1", weight=1)]), "split[0]"),
        (policy(split=[pb.Part(version="", weight=1)]), "split[0].version"),
        (policy(split=[pb.Part(tag="", weight=1)]), "split[0].tag"),
        (policy(split=[pb.Part(tag="a\n", weight=1)]), "split[0].tag"),
        (policy(split=[pb.Part(version="1", weight=1_000_001)]), "split[0].weight"),
        (policy(split=[pb.Part(version="1"), pb.Part(version="2")]), "split"),
        (policy(split=[pb.Part(version=str(it), weight=1) for it in range(17)]), "split"),
    ],
)  # fmt: skip
def test_what_is_no_policy_is_refused_by_its_field(wrong: pb.Policy, field: str) -> None:
    with pytest.raises(InvalidField) as error:
        rules.settled(wrong)
    assert error.value.field == f"policy.{field}"


def test_nothing_is_changed_in_what_was_asked() -> None:
    asked = policy(retries=Retries(attempts=1))
    before = asked.SerializeToString()
    rules.settled(asked)
    assert asked.SerializeToString() == before


def test_the_largest_policy_can_be_read_again() -> None:
    name = "x" * 128
    it = rules.settled(
        pb.Policy(
            namespace=name,
            service=name,
            balancing=RING_HASH,
            hash_header="x" * 128,
            split=[pb.Part(tag="\U0001f984" * 126 + str(number + 10), weight=1_000_000) for number in range(16)],
            retries=Retries(attempts=4, codes=[1, 4, 8, 13, 14]),
        )
    )
    assert len(book.value_of(it)) < book.MAX_VALUE_BYTES
    found = book.read(record(book.value_of(it), book.key_of(name, name)))
    assert (found.flaw, found.split) == ("", it.split)


# ---- what the store has


def record(value: bytes, key: Key = PLAYER, revision: int = 5) -> Record:
    return Record(key, value, "", revision, revision)


@pytest.mark.parametrize(
    ("value", "flaw"),
    [
        (b"\xff", "its value is not an encoded registry.v1.Policy"),
        (b"x" * 20_000, "its value has 20000 bytes, a policy has at most 16384"),
        (policy(retries=Retries(attempts=9)).SerializeToString(), "policy.retries.attempts: must be 1 to 4, is 9"),
    ],
)
def test_what_is_no_policy_in_the_store_is_shown_with_its_flaw(value: bytes, flaw: str) -> None:
    found = book.read(record(value))
    assert found == pb.Policy(namespace="default", service="player", revision=5, flaw=flaw)


@given(st.binary(max_size=200))
def test_no_value_breaks_the_reading(value: bytes) -> None:
    found = book.read(record(value))
    assert found.service == "player"
    assert found.flaw or rules.settled(found).service == "player"


def test_the_name_of_a_record_decides_whose_policy_it_is() -> None:
    found = book.read(record(pb.Policy(namespace="other", service="chat", timeout=HOUR).SerializeToString()))
    assert (found.namespace, found.service, found.flaw) == ("default", "player", "")


def test_the_book_follows_the_settings() -> None:
    settings = Settings()
    shelf = book.PolicyBook(settings)
    assert shelf.of("default", "player") is None
    settings.load(
        Snapshot("e", 1, (record(policy(timeout=HOUR).SerializeToString()), record(b"\xff", book.key_of("b", "bad"))))
    )
    found = shelf.of("default", "player")
    assert found is not None
    assert found.timeout == HOUR
    assert shelf.of("default", "player") is found, "read once"
    assert shelf.of("b", "bad") is None
    assert sorted(shelf.places()) == [book.key_of("b", "bad"), PLAYER]
    settings.load(
        Snapshot(
            "e",
            2,
            (record(b"", PLAYER, 6), record(b"", Key("a b", "c", "policy", Kind.POLICY))),
        )
    )
    again = shelf.of("default", "player")
    assert again is not None
    assert not again.HasField("timeout")
    assert sorted(shelf.places()) == [PLAYER], "what has another name is none"


# ---- what becomes of it


def test_every_part_of_a_policy_is_explained_for_every_kind_of_client() -> None:
    it = rules.settled(
        policy(
            balancing=pb.Policy.LEAST_REQUEST,
            timeout=HOUR,
            retries=Retries(attempts=1),
            circuit_breaking=pb.CircuitBreaking(max_requests=1),
            outlier_detection=Outliers(consecutive_failures=5, failure_percentage=BY_FAILURES),
            split=[pb.Part(weight=1)],
        )
    )
    told = {each.client: {it.field: it for it in each.verdicts} for each in explain.of(it)}
    assert tuple(told) == explain.CLIENTS
    for client, verdicts in told.items():
        assert {field.partition(".")[0] for field in verdicts} == {
            "balancing", "timeout", "retries", "circuit_breaking", "outlier_detection", "split",
        }, client  # fmt: skip
        for verdict in verdicts.values():
            assert (verdict.follows == pb.Verdict.WHOLLY) == (not verdict.note)
    assert {it.follows for it in told["registry"].values()} == {pb.Verdict.WHOLLY}
    assert told["c-core"]["balancing"].follows == pb.Verdict.NOT
    assert told["go"]["outlier_detection.consecutive_failures"].follows == pb.Verdict.NOT


def test_nothing_is_explained_of_a_policy_that_says_nothing() -> None:
    assert [list(it.verdicts) for it in explain.of(rules.settled(policy()))] == [[] for _ in explain.CLIENTS]


# ---- the manual


@pytest.mark.parametrize(
    "says",
    [
        f"1 ms to {rules.DAY_S / 3600:g} h. Streams",
        f"at most {rules.MAX_PARTS}, each with its share",
        f"How many more times: 1 to {rules.MAX_RETRIES}",
        f"{rules.MIN_BACKOFF_S * 1000:g} ms to 1 min, default {rules.BACKOFF_S * 1000:g} ms",
        f"default {rules.THRESHOLD}.",
        f"default {rules.HOSTS}, at most {rules.MOST:,}",
        f"default {rules.FAILURES_OF}, at most",
        f"default {rules.SUCCESSES_OF}, at most",
        f"default {rules.STDEV_FACTOR:,}, at most",
        f"100 ms to 1 h, default {rules.INTERVAL_S:g} s",
        f"100 ms to 24 h, default {rules.EJECTION_S:g} s",
        f"default {rules.MAX_EJECTION_S:g} s",
        f"1 to 100, default {rules.EJECTED_PERCENT}",
    ],
)
def test_the_manual_says_it(says: str) -> None:
    text = (ROOT / "protos/registry/v1/policies.proto").read_text()
    assert says in " ".join(line.strip().removeprefix("//").strip() for line in text.splitlines())
