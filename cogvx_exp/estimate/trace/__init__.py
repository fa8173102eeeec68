"""Runs training steps with fake tensors and counts the live bytes."""
