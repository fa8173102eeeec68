"""Reads a whole video once and measures its frames. Runs in a worker process."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cogvx_exp.config.schema import Split
from cogvx_exp.media.readers import PyAvReader
from cogvx_exp.media.timeline import Timeline, read_timeline

SMALL = 144
"""Height in pixels of the frames that are measured."""
BRIGHT, ROW_BRIGHT = 99, 98
"""Percentiles: brightness of a frame, and of a row or column of pixels. Noise may be brighter."""
SAMPLES_PER_SECOND = 2.0
"""Frames that are examined for bars."""


@dataclass(frozen=True)
class Scan:
    """Measures of a video's frames."""

    timeline: Timeline
    cuts: list[int]
    """Indices of the first frames of scenes, except the first."""
    brightness: np.ndarray
    """Mean of each frame, 0 to 255, (frames,)."""
    peak: np.ndarray
    """Brightness of the brightest pixels of each frame, (frames,)."""
    change: np.ndarray
    """Mean absolute difference from the frame before; 0 for the first, (frames,)."""
    sampled: np.ndarray
    """Indices of the frames that were examined for bars, (samples,)."""
    rows: np.ndarray
    """Brightness of their rows of pixels, (samples, height)."""
    columns: np.ndarray
    """Brightness of their columns of pixels, (samples, width)."""


def scan_video(path: str, settings: Split) -> Scan:
    """Measures all frames of a video.

    Raises:
        ClipError: it cannot be decoded.
    """
    timeline = read_timeline(path)
    count = len(timeline.starts)
    step = max(round(count / timeline.duration / SAMPLES_PER_SECOND), 1)
    cuts = CutDetector(settings, count / timeline.duration)
    brightness, peak, change = np.zeros(count), np.zeros(count), np.zeros(count)
    sampled, rows, columns = [], [], []
    before: np.ndarray | None = None
    for index, frame in enumerate(PyAvReader(path, timeline, timeline.decoder).raw_frames(range(count))):
        small = timeline.geometry.picture(frame, SMALL)
        cuts.add(small)
        light = small.max(axis=2)
        brightness[index], peak[index] = light.mean(), np.percentile(light, BRIGHT)
        if before is not None:
            change[index] = np.abs(small.astype(np.int16) - before).mean()
        before = small.astype(np.int16)
        if settings.crop_bars and index % step == 0:
            whole = timeline.geometry.picture(frame).max(axis=2)
            sampled.append(index)
            rows.append(np.percentile(whole, ROW_BRIGHT, axis=1))
            columns.append(np.percentile(whole, ROW_BRIGHT, axis=0))
    sides = [np.array(values, dtype=np.float32) for values in (rows, columns)]
    return Scan(timeline, cuts.found(), brightness, peak, change, np.array(sampled, dtype=int), *sides)


class CutDetector:
    """PySceneDetect's detectors, given frames one after another."""

    PADDING = 2
    """The adaptive detector compares with this many frames on both sides, so the first and last are repeated."""

    def __init__(self, settings: Split, fps: float):
        self._detector, self._fps = _detector(settings), fps
        self._cuts: list[int] = []
        self._count = 0
        self._last: np.ndarray | None = None

    def add(self, frame: np.ndarray) -> None:
        """The next frame: uint8, (height, width, 3), RGB."""
        frame = np.ascontiguousarray(frame[:, :, ::-1])
        for _ in range(1 if self._count else 1 + self.PADDING):
            self._feed(frame)
        self._last = frame

    def found(self) -> list[int]:
        """Indices of the frames after the cuts; call it once, after the last frame."""
        if self._last is not None:
            frames = self._count - self.PADDING
            for _ in range(self.PADDING):
                self._feed(self._last)
            self._cuts += self._indices(self._detector.post_process(self._time()))
            return sorted({cut for cut in self._cuts if 0 < cut < frames})
        return []

    def _feed(self, frame: np.ndarray) -> None:
        self._cuts += self._indices(self._detector.process_frame(self._time(), frame))
        self._count += 1

    def _time(self) -> Any:
        from scenedetect import FrameTimecode

        return FrameTimecode(self._count, self._fps)

    def _indices(self, times: list[Any]) -> Iterator[int]:
        return (time.frame_num - self.PADDING for time in times)


def _detector(settings: Split) -> Any:
    """The chosen detector. It reports every cut, however short the scene: short scenes are left out later."""
    from scenedetect import detectors

    name, argument = {
        "adaptive": ("AdaptiveDetector", "adaptive_threshold"),
        "content": ("ContentDetector", "threshold"),
        "histogram": ("HistogramDetector", "threshold"),
        "hash": ("HashDetector", "threshold"),
    }[settings.detector]
    threshold = {} if settings.threshold is None else {argument: settings.threshold}
    return getattr(detectors, name)(min_scene_len=0, **threshold)
