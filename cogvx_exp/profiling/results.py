"""Writes and prints a profile: figures, a table and a picture."""

from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cogvx_exp.console.progress import console
from cogvx_exp.core.files import write_json, write_text
from cogvx_exp.profiling.analysis.breakdown import Breakdown
from cogvx_exp.profiling.picture import draw

FIGURES, TABLE, PICTURE = "parts.json", "parts.txt", "parts.png"
COLUMNS = {
    "part": "",
    "ms": "ms",
    "share": "share",
    "forward_ms": "forward",
    "backward_ms": "backward",
    "recomputed_ms": "recomputed",
    "kernels": "kernels",
    "synchronisations": "syncs",
    "gflop": "GFLOP",
    "gflop_per_second": "GFLOP/s",
    "mfu": "MFU",
}
"""Column headings by the keys of `Breakdown.rows`."""


def write_results(breakdown: Breakdown, folder: Path) -> None:
    """Writes the figures, the table and the picture."""
    title = heading(breakdown)
    write_json(folder / FIGURES, {"title": title, "columns": columns_of(breakdown), "rows": breakdown.rows()})
    draw(breakdown, title, folder / PICTURE)
    write_text(folder / TABLE, table(breakdown))


def print_results(breakdown: Breakdown, folder: Path) -> None:
    """Prints the table and the folder of the results."""
    console.print(table(breakdown).rstrip(), soft_wrap=True, markup=False, highlight=False)
    console.print(f"Profile: {folder}", soft_wrap=True)


def heading(breakdown: Breakdown) -> str:
    """A title: the recorded steps and their time."""
    last = breakdown.first_step + breakdown.steps - 1
    which = f"Step {last}" if breakdown.steps == 1 else f"Mean of steps {breakdown.first_step} to {last}"
    return f"{which}: {breakdown.whole.seconds * 1e3:,.1f} ms, by {'GPU' if breakdown.on_device else 'CPU'} activity"


def columns_of(breakdown: Breakdown) -> dict[str, str]:
    """The columns that apply to this profile."""
    columns = dict(COLUMNS)
    if not breakdown.on_device:
        columns |= {"kernels": "operators", "synchronisations": "reads"}
    if not breakdown.whole.recomputed:
        del columns["recomputed_ms"]
    if not breakdown.peak_flops:
        del columns["mfu"]
    return columns


def table(breakdown: Breakdown) -> str:
    """The table as text."""
    columns = columns_of(breakdown)
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name, label in columns.items():
        grid.add_column(label, justify="left" if name == "part" else "right", no_wrap=True)
    for row in breakdown.rows():
        grid.add_row(*(_shown(name, row[name]) for name in columns))
    text = StringIO()
    # A fixed width: the file must not depend on the terminal that the run happened to have.
    Console(width=200, color_system=None, file=text).print(grid)
    return "\n".join([heading(breakdown), *(line.rstrip() for line in text.getvalue().splitlines())]) + "\n"


def _shown(name: str, value: Any) -> str:
    if name == "part":
        return str(value)
    if not value:
        return ""
    if name in ("share", "mfu"):
        return f"{value:.1%}"
    if name.endswith("ms"):
        return f"{value:,.1f}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
