"""Buckets: the few shapes that all clips are brought to, so that clips of one shape can form a batch."""

import math
from dataclasses import dataclass
from itertools import product

from cogvx_exp.config.schema import Data
from cogvx_exp.data.video import VideoInfo
from cogvx_exp.errors import UserError


@dataclass(frozen=True, order=True)
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
    """The bucket of a clip: nearest in aspect ratio, then in area; the most frames that the clip fills.

    Raises:
        UserError: the clip has fewer frames than the smallest bucket.
    """
    usable = usable_frames(info, data)
    fitting = [count for count in data.frame_buckets if count <= usable]
    if not fitting:
        smallest = min(data.frame_buckets)
        raise UserError(
            f"{usable} usable frames, but the smallest of data.frame_buckets is {smallest}; "
            "take the clip out, or use a smaller bucket, fewer data.skip_frames_* or a higher data.fps"
        )

    def distance(size: tuple[int, int]) -> tuple[float, float]:
        height, width = size
        aspect = abs(math.log((width / height) / (info.width / info.height)))
        area = abs(math.log((width * height) / (info.width * info.height)))
        return round(aspect, 6), area

    height, width = min(product(data.height_buckets, data.width_buckets), key=distance)
    return Bucket(max(fitting), height, width)


def usable_frames(info: VideoInfo, data: Data) -> int:
    """Frames that are left after skipping and, with data.fps, after resampling; at most max_num_frames."""
    kept = max(info.num_frames - data.skip_frames_start - data.skip_frames_end, 0)
    if data.fps is not None:
        kept = _frames_at(kept, info.fps, data.fps)
    return min(kept, data.max_num_frames)


def frame_indices(info: VideoInfo, data: Data, count: int) -> list[int]:
    """Which frames of a video form a clip of `count` frames.

    With data.fps they are the frames shown at equal times from the start; without it they are spread
    evenly over the whole video.
    """
    kept = info.num_frames - data.skip_frames_start - data.skip_frames_end
    if data.fps is not None:
        indices = [int(index * info.fps / data.fps + 0.5) for index in range(count)]
    else:
        stride = kept // count
        indices = [index * stride for index in range(count)]
    assert indices[-1] < kept, "usable_frames must have been asked first"
    return [data.skip_frames_start + index for index in indices]


def _frames_at(count: int, source_fps: float, target_fps: float) -> int:
    """How many frames at `target_fps` can be taken from `count` frames at `source_fps`."""
    return int((count - 0.5) * target_fps / source_fps - 1e-9) + 1 if count else 0
