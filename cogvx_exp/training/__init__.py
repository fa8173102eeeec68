"""The run: optimizer, loop, checkpoints, export."""
