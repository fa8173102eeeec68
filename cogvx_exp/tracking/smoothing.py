"""The smoothed loss, the same in metrics, pictures and reports."""

SMOOTHING = 0.05
"""Share of a new value in the moving average, but at least 1 / (number of values)."""


def smoother(average: float, value: float, number: int) -> float:
    """A moving average that starts as a plain mean and becomes exponential.

    Args:
        average: of the values before.
        value: the new one.
        number: which one it is, from 1.
    """
    return average + max(SMOOTHING, 1 / number) * (value - average)
