"""Two minutes of histories under random faults; `make faults` plays longer ones."""

from pathlib import Path

import pytest

from tests.faults.checker import mistakes, story
from tests.faults.history import Fault, Renewed, Step, Written
from tests.faults.stage import play

FAULTS_S = 30.0


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("members", "seed"), [(1, 11), (3, 12)])
async def test_nothing_is_lost_and_nobody_is_thrown_out(tmp_path: Path, members: int, seed: int) -> None:
    history = await play(tmp_path, seed=seed, for_s=FAULTS_S, members=members)
    assert not mistakes(history), f"seed {seed}, {members} member(s)\n{story(history)}\n" + "\n".join(mistakes(history))
    # A history in which little happened proves little.
    assert len(list(history.of(Fault))) > 4
    assert {renewal.replica for renewal in history.of(Renewed)} <= {step.replica for step in history.of(Step)}
    assert len(list(history.of(Written))) > 50
