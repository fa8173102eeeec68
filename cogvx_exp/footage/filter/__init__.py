"""Scores clips, and excludes those with bad scores."""
