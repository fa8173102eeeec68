"""The former name of `cogvx_exp.reporting`."""

import warnings

from cogvx_exp.reporting import metrics_frame, runs_frame

__all__ = ["metrics_frame", "runs_frame"]

warnings.warn("cogvx_exp.comparison is now cogvx_exp.reporting", DeprecationWarning, stacklevel=2)
