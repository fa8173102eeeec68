"""Problems of a dataset, collected and shown as one table."""

import csv
from dataclasses import astuple, dataclass
from pathlib import Path

from rich.table import Table

from cogvx_exp.console.terminal import PlainConsole
from cogvx_exp.core.files import atomic_write
from cogvx_exp.media.errors import ClipError as ClipError

SHOWN = 30
"""Maximum number of printed faults; the file has all of them."""


@dataclass(frozen=True, slots=True)
class DataFault:
    """A problem with a row or file of a dataset."""

    row: int | None
    """Line or record of the manifest, counted from 1; None for the whole manifest."""
    file: str
    what: str
    fix: str


def fault_of(row: int | None, file: str, error: ClipError) -> DataFault:
    """The fault for an error in a row."""
    return DataFault(row, file, error.what, error.fix)


def print_faults(faults: list[DataFault], console: PlainConsole) -> None:
    """Prints the faults as a table."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("row", justify="right")
    for column in ("file", "what is wrong", "how to fix it"):
        table.add_column(column, overflow="fold")
    for fault in faults[:SHOWN]:
        table.add_row("" if fault.row is None else str(fault.row), fault.file, fault.what, fault.fix)
    console.warn(table)
    if len(faults) > SHOWN:
        console.warn(f"... and {len(faults) - SHOWN} more")


def write_faults(faults: list[DataFault], path: Path) -> None:
    """Writes the faults as CSV."""
    with atomic_write(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "file", "what is wrong", "how to fix it"])
        writer.writerows(astuple(fault) for fault in faults)
