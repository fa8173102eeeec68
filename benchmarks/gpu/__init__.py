"""Measures and tests the project on a GPU: `python -m benchmarks.gpu` (see `__main__.py`)."""
