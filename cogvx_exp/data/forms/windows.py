"""Rows of a JSON Lines manifest that name a part of a video, or exclude it."""

import math
from pathlib import Path
from typing import Any

from cogvx_exp.config.schema.data import Source
from cogvx_exp.data.forms.rows import Found, LeftOut, find_file, make_row
from cogvx_exp.data.issues import ClipError, DataIssue, issue_of
from cogvx_exp.media.window import Window

WINDOW_KEYS = ("start", "end", "crop")
CROP_VALUES = 4
CAPTION_IT = "write it, or have it written: python -m cogvx_exp.prepare mode=caption"


def row_of_record(root: Path, number: int, record: dict[str, Any], source: Source) -> Found:
    """The row for a JSON object.

    Raises:
        KeyError: it has no video.
        TypeError: it is not an object.
    """
    video = record[source.video_column]
    keep = record.get("keep", True)
    name = video if isinstance(video, str) else ""
    if keep is False and name:
        return LeftOut(find_file(root, name), by_manifest=True)
    if keep is not True:
        return DataIssue(number, name, f"has keep: {keep!r}", "write true or false")
    try:
        window = window_of(record)
    except ClipError as error:
        return issue_of(number, name, error)
    if window and source.caption_column not in record:
        return DataIssue(number, name, f"has no {source.caption_column}", CAPTION_IT)
    return make_row(root, number, video, record[source.caption_column], window)


def window_of(record: dict[str, Any]) -> Window | None:
    """The window of a JSON object; None if it is the whole video.

    Raises:
        ClipError: its values are unusable.
    """
    start, end, crop = (record.get(key) for key in WINDOW_KEYS)
    if start is None and end is None and crop is None:
        return None
    for name, value in (("start", start), ("end", end)):
        if value is not None and not _is_time(value):
            raise ClipError(f"has {name}: {value!r}", "write seconds from the beginning of the video")
    begin = float(start or 0)
    if end is not None and end <= begin:
        raise ClipError(f"ends at {end:g} s, not after its start at {begin:g} s", "exchange or change them")
    if crop is not None and not _is_crop(crop):
        raise ClipError(f"has crop: {crop!r}", "write [left, top, width, height] in pixels")
    return Window(begin, None if end is None else float(end), tuple(crop) if crop else None)


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _is_crop(value: Any) -> bool:
    whole = isinstance(value, list) and all(isinstance(side, int) and not isinstance(side, bool) for side in value)
    return whole and len(value) == CROP_VALUES and min(value[:2]) >= 0 and min(value[2:]) > 0
