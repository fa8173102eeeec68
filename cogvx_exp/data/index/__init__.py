"""Remembers what was found out about files."""
