"""Sweeps: their folders, the table of their jobs, the GPUs that jobs share. Does not need torch."""
