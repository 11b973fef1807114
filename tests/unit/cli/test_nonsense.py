"""What `registryctl` makes of answers that nobody who is honest gives."""

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from registry_api.registry.v1 import xds_pb2 as pb
from registry_client import InvalidAnswer
from registry_client.cli.show import as_dict
from registry_client.cli.xds import _load, _rows

NEVER = Timestamp(seconds=10**17)


def test_times_and_types_that_there_are_not_are_shown_as_that() -> None:
    client = pb.XdsClient(node_id="n", streams=[pb.XdsStream(opened_at=NEVER)])
    client.streams[0].subscriptions.add(type=99)  # type: ignore[arg-type]
    [row] = _rows(client, wide=True)
    assert (row[3], row[-1]) == ("99", "?")
    assert _load(pb.ServiceLoad(service="player", reported_at=NEVER))[-1] == "?"


def test_what_json_cannot_say_is_an_answer_that_cannot_be() -> None:
    with pytest.raises(InvalidAnswer, match="cannot be shown as JSON"):
        as_dict(pb.ServiceLoad(reported_at=NEVER))
