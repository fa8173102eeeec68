"""Held-out loss, and sampling for validation and `generate`."""
