"""Scores: numbers that rate a sampled video by its frames."""
