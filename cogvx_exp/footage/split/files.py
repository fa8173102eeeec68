"""Writes clips as files of their own."""

import subprocess
from contextlib import suppress
from pathlib import Path

import numpy as np

from cogvx_exp.config.schema import Split
from cogvx_exp.core.disk import try_disk
from cogvx_exp.footage.manifest import Record
from cogvx_exp.media.errors import ClipError
from cogvx_exp.media.readers import Reader
from cogvx_exp.media.timeline import DECORD, Timeline
from cogvx_exp.media.video import open_video
from cogvx_exp.media.window import TOLERANCE, Window, WindowReader

SAME = 1.0
"""Mean difference of 255 up to which the frames of a copied clip are those of the video."""


def write_clip(row: Record, number: int, root: Path, timeline: Timeline, settings: Split) -> Record:
    """Writes the clip of a row; returns the row of the file.

    Raises:
        ClipError: its frames cannot be decoded.
        OSError: it cannot be written.
    """
    video = root / row["video"]
    folder = (root / settings.clips_dir / row["video"]).parent
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{video.name}-{number:04d}.mp4"
    crop = tuple(row["crop"]) if "crop" in row else None
    window = Window(row["start"], row["end"], crop)
    if not (_starts_at_keyframe(window, timeline) and _copied(video, path, window)):
        _encode(video, path, window)
    return {"video": str(path.relative_to(root)), "source": row["video"], "seconds": [row["start"], row["end"]]}


def _starts_at_keyframe(window: Window, timeline: Timeline) -> bool:
    """Whether packets may be copied: a closed group of pictures in a common container begins with the window."""
    if window.crop or timeline.decoder != DECORD or timeline.entries is None or timeline.timestamps is None:
        return False
    first = int(np.searchsorted(timeline.starts, window.start - TOLERANCE))
    return bool(np.isin(timeline.timestamps[first], timeline.entries))


def _copied(video: Path, path: Path, window: Window) -> bool:
    """Copies the packets of a window; keeps the file only if it has exactly the frames of the window."""
    wanted = WindowReader(str(video), window)
    seek = ("-ss", f"{window.start + TOLERANCE:.6f}", "-i", str(video), "-frames:v", str(len(wanted.starts)))
    beside = path.with_name(f".{path.name}")
    # An edit list would have players show what decoders do not, and the other way round.
    plain = ("-avoid_negative_ts", "make_zero", "-use_editlist", "0")
    ran = _ffmpeg(*seek, "-map", "0:v:0", "-c", "copy", *plain, str(beside))
    with suppress(ClipError):
        if ran.returncode == 0 and _same(open_video(str(beside)), wanted):
            beside.replace(path)
            return True
    beside.unlink(missing_ok=True)
    return False


def _same(copy: Reader, wanted: WindowReader) -> bool:
    count = len(wanted.starts)
    if len(copy.starts) != count or copy.size != wanted.size:
        return False
    ends = [0, count - 1]
    pairs = zip(copy.frames(ends), wanted.frames(ends), strict=True)
    return all(np.abs(one.astype(int) - other).mean() < SAME for one, other in pairs)


def _encode(video: Path, path: Path, window: Window) -> None:
    """Encodes the frames of a window at their mean rate."""
    import imageio_ffmpeg

    reader = WindowReader(str(video), window)
    count, (height, width) = len(reader.starts), reader.size
    even = (width - width % 2, height - height % 2)  # as yuv420p wants it
    beside = path.with_name(f".{path.name}")
    options = ["-crf", "12"]
    writer = imageio_ffmpeg.write_frames(
        str(beside), even, fps=count / reader.duration, codec="libx264", macro_block_size=1, output_params=options,
        ffmpeg_log_level="error",
    )  # fmt: skip
    writer.send(None)
    try:
        for frame in reader.frames(range(count)):
            writer.send(np.ascontiguousarray(frame[: even[1], : even[0]]))
        writer.close()
        if len(open_video(str(beside)).starts) != count:
            raise OSError(f"ffmpeg could not write {path}")
    except (OSError, ClipError):
        beside.unlink(missing_ok=True)
        try_disk(path.parent)
        raise
    beside.replace(path)


def _ffmpeg(*arguments: str) -> "subprocess.CompletedProcess[bytes]":
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *arguments]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
