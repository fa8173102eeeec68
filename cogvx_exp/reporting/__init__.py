"""What came out of runs, side by side: as tables, as CSV, as a page. Does not need torch."""

from cogvx_exp.reporting.tables import metrics_frame, runs_frame

__all__ = ["metrics_frame", "runs_frame"]
