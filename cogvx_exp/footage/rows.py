"""Clips of a manifest, with or without captions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvx_exp.config.schema import Data
from cogvx_exp.core.files import fingerprint
from cogvx_exp.data.dataset import place_of
from cogvx_exp.data.forms.rows import find_file
from cogvx_exp.data.forms.windows import window_of
from cogvx_exp.data.index.examine import stamp_of_video
from cogvx_exp.data.index.files import content_hashes
from cogvx_exp.data.issues import ClipError, DataIssue, issue_of
from cogvx_exp.footage.manifest import Record
from cogvx_exp.media.window import Window


@dataclass(frozen=True)
class ClipRow:
    """A row of a manifest whose video exists."""

    number: int
    """Of the row, counted from 1."""
    path: str
    window: Window
    content: str = ""
    """Hash of the video."""

    def key(self, settings: dict[str, Any]) -> str:
        """Identifies a result for this clip that depends on `settings`."""
        return fingerprint({"video": self.content, "window": str(self.window), **settings})


def manifest_path(data: Data) -> Path:
    """The manifest of a dataset in JSON Lines."""
    assert data.root is not None
    assert data.dataset_file is not None
    return Path(data.root) / data.dataset_file


def clip_rows(
    records: Sequence[Record], wanted: Sequence[bool], data: Data, cache_dir: Path
) -> tuple[dict[int, ClipRow], list[DataIssue]]:
    """The wanted rows by their indices, and the issues of those whose video cannot be used."""
    root, place = manifest_path(data).parent, place_of(data)
    found: dict[int, ClipRow] = {}
    issues = []
    known: dict[str, ClipError | None] = {}
    for index, record in enumerate(records):
        if not wanted[index]:
            continue
        video = record.get(data.video_column)
        path = find_file(root, video) if isinstance(video, str) and video.strip() else ""
        try:
            if not path:
                raise ClipError(f"has no {data.video_column}", "add the path of its video, or set data.video_column")
            if not place.holds(path):
                raise ClipError("lies outside data.root", "move it there, or set data.allow_outside_root=true")
            if path not in known:
                known[path] = _problem(path)
            if (problem := known[path]) is not None:
                raise problem
            found[index] = ClipRow(index + 1, path, window_of(record) or Window())
        except ClipError as error:
            issues.append(issue_of(index + 1, path, error))
    hashes = content_hashes({row.path for row in found.values()}, cache_dir)
    return {index: ClipRow(row.number, row.path, row.window, hashes[row.path]) for index, row in found.items()}, issues


def _problem(path: str) -> ClipError | None:
    try:
        stamp_of_video(path)
    except ClipError as error:
        return error
    return None
