"""Worker processes of a run."""
