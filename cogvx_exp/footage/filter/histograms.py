"""Histograms of the scores in a manifest, with the limits and the clips near them, for the page of `mode=inspect`."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from cogvx_exp.config.schema import Filter
from cogvx_exp.footage.filter.decide import NAMES, limits_of
from cogvx_exp.footage.manifest import Record

BARS = 40
NEAR = 3
"""Clips shown on each side of a limit."""
OUTLIERS = 99
"""Percentile of the scores at which a histogram ends, unless a limit is above it."""


@dataclass(frozen=True)
class Limit:
    """A limit of a score."""

    value: float
    place: float
    """In the histogram, from 0 to 1."""
    maximum: bool
    """Whether it is one; a clip with just this score is kept in any case."""
    below: list[int]
    """Rows with the nearest lower scores, highest first: indices."""
    above: list[int]
    """Rows with the nearest higher scores, lowest first: indices."""


@dataclass(frozen=True)
class Histogram:
    """How many clips have which score."""

    name: str
    low: float
    high: float
    bars: list[float]
    """Heights, from 0 to 1."""
    clips: int
    limits: list[Limit] = field(default_factory=list)


def histograms(records: Sequence[Record], settings: Filter) -> list[Histogram]:
    """One for each score; none if the clips have no scores."""
    scored = [index for index, record in enumerate(records) if isinstance(record.get("scores"), dict)]
    found = []
    for name in NAMES:
        rows = [index for index in scored if isinstance(records[index]["scores"].get(name), int | float)]
        if rows:
            values = np.array([float(records[index]["scores"][name]) for index in rows])
            found.append(_histogram(name, values, rows, settings))
    return found


def _histogram(name: str, values: np.ndarray, rows: list[int], settings: Filter) -> Histogram:
    both = [(limit, maximum) for maximum, limit in enumerate(limits_of(name, settings)) if limit is not None]
    limits = [limit for limit, _ in both]
    low, high = float(values.min()), float(np.percentile(values, OUTLIERS))
    low, high = min([low, *limits]), max([high, *(limit for limit in limits if limit <= values.max())])
    high = high if high > low else low + 1
    counts, _ = np.histogram(values.clip(low, high), BARS, (low, high))
    bars = (counts / counts.max()).tolist()
    order = np.argsort(values, kind="stable")
    found = Histogram(name, low, high, bars, len(rows))
    for limit, maximum in both:
        if low <= limit <= high:
            middle = int(np.searchsorted(values[order], limit, side="right" if maximum else "left"))
            below = [rows[place] for place in order[max(middle - NEAR, 0) : middle][::-1]]
            above = [rows[place] for place in order[middle : middle + NEAR]]
            found.limits.append(Limit(limit, (limit - low) / (high - low), bool(maximum), below, above))
    return found
