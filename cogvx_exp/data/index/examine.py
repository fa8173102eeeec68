"""Examines the videos of a dataset, in worker processes; what is known from earlier runs is not read again."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

from cogvx_exp.config.schema import Data
from cogvx_exp.console.progress import progress
from cogvx_exp.data.decoding import DecodingPool
from cogvx_exp.data.forms.rows import Row
from cogvx_exp.data.index.files import FileIndex, Stamp, stamp_of
from cogvx_exp.data.issues import ClipError, DataIssue, issue_of
from cogvx_exp.media.video import VideoInfo, probe_windows
from cogvx_exp.media.window import Window

logger = logging.getLogger(__name__)


Probe = Callable[[str, tuple[Window | None, ...]], list[VideoInfo | ClipError]]
"""Examines parts of a video (None: all of it)."""


def examine_videos(
    rows: list[Row], data: Data, cache_dir: Path, probe: Probe = probe_windows
) -> tuple[dict[str, VideoInfo], list[DataIssue]]:
    """Information about each clip by its key; clips not in the index are probed in worker processes, by `probe`."""
    stamps: dict[str, Stamp] = {}
    of_files: dict[str, Stamp | ClipError] = {}
    failed: dict[str, ClipError] = {}
    for row in rows:
        if row.path not in of_files:
            of_files[row.path] = _stamp_or_issue(row.path)
        stamp = of_files[row.path]
        if isinstance(stamp, ClipError):
            failed[row.key] = stamp
        else:
            stamps[row.key] = (row.key, *stamp[1:])
    with FileIndex(cache_dir / "index.sqlite") as index:
        infos = index.infos(list(stamps.values()))
        unknown: dict[str, dict[str, Window | None]] = {}
        for row in rows:
            if row.key in stamps and row.key not in infos:
                unknown.setdefault(row.path, {})[row.key] = row.window
        logger.info("clips: %d known in the index, videos to examine: %d", len(infos), len(unknown))
        if unknown:
            workers = min(data.decode_workers, len(unknown))
            with DecodingPool(workers, data.decode_timeout) as pool:
                tasks = ((path, tuple(windows.values())) for path, windows in unknown.items())
                results = progress("Reading videos", pool.map(probe, tasks), len(unknown))
                for (path, windows), result in zip(unknown.items(), results, strict=True):
                    logger.debug("%s: %s", path, result)
                    of_windows = [result] * len(windows) if isinstance(result, ClipError) else result
                    for key, info in zip(windows, of_windows, strict=True):
                        (failed if isinstance(info, ClipError) else infos)[key] = info
            examined = (key for windows in unknown.values() for key in windows)
            index.add_infos((stamps[key], infos[key]) for key in examined if key in infos)
    return infos, [issue_of(row.number, row.path, failed[row.key]) for row in rows if row.key in failed]


def _stamp_or_issue(path: str) -> Stamp | ClipError:
    try:
        return stamp_of_video(path)
    except ClipError as error:
        return error


def stamp_of_video(path: str) -> Stamp:
    """The stamp of a readable file.

    Raises:
        ClipError: it is not a readable file.
    """
    take_out = "fix the path or remove the row"
    try:
        if os.path.isdir(path):
            raise ClipError("is a folder, not a file", take_out)
        if not os.path.isfile(path):
            raise ClipError("does not exist" if not os.path.exists(path) else "is not a file", take_out)
        stamp = stamp_of(path)
    except OSError as error:
        raise ClipError(f"cannot be accessed ({error.strerror})", take_out) from None
    if stamp[1] == 0:
        raise ClipError("is empty (0 bytes)", "copy it again or remove the row")
    if not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
        raise ClipError("is not readable", "change its permissions (chmod +r)")
    return stamp
