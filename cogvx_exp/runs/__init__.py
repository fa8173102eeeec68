"""The folder of a run: its files, checkpoints and branches. Does not need torch."""
