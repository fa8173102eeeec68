"""The smoothed loss in metrics, plots and reports."""

SMOOTHING = 0.05
"""Weight of a new value in the moving average, at least 1 / (number of values)."""


def smoother(average: float, value: float, number: int) -> float:
    """A moving average that starts as a plain mean and becomes exponential.

    Args:
        average: average of the previous values.
        value: the new value.
        number: its index, from 1.
    """
    return average + max(SMOOTHING, 1 / number) * (value - average)
