"""Sweeps: the job table and GPU sharing. Does not need torch."""
