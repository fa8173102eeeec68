"""Caches information about files."""
