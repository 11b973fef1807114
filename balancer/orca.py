"""CORE: what back ends report of their load (ORCA), and the weight that follows from it (gRFC A58).

Reports come out of band (gRFC A51), as `xds.data.orca.v3.OrcaLoadReport`s on a stream per connection: those in
the trailers of calls are used up by gRPC core and do not reach Python. Four of a report's numbers matter here, so that
is what is read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import isfinite

PATH = "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics"
ERROR_PENALTY = 1.0
"""A58's `error_utilization_penalty`."""

_CPU, _RPS, _EPS, _APPLICATION = 1, 6, 7, 9
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class LoadReport:
    """Per second: `rps` requests, `eps` errors. Utilizations: 0 = idle, 1 = full, may be more."""

    cpu: float = 0.0
    application: float = 0.0
    rps: float = 0.0
    eps: float = 0.0

    @property
    def weight(self) -> float | None:
        """A58: requests per second that one unit of utilization stands for; None when the report does not say."""
        used = self.application if self.application > 0 else self.cpu
        if not (isfinite(used) and isfinite(self.rps) and self.rps > 0 and used > 0):
            return None
        weight = self.rps / (used + max(0.0, self.eps) / self.rps * ERROR_PENALTY)
        return weight if 0 < weight < float("inf") else None


def request(interval_s: float) -> bytes:
    """A serialized OrcaLoadReportRequest for a report every `interval_s` seconds."""
    nanos = round(interval_s * 1e9)
    duration = b"\x08" + _as_varint(nanos // 10**9) + b"\x10" + _as_varint(nanos % 10**9)
    return b"\x0a" + _as_varint(len(duration)) + duration


def reported_weight(message: bytes) -> float | None:
    """The weight that a serialized report stands for; None when it stands for none."""
    report = parse(message)
    return None if report is None else report.weight


def parse(message: bytes) -> LoadReport | None:
    """A serialized OrcaLoadReport; None when it is not one."""
    values: dict[int, float] = {}
    at = 0
    try:
        while at < len(message):
            tag, at = _varint(message, at)
            field, wire = tag >> 3, tag & 7
            if wire == _FIXED64:
                if field in (_CPU, _RPS, _EPS, _APPLICATION):
                    (values[field],) = struct.unpack_from("<d", message, at)
                at += 8
            else:
                at = _skipped(message, at, wire)
    except (IndexError, struct.error, ValueError):
        return None
    if at > len(message):
        return None
    return LoadReport(*(values.get(field, 0.0) for field in (_CPU, _APPLICATION, _RPS, _EPS)))


def _skipped(message: bytes, at: int, wire: int) -> int:
    if wire == _VARINT:
        return _varint(message, at)[1]
    if wire == _BYTES:
        size, at = _varint(message, at)
        return at + size
    if wire == _FIXED32:
        return at + 4
    raise ValueError("not a protobuf message")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a varint does not end")


def _as_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
