"""Predicts the memory of a run by running its steps with fake tensors."""
