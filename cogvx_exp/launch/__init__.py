"""Starts checked jobs. Imports torch only when a run begins."""
