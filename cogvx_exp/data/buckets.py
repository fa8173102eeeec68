"""Buckets: the few shapes that clips are resized to, so that clips of one shape can form a batch."""

import math
from dataclasses import dataclass
from itertools import product

from cogvx_exp.config.schema import Data
from cogvx_exp.data.frames import usable_frames
from cogvx_exp.data.issues import ClipError
from cogvx_exp.media.video import VideoInfo


@dataclass(frozen=True, order=True, slots=True)
class Bucket:
    """A shape of clips."""

    num_frames: int
    height: int
    """Pixels."""
    width: int
    """Pixels."""

    def __str__(self) -> str:
        return f"{self.num_frames}x{self.height}x{self.width}"


def choose_bucket(info: VideoInfo, data: Data) -> Bucket:
    """The bucket of a clip: nearest in aspect ratio, then in area; the most frames the clip can fill.

    Raises:
        ClipError: the clip has fewer frames than the smallest bucket.
    """
    usable = usable_frames(info, data)
    fitting = [count for count in data.frame_buckets if count <= usable]
    if not fitting:
        raise ClipError(
            f"has {usable} usable frames; the smallest of data.frame_buckets is {min(data.frame_buckets)}",
            "remove it, or use a smaller bucket, less data.skip_frames_* or a higher data.fps",
        )

    def distance(size: tuple[int, int]) -> tuple[float, float]:
        height, width = size
        # In logarithms, so that twice as wide and half as wide are equally far.
        aspect = abs(math.log((width / height) / (info.width / info.height)))
        area = abs(math.log((width * height) / (info.width * info.height)))
        # Rounded, so that buckets of one aspect ratio tie and the area decides.
        return round(aspect, 6), area

    height, width = min(product(data.height_buckets, data.width_buckets), key=distance)
    return Bucket(max(fitting), height, width)
