"""The list of clips: which video has which caption."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cogvx_exp.config.schema import Data
from cogvx_exp.data.buckets import Bucket, choose_bucket
from cogvx_exp.data.demo import make_demo
from cogvx_exp.data.video import VideoInfo, probe_video
from cogvx_exp.errors import UserError


@dataclass(frozen=True)
class Row:
    """One line of a manifest."""

    number: int
    """Counted from 1, as a text editor does."""
    path: Path
    caption: str


@dataclass(frozen=True)
class Clip:
    """A row whose video can be used."""

    row: Row
    info: VideoInfo
    bucket: Bucket


def load_clips(data: Data) -> list[Clip]:
    """Reads the manifest and probes every video.

    Raises:
        UserError: the manifest cannot be read, or videos cannot be used (all of them are named).
    """
    rows = read_rows(data)
    clips, faults = [], []
    for row in rows:
        try:
            info = _probe(row.path)
            clips.append(Clip(row, info, choose_bucket(info, data)))
        except UserError as fault:
            faults.append(f"  row {row.number}, {row.path}: {fault}")
    if faults:
        raise UserError("\n".join([f"{len(faults)} of {len(rows)} clips in {data.root} cannot be used.", *faults]))
    return clips


def read_rows(data: Data) -> list[Row]:
    """Reads the captions and the videos' paths.

    Raises:
        UserError: a file is missing, or their lengths differ.
    """
    assert data.root is not None, "the config check asks for it"
    root = Path(data.root)
    if data.source == "demo":
        assert data.clips is not None
        make_demo(root, data.clips)
    captions = _lines(root / data.caption_column, "data.caption_column")
    videos = _lines(root / data.video_column, "data.video_column")
    if len(captions) != len(videos):
        raise UserError(
            f"{data.caption_column} has {len(captions)} lines and {data.video_column} has {len(videos)} in {root}; "
            "line N of one belongs to line N of the other"
        )
    if not captions:
        raise UserError(f"{root / data.caption_column} is empty; it needs one caption a line")
    token = f"{data.id_token} " if data.id_token else ""
    pairs = zip(captions, videos, strict=True)
    return [Row(number, root / video, f"{token}{caption}") for number, (caption, video) in enumerate(pairs, 1)]


def bucket_counts(clips: list[Clip]) -> dict[Bucket, int]:
    """How many clips each bucket has."""
    return dict(sorted(Counter(clip.bucket for clip in clips).items()))


def _lines(path: Path, setting: str) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; set data.root and {setting} to where it is") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def _probe(path: Path) -> VideoInfo:
    if not path.is_file():
        raise UserError("is not a file" if path.exists() else "does not exist")
    return probe_video(path)
