"""Optimizers, learning-rate schedules and their states."""
