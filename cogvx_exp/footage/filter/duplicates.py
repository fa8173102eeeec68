"""Finds near-duplicates among perceptual hashes without comparing all pairs."""

from collections import defaultdict
from collections.abc import Iterable

BITS, BANDS = 192, 12
BAND_BITS = BITS // BANDS
"""Hashes that differ in fewer bits than there are bands are equal in at least one band."""


def near_duplicates(hashes: Iterable[tuple[int, int]], distance: int) -> dict[int, int]:
    """For each near-duplicate, the first clip that it resembles, which is not a near-duplicate itself.

    Only clips with an equal band are compared: a million clips fill 65536 buckets per band.

    Args:
        hashes: names of clips (numbers) and their hashes, in the order of preference.
        distance: maximum number of different bits, below `BANDS`.
    """
    assert distance < BANDS
    buckets: dict[int, list[tuple[int, int]]] = defaultdict(list)
    found: dict[int, int] = {}
    for clip, bits in hashes:
        places = [(bits >> band * BAND_BITS & (1 << BAND_BITS) - 1) * BANDS + band for band in range(BANDS)]
        alike = [other for place in places for other, its in buckets[place] if (its ^ bits).bit_count() <= distance]
        if alike:
            found[clip] = min(alike)
        else:
            for place in places:
                buckets[place].append((clip, bits))
    return found
