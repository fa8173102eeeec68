"""`mode=split`: long videos in, a manifest of clips out."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cogvx_exp.config.schema import PrepareJob, Split
from cogvx_exp.console.progress import console, progress
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import fingerprint
from cogvx_exp.data.dataset import place_of
from cogvx_exp.data.decoding import DecodingPool
from cogvx_exp.data.forms.folders import Search, split_controls
from cogvx_exp.data.forms.rows import VIDEO_ENDINGS
from cogvx_exp.data.index.examine import stamp_of_video
from cogvx_exp.data.index.files import content_hashes
from cogvx_exp.data.issues import ClipError, DataIssue, issue_of
from cogvx_exp.footage.journal import Journal
from cogvx_exp.footage.manifest import Record, locked, read_manifest, write_manifest
from cogvx_exp.footage.split.clips import find_clips
from cogvx_exp.footage.split.files import write_clip
from cogvx_exp.footage.split.scan import scan_video
from cogvx_exp.footage.stage import raise_on_issues, share

VERSION = 1
"""Increase it when the same settings give other clips."""


class SplitStage:
    """Finds the clips of the videos below data.root that the manifest does not have yet.

    Raises:
        UserError: there are no videos, or the manifest cannot be read.
    """

    def __init__(self, job: PrepareJob):
        assert job.data.root is not None
        self._job, self._root = job, Path(job.data.root)
        self._manifest = self._root / job.split.dataset_file
        videos, self._issues, self._controls = _find_videos(job, self._root)
        if not videos and not self._issues:
            raise UserError(f"data.root={self._root} has no videos ({', '.join(sorted(VIDEO_ENDINGS))})")
        if self._controls and job.split.write:
            raise UserError("split.write=true does not cut control videos; leave it out: rows name parts of both")
        self._videos = dict(enumerate(videos))
        known = {_source(record) for record in self._rows()}
        new = [video for video in videos if _relative(video, self._root) not in known]
        if len(new) < len(videos):
            kept = len(videos) - len(new)
            console.print(
                f"{self._manifest} has clips of {kept} of {len(videos)} videos already, which are kept; remove it to "
                "start again"
            )
        hashes = content_hashes(new, job.cache_dir)
        settings = job.split.model_dump(exclude={"timeout", "dataset_file"})
        self._keys = {
            video: fingerprint({"version": VERSION, "video": hashes[video], "split": settings, "name": video})
            for video in new
        }

    def work(self, rank: int, world_size: int) -> None:
        """See `Stage`."""
        job, journal = self._job, self._journal(rank)
        done = journal.load()
        mine = share(self._videos, rank, world_size, block=1)
        missing = [video for video in mine if video in self._keys and self._keys[video] not in done]
        issues = [] if rank else list(self._issues)
        workers = min(job.data.decode_workers, max(len(missing), 1))
        with DecodingPool(workers, job.split.timeout, "split.timeout") as pool:
            tasks = ((video, str(self._root), job.split) for video in missing)
            found = progress("Splitting videos", pool.map(split_video, tasks), len(missing))
            for video, result in zip(missing, found, strict=True):
                if isinstance(result, ClipError):
                    issues.append(issue_of(None, video, result))
                else:
                    journal.append([(self._keys[video], result)])
        report = job.cache_dir / (f"faults-{rank}.csv" if rank else "faults.csv")
        raise_on_issues(issues, job.data, report, ("video", "could not be split"))

    def merge(self) -> None:
        """See `Stage`."""
        done = self._journal().load()
        results = {video: done[key] for video, key in self._keys.items() if key in done}
        with locked(self._manifest):
            rows = self._rows()
            known = {_source(record) for record in rows}
            new = {video: found for video, found in results.items() if _relative(video, self._root) not in known}
            added = [clip | self._controls.get(video, {}) for video, found in new.items() for clip in found["clips"]]
            if added:
                write_manifest(self._manifest, rows + added)
        if not rows and not added and results:
            raise UserError(
                f"no clip was found; videos: {len(results)} ({_dropped(new.values()) or 'they have no frames'}); "
                "lower split.seconds, split.still or split.black"
            )
        if new:
            dropped = _dropped(new.values())
            console.print(f"clips: {len(added)}, videos: {len(new)}" + (f"; not used: {dropped}" if dropped else ""))
        console.result(f"Manifest: {self._manifest} ({len(rows) + len(added)} clips)")

    def _rows(self) -> list[Record]:
        return read_manifest(self._manifest) if self._manifest.exists() else []

    def _journal(self, rank: int = 0) -> Journal:
        return Journal(self._job.cache_dir / "footage" / "split", rank)


def split_video(video: str, root: str, settings: Split) -> dict[str, Any]:
    """The rows of a video's clips, and the seconds that are dropped; writes the clips if that is set.

    Raises:
        ClipError: it cannot be decoded.
        OSError: a clip cannot be written.
    """
    scan = scan_video(video, settings)
    found = find_clips(scan, settings)
    name = _relative(video, Path(root))
    rows: list[Record] = [{"video": name, **clip} for clip in found.clips]
    if settings.write:
        rows = [write_clip(row, number, Path(root), scan.timeline, settings) for number, row in enumerate(rows, 1)]
    return {"clips": rows, "dropped": found.dropped}


def _find_videos(job: PrepareJob, root: Path) -> tuple[list[str], list[DataIssue], dict[str, Record]]:
    """Paths of the videos below the root, without the clips that were written there, and the columns that name the
    control videos of each.
    """
    if not root.is_dir():
        raise UserError(f"data.root={root} is not a folder; set it to the folder of the videos")
    search = Search(place_of(job.data)).run()
    issues, clips = list(search.issues), root / job.split.clips_dir
    found, of_videos = split_controls(search.videos, (job.data.control_column, job.data.mask_column))
    controls: dict[str, Record] = {}
    for (video, word), control in of_videos.items():
        controls.setdefault(str(video), {})[word] = _relative(str(control), root)
    videos = []
    for path in sorted(found):
        if clips in path.parents:
            continue
        try:
            stamp_of_video(str(path))
            videos.append(str(path))
        except ClipError as error:
            issues.append(issue_of(None, str(path), error))
    return videos, issues, controls


def _source(record: Record) -> object:
    """The video from which a row's clip is."""
    return record.get("source", record.get("video"))


def _relative(video: str, root: Path) -> str:
    return os.path.relpath(video, root)


def _dropped(results: Iterable[dict[str, Any]]) -> str:
    seconds: Counter[str] = Counter()
    for result in results:
        seconds.update(result["dropped"])
    return ", ".join(f"{value:.1f} s {reason}" for reason, value in seconds.most_common())
