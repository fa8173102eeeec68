"""From the measures of a video's frames to its clips."""

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from cogvx_exp.config.schema import Split
from cogvx_exp.footage.split.scan import Scan
from cogvx_exp.media.timeline import Timeline

FLASH_FRAMES = 3
"""Maximum length of a flash."""
STILL_SECONDS = 1.0
BLUR = 2
"""Pixels next to a bar that are cropped as well, because codecs blur its edge."""
SMALLEST_CROP = 0.25
"""Of the area. If less is bright, the picture is dark and has no bars."""
EDGE, EDGE_ROWS = 2.0, 8
"""Within this many rows of a bar the picture must be brighter than black by this factor: a dark picture gets brighter
slowly."""

Piece = tuple[int, int]
"""First frame, and the frame after the last."""


@dataclass(frozen=True)
class Found:
    """The clips of a video."""

    clips: list[dict[str, object]]
    """Their `start`, `end` and `crop`, as in a manifest."""
    dropped: dict[str, float] = field(default_factory=dict)
    """Seconds that are in no clip, by the reason."""


def find_clips(scan: Scan, settings: Split) -> Found:
    """Divides scenes into clips, without the frames that are dropped."""
    count = len(scan.timeline.starts)
    ends = ends_of(scan.timeline)
    scenes = list(pairwise([0, *scan.cuts, count]))
    reasons = _reasons(scan, scenes, settings)
    seconds: dict[str, float] = defaultdict(float)
    for index in np.flatnonzero(reasons != ""):
        seconds[str(reasons[index])] += float(ends[index] - scan.timeline.starts[index])
    clips: list[dict[str, object]] = []
    for scene in scenes:
        for run in _runs(reasons == "", scene):
            pieces = divide(run, scan.timeline, settings.seconds)
            inside = sum(float(ends[last - 1] - scan.timeline.starts[first]) for first, last in pieces)
            seconds["too short"] += float(ends[run[1] - 1] - scan.timeline.starts[run[0]]) - inside
            clips += [_clip(piece, scan, settings) for piece in pieces]
    return Found(clips, {reason: round(value, 3) for reason, value in seconds.items() if round(value, 3) > 0})


def ends_of(timeline: Timeline) -> np.ndarray:
    """When each frame ends, seconds, (frames,)."""
    return np.append(timeline.starts[1:], timeline.duration)


def divide(run: Piece, timeline: Timeline, seconds: list[float]) -> list[Piece]:
    """A run of frames in equal pieces, of at most the maximum length; what is left is shorter than the minimum."""
    shortest, longest = seconds
    first, last = run
    starts, ends = timeline.starts, ends_of(timeline)
    length = float(ends[last - 1] - starts[first])
    tolerance = 1e-6
    number = int(np.ceil(length / longest - tolerance))
    if length / number < shortest - tolerance:
        number -= 1
        length = number * longest
    if number < 1:
        return []
    # A frame belongs to the piece in which it starts.
    marks = starts[first] + np.arange(number + 1) * length / number
    places = np.searchsorted(starts[first:last], marks - tolerance) + first
    return [(int(begin), int(end)) for begin, end in pairwise(places)]


def _clip(piece: Piece, scan: Scan, settings: Split) -> dict[str, object]:
    first, last = piece
    start, end = scan.timeline.starts[first], ends_of(scan.timeline)[last - 1]
    clip: dict[str, object] = {"start": round(float(start), 6), "end": round(float(end), 6)}
    if settings.crop_bars and (crop := _without_bars(piece, scan, settings.black)):
        clip["crop"] = list(crop)
    return clip


def _reasons(scan: Scan, scenes: list[Piece], settings: Split) -> np.ndarray:
    """Why each frame is dropped; empty if it is not, (frames,)."""
    reasons = np.full(len(scan.brightness), "", dtype="<U8")
    for scene in scenes:
        reasons[_still(scene, scan, settings.still)] = "still"
    reasons[_flashes(scan.brightness, settings.flash)] = "flash"
    reasons[scan.peak < settings.black] = "black"
    return reasons


def _still(scene: Piece, scan: Scan, limit: float) -> np.ndarray:
    """Frames of a scene within a second in which hardly anything changes: indices.

    The mean of a second is compared, since a keyframe changes a still picture a little, and frames are repeated where
    a film was converted to a higher rate.
    """
    first, last = scene
    rate = len(scan.change) / scan.timeline.duration
    length = max(round(STILL_SECONDS * rate), 1)
    change = scan.change[first + 1 : last]  # the first change is the cut
    if len(change) < length:
        return np.zeros(0, dtype=int)
    means = np.convolve(change, np.ones(length) / length, mode="valid")
    still = [np.arange(begin, begin + length + 1) for begin in np.flatnonzero(means < limit)]
    return np.unique(np.concatenate(still)) + first if still else np.zeros(0, dtype=int)


def _flashes(brightness: np.ndarray, limit: float) -> list[int]:
    """Indices of frames that are much brighter than those before and after."""
    found: list[int] = []
    if not limit:
        return found
    for length in range(1, FLASH_FRAMES + 1):
        for first in range(1, len(brightness) - length):
            around = max(brightness[first - 1], brightness[first + length])
            if brightness[first : first + length].min() > around + limit:
                found += range(first, first + length)
    return found


def _runs(kept: np.ndarray, scene: Piece) -> list[Piece]:
    """Runs of kept frames within a scene."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], kept[slice(*scene)], [False]]).astype(int))) + scene[0]
    return [(int(begin), int(end)) for begin, end in zip(edges[::2], edges[1::2], strict=True)]


def _without_bars(piece: Piece, scan: Scan, black: float) -> tuple[int, int, int, int] | None:
    """Left, top, width and height of the picture between black bars; None if there are none."""
    inside = (scan.sampled >= piece[0]) & (scan.sampled < piece[1])
    if not inside.any():
        return None
    height, width = scan.timeline.size
    top, bottom = _borders(scan.rows[inside].max(axis=0), black)
    left, right = _borders(scan.columns[inside].max(axis=0), black)
    crop = (left, top, width - left - right, height - top - bottom)
    if not any((top, bottom, left, right)) or crop[2] * crop[3] < SMALLEST_CROP * height * width:
        return None
    return crop


def _borders(brightness: np.ndarray, black: float) -> tuple[int, int]:
    """Pixels to crop at both ends of a row or column of brightness values."""
    bright = np.flatnonzero(brightness >= black)
    if not len(bright):
        return 0, 0
    before, after = int(bright[0]), int(len(brightness) - 1 - bright[-1])
    sides = (before, brightness[before : before + EDGE_ROWS]), (after, brightness[::-1][after : after + EDGE_ROWS])
    return tuple(size + BLUR if size and edge.max() > EDGE * black else 0 for size, edge in sides)  # type: ignore[return-value]
