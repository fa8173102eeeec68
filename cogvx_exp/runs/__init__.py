"""The run folder: its files, checkpoints and branches. Does not need torch."""
