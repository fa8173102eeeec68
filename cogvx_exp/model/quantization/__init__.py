"""Frozen linear layers stored in 4 or 8 bits."""
