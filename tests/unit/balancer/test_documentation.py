"""What docs/balancer.md shows, runs."""

import re
from pathlib import Path

import pytest

from balancer.policies import names

PAGE = Path(__file__).parents[3] / "docs" / "balancer.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("block", BLOCKS)
def test_example_runs(block: str) -> None:
    exec(compile(block, PAGE.name, "exec"), {})


def test_every_policy_is_described() -> None:
    described = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(described) == sorted(names())
