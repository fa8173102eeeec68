"""Finds clips in long videos."""
