"""Pictures that a run leaves: its loss, and its videos before and after training."""
