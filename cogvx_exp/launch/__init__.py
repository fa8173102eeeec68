"""From a checked job to a running one. Imports torch only when the run begins."""

from cogvx_exp.launch.launch import launch

__all__ = ["launch"]
