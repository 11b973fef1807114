"""docs/policies.md, carried out as it stands: its commands, its Python, and its table beside what is explained."""

import re
import shlex

import pytest
from click.testing import CliRunner

import registry_client
from registry_api.registry.v1 import policies_pb2 as pb
from registry_client.cli import main
from registry_server.policies import explain
from registry_server.policies.rules import settled
from tests.integration.client.conftest import server
from tests.support.servers import ROOT, RegistryServer

__all__ = ["server"]

TEXT = (ROOT / "docs" / "policies.md").read_text()
OUTLIERS = pb.OutlierDetection
# The rows of the table, as policies; and which part of one is meant.
ROWS = {
    "`round_robin`, by weight": ("balancing", pb.Policy(balancing=pb.Policy.ROUND_ROBIN)),
    "`least_request`": ("balancing", pb.Policy(balancing=pb.Policy.LEAST_REQUEST)),
    "`ring_hash`": ("balancing", pb.Policy(balancing=pb.Policy.RING_HASH, hash_header="x")),
    "`pick_first`": ("balancing", pb.Policy(balancing=pb.Policy.PICK_FIRST)),
    "`timeout`": ("timeout", pb.Policy(timeout={"seconds": 1})),  # type: ignore[arg-type]
    "`retries`": ("retries", pb.Policy(retries=pb.Retries(attempts=1))),
    "`circuit_breaking`": ("circuit_breaking", pb.Policy(circuit_breaking=pb.CircuitBreaking(max_requests=1))),
    "outliers by percentage or rate": (
        "outlier_detection",
        pb.Policy(outlier_detection=OUTLIERS(failure_percentage=OUTLIERS.FailurePercentage())),
    ),
    "outliers by failures in a row": (
        "outlier_detection",
        pb.Policy(outlier_detection=OUTLIERS(consecutive_failures=1)),
    ),
    "`split`": ("split", pb.Policy(split=[pb.Part(weight=1)])),
}


def test_its_commands_work(server: RegistryServer) -> None:
    [block] = re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    for line in block.splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "registryctl"
        done = CliRunner().invoke(main, ["--server", server.address, *arguments])
        assert done.exit_code == 0, done.output


def test_its_python_works(server: RegistryServer) -> None:
    [program] = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    exec(program.replace("127.0.0.1:7400", server.address), {})
    with registry_client.sync.connect(server.address) as registry:
        assert [it.service for it in registry.policy.list()] == ["chat", "player", "shop"]


def table() -> dict[str, list[str]]:
    lines = re.findall(r"^\| (.*) \|$", TEXT.partition("## Who follows what")[2], re.MULTILINE)
    cells = [line.split(" | ") for line in lines]
    return {first: rest for first, *rest in cells[1:]}


@pytest.mark.parametrize("row", ROWS)
def test_its_table_is_what_is_explained(row: str) -> None:
    field, policy = ROWS[row]
    policy.service = "player"
    told = {it.client: [verdict.follows for verdict in it.verdicts] for it in explain.of(settled(policy))}
    for client, cell in zip(explain.CLIENTS, table()[row], strict=True):
        assert (told[client] == [pb.Verdict.WHOLLY]) == (cell == "yes"), f"{field} at {client}"


def test_its_table_has_no_other_rows() -> None:
    assert table().keys() == ROWS.keys()
