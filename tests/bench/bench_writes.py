"""Register/s and KeepAlive/s beside an empty unary handler on a bare grpc.aio server, in the same process layout."""

from tests.bench.report import Row
from tests.bench.stage import Stage, median_of
from tests.bench.workload import keep_alives, leases, registrations

SECTION = "Writes"
CALLERS = 32
REGISTRATIONS = 60_000
TARGET = 0.8


def run(stage: Stage) -> list[Row]:
    register = stage.bodies("register", registrations(REGISTRATIONS))
    empty = stage.bodies("empty", [b"x" * 120])

    def bare() -> float:
        with stage.bare() as server:
            return _unary(stage, server.address, "/bare.Bare/Empty", empty)

    def registers() -> float:
        with stage.registry() as server:
            return _unary(stage, server.address, "/registry.v1.Registry/Register", register)

    def renews() -> float:
        with stage.registry() as server:
            bodies = stage.bodies("keepalive", keep_alives(leases(server.address, CALLERS)))
            method = "/registry.v1.Registry/KeepAlive"
            return _per_second(stage, "pingpong", server.address, method, bodies)

    base, registered, renewed = median_of(stage.rounds, bare, registers, renews)
    return [
        Row(SECTION, "bare grpc.aio", "empty unary", base, "calls/s", 1.0),
        _row("Register", registered, base),
        _row("KeepAlive", renewed, base),
    ]


def _row(what: str, value: float, base: float) -> Row:
    ratio = value / base
    return Row(SECTION, "grpc-registry", what, value, "calls/s", ratio, f"≥ {TARGET} of bare", ratio >= TARGET)


def _unary(stage: Stage, address: str, method: str, bodies: object) -> float:
    return _per_second(stage, "unary", address, method, bodies)


def _per_second(stage: Stage, what: str, address: str, method: str, bodies: object) -> float:
    measured = stage.load.run(
        what, address=address, method=method, bodies=bodies, concurrency=CALLERS, seconds=stage.seconds
    )
    return float(measured["per_second"])
