"""Load reports and the weights that follow from them."""

import struct

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from balancer.orca import LoadReport, parse, reported_weight, request


def fixed64(field: int, value: float) -> bytes:
    return bytes([field << 3 | 1]) + struct.pack("<d", value)


def test_reads_what_matters_and_skips_the_rest() -> None:
    cost = bytes([4 << 3 | 2, 12, 10, 1, 97]) + fixed64(2, 7.0)
    message = (
        fixed64(1, 0.5) + bytes([3 << 3, 0x96, 0x01]) + cost + fixed64(6, 200.0) + fixed64(9, 0.25) + fixed64(7, 2.0)
    )
    assert parse(message) == LoadReport(cpu=0.5, application=0.25, rps=200.0, eps=2.0)


@pytest.mark.parametrize(
    ("report", "weight"),
    [
        (LoadReport(cpu=0.5, rps=100), 200),
        (LoadReport(cpu=0.5, application=0.25, rps=100), 400),
        (LoadReport(cpu=0.5, rps=100, eps=50), 100),
        (LoadReport(cpu=0.5), None),
        (LoadReport(rps=100), None),
        (LoadReport(cpu=float("nan"), rps=100), None),
        (LoadReport(cpu=0.5, rps=float("inf")), None),
    ],
)
def test_weight(report: LoadReport, weight: float | None) -> None:
    assert report.weight == weight


@given(st.binary(max_size=64))
def test_any_bytes_are_read_or_refused(message: bytes) -> None:
    weight = reported_weight(message)
    assert weight is None or weight > 0


@pytest.mark.parametrize("interval_s", [0.1, 1.0, 1.5, 3600.0])
def test_request_is_an_orca_load_report_request(interval_s: float) -> None:
    message = request(interval_s)
    assert message[0] == 1 << 3 | 2
    assert message[1] == len(message) - 2
    duration = Duration.FromString(message[2:])
    assert duration.seconds + duration.nanos / 1e9 == interval_s
