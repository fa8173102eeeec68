"""Readers of dataset formats: rows of videos and captions."""
