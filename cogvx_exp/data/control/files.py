"""Control videos from files: each is checked against its clip."""

import math

import numpy as np

from cogvx_exp.config.schema import Data
from cogvx_exp.data.control.reading import ControlFile, is_image, missing_seconds
from cogvx_exp.data.forms.rows import Row
from cogvx_exp.data.frames import choose_frames
from cogvx_exp.data.issues import ClipError, DataIssue, issue_of
from cogvx_exp.media.video import VideoInfo
from cogvx_exp.media.window import Window

ASPECT = 0.02
"""Tolerated relative difference of aspect ratios, which rounding to whole pixels can cause."""


def refuse_images(rows: list[Row], data: Data) -> tuple[list[Row], list[DataIssue]]:
    """The rows whose control is not an image, unless images are accepted, and the issues of the others."""
    if data.control_images:
        return rows, []
    fix = "give a video, or set data.control_images=true to use images as still control videos"
    issues = [
        DataIssue(row.number, str(row.control), "is an image, but a control video is needed", fix)
        for row in rows
        if row.control and is_image(row.control)
    ]
    faulty = {issue.row for issue in issues}
    return [row for row in rows if row.number not in faulty], issues


def pair(
    row: Row, info: VideoInfo, video: VideoInfo, frames: int, control: VideoInfo, data: Data
) -> ControlFile | DataIssue:
    """A clip's control video, or why it does not fit the clip.

    Args:
        row: the row.
        info: of the clip.
        video: of the clip's file, of which the clip may be a part.
        frames: frames of its bucket.
        control: of the control video.
        data: the settings.
    """
    assert row.control
    ratios = video.width / video.height, control.width / control.height
    if abs(math.log(ratios[0] / ratios[1])) > ASPECT:
        what = f"is {control.height}x{control.width}, another aspect ratio than its clip ({video.height}x{video.width})"
        return issue_of(row.number, row.control, ClipError(what, "crop or pad it like the clip"))
    starts = np.arange(info.num_frames) / info.fps
    last = starts[choose_frames(data, frames).indices(starts)[-1]] + (row.window.start if row.window else 0)
    missing = missing_seconds(float(last), control)
    if missing > 0:
        what = f"lasts {control.duration:.2f} s and ends before the last frame of its clip, at {last:.2f} s"
        return issue_of(row.number, row.control, ClipError(what, "use one that is as long as the clip"))
    return ControlFile(row.control, control, _same_part(row.window, video, control) if row.window else None)


def _same_part(window: Window, video: VideoInfo, control: VideoInfo) -> Window:
    """The part of a control video that belongs to a part of its video; it may have another size.

    Without the end: a control video may be half a frame shorter.
    """
    if window.crop is None:
        return Window(window.start)
    left, top, width, height = window.crop
    across, down = control.width / video.width, control.height / video.height
    first, top = round(left * across), round(top * down)
    width, height = round((left + width) * across) - first, round((window.crop[1] + height) * down) - top
    return Window(window.start, None, (first, top, max(width, 1), max(height, 1)))
