"""Predicts the time of a step from operations (counted from the architecture) and bytes (traced with fake tensors)."""
