"""Contents of checkpoints, and writing them in the background."""
