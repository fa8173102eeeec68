"""Decodes clips together with their control videos, and control videos alone for sampling."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cogvx_exp.config.schema import Data
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.data.control.recipes import Recipe, recipe_of
from cogvx_exp.data.decoding import read_clip
from cogvx_exp.data.frames import FrameChoice, nearest
from cogvx_exp.data.index.examine import stamp_of_video
from cogvx_exp.data.resize import ResizeSpec, fit_frame
from cogvx_exp.data.start_image import to_rgb
from cogvx_exp.media.errors import REENCODE
from cogvx_exp.media.readers import Reader
from cogvx_exp.media.video import ClipError, VideoInfo, open_part, probe_video
from cogvx_exp.media.window import Window, WindowReader, parse_name

IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
STILL = "image"
"""`VideoInfo.decoder` of a control that is an image."""


@dataclass(frozen=True)
class ControlFile:
    """A control video in a file."""

    path: str
    info: VideoInfo
    """Of the whole file."""
    window: Window | None = None
    """The part that belongs to the clip, if the clip is a part of a video."""

    @property
    def key(self) -> str:
        """Names it like `Row.key`."""
        return f"{self.path}#{self.window}" if self.window else self.path


@dataclass(frozen=True)
class ClipFrames:
    """A decoded clip: uint8, (frames, height, width, 3)."""

    clip: np.ndarray
    control: np.ndarray | None = None
    """Its control video, of the same shape."""


def control_source(data: Data, file: ControlFile | None) -> ControlFile | Recipe | None:
    """Where a clip's control video comes from; None if the task needs none. `file`: the clip's own, if there is one."""
    if data.control in (None, "files", "masks"):
        return file
    return recipe_of(data.control, data.control_kwargs)


def is_image(path: str) -> bool:
    """Whether a file is an image, by its name."""
    return Path(path).suffix.lower() in IMAGE_ENDINGS


def probe_control(path: str) -> VideoInfo:
    """Size, length and rate of a control video, or the size of an image.

    Raises:
        ClipError: it cannot be read.
    """
    if not is_image(path):
        return probe_video(path)
    height, width = _image(path).shape[:2]
    return VideoInfo(1, height, width, 0.0, 0.0, STILL)


def probe_controls(path: str, windows: tuple[Window | None, ...]) -> list[VideoInfo | ClipError]:
    """`probe_control` for the rows of a control video."""
    return [probe_control(path)] * len(windows)


def read_with_control(
    path: str,
    choice: FrameChoice,
    bucket: Bucket,
    fit: ResizeSpec,
    known: VideoInfo | None,
    control: ControlFile | Recipe | None,
    window: Window | None = None,
) -> ClipFrames:
    """Decodes a clip and its control video: the same moments, crop and flip.

    Args:
        path: the clip.
        choice: its frames.
        bucket: the target size.
        fit: how frames are resized.
        known: result of an earlier probe of the clip.
        control: the control's file, or how it is computed from the clip's frames.
        window: the part of the video that is the clip.

    Raises:
        ClipError: one of them cannot be decoded, or the control video ends before the clip.
    """
    clip = read_clip(path, choice, bucket, fit, known, window)
    if control is None:
        return ClipFrames(clip)
    if isinstance(control, Recipe):
        return ClipFrames(clip, control.apply(clip))
    reader = open_part(path, window, known)
    moments = begin_of(reader) + reader.starts[choice.indices(reader.starts)]
    try:
        return ClipFrames(clip, _frames_at(control, moments, bucket, fit))
    except ClipError as error:
        raise ClipError(f"has a control video {control.path} that {error.what}", error.fix) from None


def read_control(name: str, count: int, times: tuple[float, ...] | None, bucket: Bucket, fit: ResizeSpec) -> np.ndarray:
    """A control video for sampling: uint8, (count, height, width, 3), at the given times or spread over it.

    Args:
        name: `ControlFile.key`, or `Row.key` of a clip.
        count: number of frames.
        times: their times, in seconds from the first frame of the video or its part.
        bucket: the target size.
        fit: how frames are resized.

    Raises:
        ClipError: it cannot be decoded, or is too short.
    """
    path, window = parse_name(name)
    stamp_of_video(path)
    control = ControlFile(path, probe_control(path), window)
    if control.info.decoder == STILL:
        return _frames_at(control, np.zeros(count), bucket, fit)
    part = open_part(path, window, control.info)
    moments = np.linspace(0, part.starts[-1], count) if times is None else np.array(times)
    return _frames_at(control, begin_of(part) + moments, bucket, fit)


def begin_of(reader: Reader) -> float:
    """Time of a reader's first frame, in seconds from the beginning of its file."""
    return reader.begin if isinstance(reader, WindowReader) else 0.0


def missing_seconds(last: float, control: VideoInfo) -> float:
    """How much too early a control video ends for a clip whose last frame is shown at `last` seconds; at most 0 if it
    does not. Half a frame is tolerated.
    """
    if control.decoder == STILL:
        return 0.0
    frame = control.duration / control.num_frames
    return last - (control.duration - frame) - frame / 2 - 1e-3


def _frames_at(control: ControlFile, moments: np.ndarray, bucket: Bucket, fit: ResizeSpec) -> np.ndarray:
    """The control's frames nearest to these times, in seconds from the beginning of its file."""
    if control.info.decoder == STILL:
        still = fit_frame(_image(control.path, control.window), bucket, fit)
        return np.repeat(still[None], len(moments), axis=0)
    missing = missing_seconds(float(moments[-1]), control.info)
    if missing > 0:
        raise ClipError(
            f"ends {missing:.2f} s before the last frame of the clip", "use one that is as long, or set data.fps"
        )
    reader = open_part(control.path, control.window, control.info)
    try:
        wanted = nearest(reader.starts, moments - begin_of(reader)).tolist()
        frames = dict(zip(sorted(set(wanted)), reader.frames(sorted(set(wanted))), strict=True))
        return np.stack([fit_frame(frames[index], bucket, fit) for index in wanted])
    except ClipError:
        raise
    except Exception:  # decord raises errors of several classes
        raise ClipError("has damaged frames that cannot be decoded", REENCODE) from None


def _image(path: str, window: Window | None = None) -> np.ndarray:
    """The pixels of an image, or those of the window's crop."""
    try:
        with Image.open(path) as opened:
            image = to_rgb(opened)
        left, top, width, height = (window and window.crop) or (0, 0, *image.size)
        return np.asarray(image)[top : top + height, left : left + width]
    except Exception as error:  # Pillow raises many error classes
        raise ClipError(f"cannot be opened as an image ({type(error).__name__})", "save it as PNG again") from None
