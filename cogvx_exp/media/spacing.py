"""Evenly spaced choices."""

import numpy as np


def spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` of `count` indices, evenly spaced from the first to the last."""
    return np.linspace(0, count - 1, min(count, wanted)).round().astype(int).tolist() if count else []
