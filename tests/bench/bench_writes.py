"""Writes/s, and the processor time of one, beside an empty unary handler on a bare grpc.aio server, what etcd does for
the same (a lease, and a put), and r-nacos where it can be built. The same process layout and load for all of them."""

from __future__ import annotations

from collections import defaultdict
from statistics import median

from tests.bench.r_nacos import REGISTER, VERSION, r_nacos, running
from tests.bench.r_nacos import registrations as r_nacos_registrations
from tests.bench.report import Row
from tests.bench.stage import Stage, cpu_s, etcd_version
from tests.bench.workload import etcd_grants, etcd_puts, keep_alives, leases, registrations
from tests.support.building import NotBuilt

SECTION = "Writes"
CALLERS = 32
REGISTRATIONS = 60_000
INSTANCES = 1_000
OF_BARE, OF_ETCD = 0.8, 3.0
BARE, RENEWS, REGISTERS = "bare", "renews", "registers"
ETCD, R_NACOS = "etcd", "r-nacos"
Measured = dict[str, list[tuple[float, float]]]


def run(stage: Stage) -> list[Row]:
    measured: Measured = defaultdict(list)
    sides = [_bare, _etcd, _registers, _renews]
    try:
        if stage.load.language == "Go":  # the other one knows no HTTP
            r_nacos(may_build=stage.rounds > 1)
            sides.insert(2, _r_nacos)
    except NotBuilt as error:
        print(f"without r-nacos: {error}")
    for _ in range(stage.rounds):
        for side in sides:
            side(stage, measured)
    rates = {name: median(rate for rate, _ in found) for name, found in measured.items()}
    spent = {name: median(used for _, used in found) for name, found in measured.items()}
    return _rows(rates, spent)


def _rows(rates: dict[str, float], spent: dict[str, float]) -> list[Row]:
    ours, etcd, nacos = "grpc-registry", f"etcd {etcd_version()}", f"r-nacos {VERSION}"
    bare, registered, renewed = rates[BARE], rates[REGISTERS], rates[RENEWS]
    rows = [
        Row(SECTION, "bare grpc.aio", "empty unary", bare, "calls/s", 1.0),
        _row("Register", registered, bare, OF_BARE, "bare"),
        _row("KeepAlive", renewed, bare, OF_BARE, "bare"),
        Row(SECTION, etcd, "a lease and a put", rates[ETCD], "writes/s", 1.0),
        _row("Register beside it", registered, rates[ETCD], OF_ETCD, "etcd"),
    ]
    if R_NACOS in rates:
        rows.append(Row(SECTION, nacos, "instance registered", rates[R_NACOS], "calls/s", 1.0))
        rows.append(Row(SECTION, ours, "Register beside it", registered, "calls/s", registered / rates[R_NACOS]))
    names = {ETCD: etcd, R_NACOS: nacos, REGISTERS: ours}
    used = [(names[name], spent[name]) for name in names if name in spent]
    return rows + [
        Row(SECTION, subject, "processor time of a registration", us, "us", us / spent[ETCD]) for subject, us in used
    ]


def _row(what: str, value: float, base: float, least: float, of: str) -> Row:
    ratio = value / base
    return Row(SECTION, "grpc-registry", what, value, "calls/s", ratio, f"≥ {least} of {of}", ratio >= least)


def _bare(stage: Stage, measured: Measured) -> None:
    with stage.bare() as server:
        empty = stage.bodies("empty", [b"x" * 120])
        measured[BARE].append(_load(stage, "unary", server.address, server.pid, "/bare.Bare/Empty", empty))


def _registers(stage: Stage, measured: Measured) -> None:
    with stage.registry() as server:
        bodies = stage.bodies("register", registrations(REGISTRATIONS))
        method = "/registry.v1.Registry/Register"
        measured[REGISTERS].append(_load(stage, "unary", server.address, server.pid, method, bodies))


def _renews(stage: Stage, measured: Measured) -> None:
    with stage.registry() as server:
        bodies = stage.bodies("keepalive", keep_alives(leases(server.address, CALLERS)))
        method = "/registry.v1.Registry/KeepAlive"
        measured[RENEWS].append(_load(stage, "pingpong", server.address, server.pid, method, bodies))


def _etcd(stage: Stage, measured: Measured) -> None:
    """One after the other, as who registers there by himself does it."""
    grants, puts = stage.bodies("grants", etcd_grants(REGISTRATIONS)), stage.bodies("puts", etcd_puts(INSTANCES))
    with stage.etcd() as cluster:
        node = cluster.nodes[0]
        granted = _load(stage, "unary", node.endpoint, node.pid, "/etcdserverpb.Lease/LeaseGrant", grants)
        written = _load(stage, "unary", node.endpoint, node.pid, "/etcdserverpb.KV/Put", puts)
    measured[ETCD].append((1 / (1 / granted[0] + 1 / written[0]), granted[1] + written[1]))


def _r_nacos(stage: Stage, measured: Measured) -> None:
    bodies = stage.bodies("r-nacos", r_nacos_registrations(REGISTRATIONS))
    with running(r_nacos(), stage.directory) as server:
        measured[R_NACOS].append(_load(stage, "posts", server.address, server.pid, REGISTER, bodies))


def _load(stage: Stage, what: str, address: str, pid: int, method: str, bodies: object) -> tuple[float, float]:
    """Calls a second, and the microseconds of processor that the server spent on each."""
    before = cpu_s(pid)
    flags = {"method": method, "bodies": bodies, "concurrency": CALLERS, "seconds": stage.seconds}
    measured = stage.load.run(what, address=address, **flags)
    return float(measured["per_second"]), 1e6 * (cpu_s(pid) - before) / max(1, int(measured["calls"]))
