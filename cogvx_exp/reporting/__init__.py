"""Compares the results of runs: tables, CSV, a page. Does not need torch."""

from cogvx_exp.reporting.tables import metrics_frame, runs_frame

__all__ = ["metrics_frame", "runs_frame"]
