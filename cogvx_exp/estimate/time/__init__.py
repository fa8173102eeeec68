"""Predicts the time of a step: operations counted from the architecture, bytes from steps without data."""
