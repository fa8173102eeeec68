"""Which frames of a video form a clip."""

from dataclasses import dataclass

import numpy as np

from cogvx_exp.config.schema import Data
from cogvx_exp.data.video import VideoInfo


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
        """
        kept = starts[self.skip_start : len(starts) - self.skip_end]
        if self.fps is None:
            chosen = np.arange(self.count) * (len(kept) // self.count)
        else:
            moments = kept[0] + np.arange(self.count) / self.fps
            after = np.clip(np.searchsorted(kept, moments), 1, max(len(kept) - 1, 1))
            nearer = moments - kept[after - 1] <= kept[np.minimum(after, len(kept) - 1)] - moments
            chosen = np.where(nearer, after - 1, np.minimum(after, len(kept) - 1))
        return [int(index) + self.skip_start for index in chosen]


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
