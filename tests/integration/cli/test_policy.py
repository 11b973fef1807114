"""`registryctl policy`: put, shown, listed, explained and removed, and told in a line what is wrong."""

import json
from pathlib import Path

import pytest

from registry_client import RegistryClient, TrafficPart
from tests.support.registryctl import ctl

pytestmark = pytest.mark.usefixtures("address")


async def complains(*arguments: str, code: int) -> str:
    """What a command that fails so says."""
    done = await ctl(*arguments)
    assert done.exit_code == code, done.output
    [line] = done.stderr.splitlines()
    return line.removeprefix("registryctl: ")


async def test_a_policy_by_options(registry: RegistryClient) -> None:
    canary = ["--split", "version=2.0:10", "--split", "tag=x:5", "--split", "rest:85"]
    outliers = ["--eject-after", "5", "--eject-failing", "50"]
    done = await ctl("policy", "put", "player", "-b", "least_request", "--timeout", "500ms", "--retries", "3",
                     "--retry-on", "internal", "--max-requests", "9", *outliers, *canary)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "least_request; timeout 0.5s; retries 3 on internal; at most 9 calls" in done.stdout
    assert "ejects after 5 failures, at 50% failures; split version=2.0:10 tag=x:5 rest:85" in done.stdout
    found = await registry.policy.get("player")
    assert (found.timeout, found.circuit_breaking, found.retries and found.retries.attempts) == (0.5, 9, 3)
    assert list(found.split) == [TrafficPart(10, "2.0"), TrafficPart(5, tag="x"), TrafficPart(85)]


async def test_what_is_shown_can_be_put_again(registry: RegistryClient, tmp_path: Path) -> None:
    await ctl("policy", "put", "player", "-b", "ring_hash", "--hash-header", "id", "--timeout", "2s")
    shown = (await ctl("policy", "get", "player", "-o", "json")).stdout
    assert json.loads(shown)["policy"]["hashHeader"] == "id"
    before = await registry.policy.get("player")
    await registry.policy.delete("player")
    (file := tmp_path / "policy.json").write_text(f"\ufeff{shown}", encoding="utf-8")  # as Windows may write it
    assert (await ctl("policy", "put", "player", "-f", str(file))).exit_code == 0
    assert await registry.policy.get("player") == before
    assert (await ctl("policy", "put", "player", "-f", str(file), "--timeout", "1m")).exit_code == 0
    assert (await registry.policy.get("player")).timeout == 60.0
    assert (await registry.policy.get("player")).hash_header == "id"


async def test_lists_and_explanations() -> None:
    await ctl("policy", "put", "b", "--retries", "1")
    await ctl("policy", "put", "a", "-b", "pick_first", "-n", "prod")
    rows = [line.split() for line in (await ctl("policy", "list", "-A")).stdout.splitlines()]
    assert rows[1:] == [["default", "b", "retries", "1", "on", "unavailable"], ["prod", "a", "pick_first"]]
    assert [it["service"] for it in json.loads((await ctl("policy", "list", "-o", "json")).stdout)["policies"]] == ["b"]
    told = json.loads((await ctl("policy", "explain", "a", "-n", "prod", "-o", "json")).stdout)["verdicts"]
    assert {it["client"]: it["follows"] for it in told} == {
        "registry": "WHOLLY", "c-core": "WHOLLY", "go": "WHOLLY", "java": "WHOLLY",
        "node": "NOT", "rust": "NOT", "envoy": "NOT",
    }  # fmt: skip
    assert "takes the instances in turn" in (await ctl("policy", "explain", "a", "-n", "prod")).stdout
    assert (await ctl("policy", "delete", "b")).stdout == "b: the policy is removed\n"
    assert await complains("policy", "delete", "b", code=1) == "delete the policy of b: no such policy: default/b"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "nothing is asked for: name an option or a file"),
        (["--timeout", "soon"], "'soon' is no span of time, such as 2s or 500ms"),
        (["--retry-on", "internal"], "--retry-on needs --retries"),
        (["--split", "2.0"], "must be PART:WEIGHT, such as version=2.0:10"),
        (["--file", "/dev/null"], "--file: no policy"),
        (["--file", "/dev/zero"], "it has more than 1000000 characters"),
        (["--timeout", "nan"], "'nan' is no span of time"),
        (["--timeout", "inf"], "'inf' is no span of time"),
        (["--timeout", "1e30h"], "'1e30h' is no span of time"),
        (["--max-requests", "4294967296"], "4294967296 is not in the range"),
        (["--eject-after", "4294967296"], "4294967296 is not in the range"),
        (["--split", f"rest:{'9' * 5000}"], "Invalid value for '--split': 'rest:999"),
    ],
)
async def test_what_is_wrong_with_an_option(arguments: list[str], complaint: str) -> None:
    assert complaint in await complains("policy", "put", "player", *arguments, code=2)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["-b", "ring_hash"], "policy.hash_header: is required with RING_HASH"),
        (["--split", "version=1:0"], "policy.split: one part must have a weight above 0"),
        (
            ["--split", "rest:1", "--split", "version=1:1"],
            "policy.split[0]: a part without a version or a tag is the rest",
        ),
        (["--split", "color=red:1"], "policy.split: must be version=…, tag=… or rest"),
        (["--timeout", "25h"], "policy.timeout: must be 0 to 86400 seconds"),
        (["--timeout", "0", "--retries", "1"], "policy.timeout: must be 0.001 s to 86400 s, is 0 s"),
    ],
)
async def test_what_no_policy_may_say(arguments: list[str], complaint: str) -> None:
    assert complaint in await complains("policy", "put", "player", *arguments, code=1)


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ("[]", "it must be a JSON object"),
        ('{"policy": null}', "it must be a JSON object"),
        ("[" * 100_000, "--file: no policy"),
        ('{"balancing": 99}', "balancing has no value 99"),
        ('{"retries": {"attempts": 1, "codes": [7]}}', "retries.codes has no value 7"),
        ('{"retries": {"attempts": 1, "codes": [0]}}', "retries.codes has no value 0"),
        ('{"split": [{"tag": "", "weight": 1}]}', "split[0].tag must not be empty"),
    ],
)
async def test_what_stands_in_a_file_and_is_no_policy(said: str, complaint: str, tmp_path: Path) -> None:
    (file := tmp_path / "policy.json").write_text(said)
    assert complaint in await complains("policy", "put", "player", "-f", str(file), code=2)


async def test_a_file_that_gives_no_time_at_all_is_not_taken_for_one_without_a_limit(tmp_path: Path) -> None:
    (file := tmp_path / "policy.json").write_text('{"timeout": "0s"}')
    assert "policy.timeout: must be" in await complains("policy", "put", "player", "-f", str(file), code=1)
