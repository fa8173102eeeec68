"""Which frames of a video form a clip."""

from dataclasses import dataclass

import numpy as np

from cogvx_exp.config.schema import Data
from cogvx_exp.media.errors import cut_off
from cogvx_exp.media.video import VideoInfo


@dataclass(frozen=True, slots=True)
class FrameChoice:
    """How the frames of a clip are chosen."""

    count: int
    """Frames of the clip."""
    skip_start: int
    """Frames left out at the beginning of the video."""
    skip_end: int
    """Frames left out at the end."""
    fps: float | None
    """Frames a second; None: spread evenly over the video."""

    def indices(self, starts: np.ndarray) -> list[int]:
        """Ascending indices of the frames, given the time at which each is shown (seconds).

        By time, each is the frame nearest to its moment, so that a 30 fps and an 8 fps copy of a video
        give the same frames.

        Raises:
            ClipError: the video has too few frames.
        """
        kept = starts[self.skip_start : len(starts) - self.skip_end]
        if len(kept) < (self.count if self.fps is None else 1):
            raise cut_off(len(kept), self.count)
        if self.fps is None:
            chosen = spread(len(kept), self.count)
        else:
            moments = kept[0] + np.arange(self.count) / self.fps
            after = np.clip(np.searchsorted(kept, moments), 1, max(len(kept) - 1, 1))
            nearer = moments - kept[after - 1] <= kept[np.minimum(after, len(kept) - 1)] - moments
            chosen = np.where(nearer, after - 1, np.minimum(after, len(kept) - 1))
        return [int(index) + self.skip_start for index in chosen]

    def is_new(self, num_frames: int) -> bool:
        """Whether the choice from a video of `num_frames` is another than before frames were spread over all of it.

        What was encoded before is read where the choice is the same.
        """
        kept = num_frames - self.skip_start - self.skip_end
        before = np.arange(self.count) * (kept // self.count)
        return self.fps is None and not np.array_equal(spread(kept, self.count), before)


def spread(total: int, count: int) -> np.ndarray:
    """Indices of `count` of `total` frames from the first on, as evenly as can be: ascending and distinct.

    They are a whole number of frames apart, for even motion, where that leaves out less than another step at the
    end; otherwise the last is the last frame, and distances differ by at most one.
    """
    if count == 1:
        return np.zeros(1, dtype=int)
    step = (total - 1) // (count - 1)
    if total - 1 - step * (count - 1) < step:
        return np.arange(count) * step
    return np.floor(np.linspace(0, total - 1, count) + 0.5).astype(int)


def usable_frames(info: VideoInfo, data: Data) -> int:
    """Frames that are left after skipping and, with data.fps, after resampling; at most data.max_num_frames."""
    kept = max(info.num_frames - data.skip_frames_start - data.skip_frames_end, 0)
    if data.fps is not None and kept:
        last_start = info.duration * (kept - 1) / info.num_frames
        half_a_frame = 0.5 * info.duration / info.num_frames
        kept = int((last_start + half_a_frame) * data.fps + 1e-6) + 1
    return min(kept, data.max_num_frames)


def choose_frames(data: Data, count: int) -> FrameChoice:
    """The choice that the settings ask for."""
    return FrameChoice(count, data.skip_frames_start, data.skip_frames_end, data.fps)
