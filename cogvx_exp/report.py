"""`python -m cogvx_exp.report FOLDER...`: a page that compares runs, and its tables as CSV."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cogvx_exp.console.log import configured_logging
from cogvx_exp.console.progress import console
from cogvx_exp.console.terminal import never_fail_to_print, visible
from cogvx_exp.core.disk import disk_issue
from cogvx_exp.core.errors import UserError
from cogvx_exp.reporting.page import write_report
from cogvx_exp.reporting.runs import find_runs


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the report and returns the exit code: 0, or 2 for a user error."""
    parser = argparse.ArgumentParser(
        prog="python -m cogvx_exp.report",
        description="Compares runs: settings that differ, losses, videos side by side. Runs may still be running.",
    )
    parser.add_argument("folders", nargs="+", type=Path, help="folders of runs or sweeps")
    parser.add_argument(
        "--output", type=Path, help="folder for the page; default: report/ in the given folder, or outputs/report"
    )
    parser.add_argument("--quiet", action="store_true", help="print only the page's path, warnings and errors")
    never_fail_to_print()
    arguments = parser.parse_args(argv)
    arguments.folders = [folder.expanduser() for folder in arguments.folders]
    arguments.output = arguments.output and arguments.output.expanduser()
    base = arguments.folders[0] if len(arguments.folders) == 1 else Path("outputs")
    try:
        with configured_logging():
            runs = find_runs(arguments.folders)
            page = write_report(runs, arguments.output or base / "report")
    except UserError as error:
        print(visible(f"cogvx_exp.report: {error}"), file=sys.stderr)
        return 2
    except OSError as error:
        if (issue := disk_issue(error)) is None:
            raise
        print(f"cogvx_exp.report: {issue}; choose a folder for the page with --output", file=sys.stderr)
        return 2
    count = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    console.result(str(page) if arguments.quiet else f"{count}: open {page} in a browser")
    return 0


if __name__ == "__main__":
    sys.exit(main())
