"""The run: setup, loop, callbacks, checkpoints, export."""
