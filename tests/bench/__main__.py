"""`make bench`: everything that is measured, as tables, JSON and a plot below build/bench.

python -m tests.bench [--only writes,fanout,…] [--quick] [--out DIR]
"""

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from tests.bench.loadgen import loadgen
from tests.bench.report import Row, save, show
from tests.bench.stage import Stage

SECTIONS = (
    "writes",
    "transports",
    "etcd",
    "stores",
    "consul",
    "zookeeper",
    "channels",
    "metrics",
    "policies",
    "faults",
    "fanout",
    "xds",
    "footprint",
    "checks",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description="Measures, beside bare gRPC and etcd.")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, with commas: " + ", ".join(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="one short round of everything: to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    o = parser.parse_args()
    console = Console(highlight=False, width=140 if not sys.stdout.isatty() else None)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="grpc-registry-bench-") as directory:
        load = loadgen(o.out / "bin")
        stage = Stage(Path(directory), load, rounds=1 if o.quick else 3, seconds=1.0 if o.quick else 3.0)
        console.print(f"load generator in {load.language}; medians of {stage.rounds} rounds")
        for name in o.only.split(","):
            measured = importlib.import_module(f"tests.bench.bench_{name}").run(stage)
            show(measured, console)
            rows += measured
            save(rows, o.out)
    missed = [row for row in rows if row.holds is False]
    console.print(f"saved {o.out}/results.json and {o.out}/results.png; {len(missed)} target(s) missed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
