"""Predicts the memory of a run by going through its steps with tensors that have no data."""
