"""Shared by all packages: errors, files, text, randomness."""
