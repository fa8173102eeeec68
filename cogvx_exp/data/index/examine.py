"""Information about all videos of a dataset, from the index or by probing them."""

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
from cogvx_exp.media.video import VideoInfo, probe_video

logger = logging.getLogger(__name__)


def examine_videos(
    rows: list[Row], data: Data, cache_dir: Path, probe: Callable[[str], VideoInfo] = probe_video
) -> tuple[dict[str, VideoInfo], list[DataIssue]]:
    """Information about each video; videos not in the index are probed in worker processes, by `probe`."""
    stamps: dict[str, Stamp] = {}
    issues = []
    for row in rows:
        try:
            stamps[row.path] = file_stamp(row.path)
        except ClipError as error:
            issues.append(issue_of(row.number, row.path, error))
    with FileIndex(cache_dir / "index.sqlite") as index:
        infos = index.infos(list(stamps.values()))
        unknown = [path for path in stamps if path not in infos]
        failed: dict[str, ClipError] = {}
        logger.info("videos: %d known in the index, %d to examine", len(infos), len(unknown))
        if unknown:
            workers = min(data.decode_workers, len(unknown))
            with DecodingPool(workers, data.decode_timeout) as pool:
                results = pool.map(probe, ((path,) for path in unknown))
                for path, result in zip(unknown, progress("Reading videos", results, len(unknown)), strict=True):
                    if isinstance(result, ClipError):
                        failed[path] = result
                    else:
                        infos[path] = result
                        logger.debug("%s: %s", path, result)
            index.add_infos((stamps[path], infos[path]) for path in unknown if path in infos)
    issues += [issue_of(row.number, row.path, failed[row.path]) for row in rows if row.path in failed]
    return infos, issues


def file_stamp(path: str) -> Stamp:
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
