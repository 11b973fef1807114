"""What was measured: rows, printed as tables, saved as JSON and drawn as a plot."""

import json
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import grpc
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Row:
    """One number of one subject.

    `ratio` is to the baseline of the same run, None where there is none. `target` says what it should be, in words that
    need no looking up; `holds` whether it is.
    """

    section: str
    subject: str
    what: str
    value: float
    unit: str
    ratio: float | None = None
    target: str = ""
    holds: bool | None = None


def machine() -> dict[str, object]:
    """Where the numbers come from."""
    return {
        "python": sys.version.split()[0],
        "grpcio": grpc.__version__,
        "platform": platform.platform(),
        "cpus": _cpus(),
    }


def _cpus() -> int:
    import psutil

    return len(psutil.Process().cpu_affinity() or ())


def show(rows: Iterable[Row], console: Console) -> None:
    """One table a section."""
    for section, members in groupby(rows, key=lambda row: row.section):
        table = Table(title=section, title_justify="left")
        table.add_column("what")
        table.add_column("subject")
        for column in ("value", "ratio"):
            table.add_column(column, justify="right")
        table.add_column("target")
        for row in members:
            ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
            verdict = {None: row.target, True: f"[green]{row.target}[/]", False: f"[red]{row.target}: missed[/]"}[
                row.holds
            ]
            table.add_row(row.what, row.subject, f"{_number(row.value)} {row.unit}", ratio, verdict)
        console.print(table)


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def save(rows: Sequence[Row], directory: Path) -> None:
    """`results.json` and `results.png`."""
    directory.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine(), "rows": [asdict(row) for row in rows]}
    (directory / "results.json").write_text(json.dumps(document, indent=2) + "\n")
    plot(rows, directory / "results.png")


def plot(rows: Sequence[Row], path: Path) -> None:
    """Bars, one panel a section; within a panel what has the same unit."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    panels = [
        (section, unit, [row for row in rows if (row.section, row.unit) == (section, unit)])
        for section, unit in dict.fromkeys((row.section, row.unit) for row in rows)
    ]
    if not panels:
        return
    heights = [0.35 * len(members) + 1.1 for _, _, members in panels]
    figure, axes = pyplot.subplots(
        len(panels), 1, figsize=(11, sum(heights)), height_ratios=heights, squeeze=False, layout="constrained"
    )
    for axis, (section, unit, members) in zip(axes[:, 0], panels, strict=True):
        labels = [f"{row.what}  [{row.subject}]" for row in members]
        values = [row.value for row in members]
        colors = ["tab:blue" if row.subject.startswith("grpc-registry") else "tab:gray" for row in members]
        bars = axis.barh(range(len(members)), values, color=colors)
        axis.bar_label(bars, labels=[_number(value) for value in values], padding=3, fontsize=8)
        axis.set_yticks(range(len(members)), labels, fontsize=8)
        axis.invert_yaxis()
        axis.margins(x=0.12)
        if min(values) > 0 and max(values) / min(values) > 50:
            axis.set_xscale("log")
        axis.set_title(f"{section} ({unit})", loc="left", fontsize=9)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
