"""Selection of a clip's frames from a video."""

from dataclasses import dataclass

import numpy as np

from cogvx_exp.config.schema import Data
from cogvx_exp.media.errors import cut_off
from cogvx_exp.media.video import VideoInfo


@dataclass(frozen=True, slots=True)
class FrameChoice:
    """How a clip's frames are selected."""

    count: int
    """Number of frames of the clip."""
    skip_start: int
    """Frames skipped at the beginning of the video."""
    skip_end: int
    """Frames skipped at the end."""
    fps: float | None
    """Frames per second; None: spread evenly over the video."""

    def indices(self, starts: np.ndarray) -> list[int]:
        """Ascending frame indices, given each frame's display time in seconds.

        With `fps`, the frame nearest to each sampling time is taken, so 30 fps and 8 fps copies of a video give the
        same frames.

        Raises:
            ClipError: the video has too few frames.
        """
        kept = starts[self.skip_start : len(starts) - self.skip_end]
        if len(kept) < (self.count if self.fps is None else 1):
            raise cut_off(len(kept), self.count)
        if self.fps is None:
            chosen = spread(len(kept), self.count)
        else:
            # By display time and not by index: a variable frame rate would otherwise speed up and slow down the motion.
            chosen = nearest(kept, kept[0] + np.arange(self.count) / self.fps)
        return [int(index) + self.skip_start for index in chosen]

    def is_new(self, num_frames: int) -> bool:
        """Whether the selection differs from that of older versions, which did not spread frames over the whole video.

        Cache entries of older versions are still used where the selection is the same.
        """
        kept = num_frames - self.skip_start - self.skip_end
        before = np.arange(self.count) * (kept // self.count)
        return self.fps is None and not np.array_equal(spread(kept, self.count), before)


def nearest(starts: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Indices of the frames whose display times are nearest to the moments, (moments,)."""
    last = len(starts) - 1
    after = np.clip(np.searchsorted(starts, moments), 1, max(last, 1))
    nearer = moments - starts[after - 1] <= starts[np.minimum(after, last)] - moments
    return np.where(nearer, after - 1, np.minimum(after, last))


def spread(total: int, count: int) -> np.ndarray:
    """Indices of `count` of `total` frames starting with the first, spread evenly: ascending and distinct.

    The interval is a whole number of frames, for even motion, if that skips less than another interval at the end;
    otherwise the last index is the last frame, and intervals differ by at most one.
    """
    if count == 1:
        return np.zeros(1, dtype=int)
    step = (total - 1) // (count - 1)
    if total - 1 - step * (count - 1) < step:
        return np.arange(count) * step
    # Not np.round, which rounds halves to even, so that intervals would alternate.
    return np.floor(np.linspace(0, total - 1, count) + 0.5).astype(int)


def usable_frames(info: VideoInfo, data: Data) -> int:
    """Frames left after skipping and, with data.fps, resampling; at most data.max_num_frames."""
    kept = max(info.num_frames - data.skip_frames_start - data.skip_frames_end, 0)
    if data.fps is not None and kept:
        # Sampling times end with the last frame's start: a clip must not end in several copies of it.
        last_start = info.duration * (kept - 1) / info.num_frames
        half_a_frame = 0.5 * info.duration / info.num_frames
        kept = int((last_start + half_a_frame) * data.fps + 1e-6) + 1  # 1e-6: rounding must not lose a frame
    return min(kept, data.max_num_frames)


def choose_frames(data: Data, count: int) -> FrameChoice:
    """The selection given by the settings."""
    return FrameChoice(count, data.skip_frames_start, data.skip_frames_end, data.fps)
