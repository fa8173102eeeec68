"""From sources to clips: each row is probed and gets a bucket, or is an issue. No video is fully decoded."""

import os
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from cogvx_exp.config.schema import Data
from cogvx_exp.console.terminal import PlainConsole, visible
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import fingerprint, make_folder
from cogvx_exp.data.buckets import Bucket, choose_bucket
from cogvx_exp.data.control.files import pair, refuse_images
from cogvx_exp.data.control.reading import ControlFile, probe_controls
from cogvx_exp.data.factory_latents import LatentFiles, check_control, latent_files, latent_info
from cogvx_exp.data.forms.rows import LeftOut, Place, Row, find_file
from cogvx_exp.data.forms.sources import read_source
from cogvx_exp.data.index.examine import examine_videos
from cogvx_exp.data.issues import ClipError, DataIssue, issue_of, print_issues, write_issues
from cogvx_exp.media.video import VideoInfo


@dataclass(frozen=True, slots=True)
class Clip:
    """A row whose video can be used."""

    row: Row
    source: int
    """Index of the source."""
    info: VideoInfo
    bucket: Bucket
    latents: LatentFiles | None = None
    """Its encoded files, if the dataset is already encoded (data=latents)."""
    control: ControlFile | None = None
    """Its control video, if the task needs one from a file."""

    @property
    def name(self) -> str:
        """For messages."""
        return f"row {self.row.number}, {self.row.key}"


@dataclass(frozen=True)
class Dataset:
    """All clips of a dataset."""

    clips: list[Clip]
    """For training."""
    held_out: list[Clip]
    """Never trained on."""
    rates: list[float]
    """How often a clip of each source is seen per epoch."""
    issues: list[DataIssue] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """System files that were skipped, such as macOS's `._clip.mp4`."""
    excluded: int = 0
    """Rows with `keep: false`."""

    def bucket_counts(self) -> dict[Bucket, int]:
        """Number of training clips per bucket."""
        return dict(sorted(Counter(clip.bucket for clip in self.clips).items()))

    def describe(self) -> str:
        """Numbers of clips and their buckets, for messages."""
        buckets = ", ".join(f"{count} of {bucket}" for bucket, count in self.bucket_counts().items())
        held_out = f"; {len(self.held_out)} held out" if self.held_out else ""
        count = f"{len(self.left_out)} file{'s' if len(self.left_out) > 1 else ''}"
        left_out = f"; skipped {count} of the operating system, such as {self.left_out[0]}" if self.left_out else ""
        excluded = f"; {self.excluded} excluded by keep: false" if self.excluded else ""
        return f"{len(self.clips)} clips (frames x height x width): {buckets}{held_out}{excluded}{left_out}"


def load_dataset(data: Data, cache_dir: Path) -> Dataset:
    """Reads all sources and probes all videos; issues are collected, not raised.

    Raises:
        UserError: a manifest cannot be read, or cache_dir is not a folder.
    """
    make_folder(cache_dir, "cache_dir")
    clips: list[Clip] = []
    issues: list[DataIssue] = []
    left_out: list[LeftOut] = []
    sources = data.all_sources()
    for number, source in enumerate(sources):
        rows, of_manifest, unused = read_source(source, data.allow_outside_root, data.control_of(source))
        issues += of_manifest
        left_out += unused
        if source.source == "latents":
            allowed = None if data.allow_outside_root or source.root is None else os.path.realpath(source.root)
            new_clips, of_files = _latent_clips(rows, number, allowed, needs_control=data.control == "files")
        else:
            infos, of_files = examine_videos(rows, data, cache_dir)
            new_clips, of_buckets = assign_buckets(rows, infos, data, number)
            issues += of_buckets
            if data.control_of(source):
                new_clips, of_controls = _with_controls(new_clips, data, cache_dir)
                issues += of_controls
        clips += new_clips
        issues += of_files
    training, held_out = split_holdout(clips, data)
    counts = Counter(clip.source for clip in training)
    rates = _rates([source.repeats for source in sources], [source.weight for source in sources], counts)
    # In the order of the manifest, where people look for them; workers and sources report in their own.
    issues.sort(key=lambda issue: issue.row or 0)
    junk = [_shown(found.path, _roots(data)) for found in left_out if not found.by_manifest]
    return Dataset(training, held_out, rates, short_paths(issues, data), junk, len(left_out) - len(junk))


def accept(dataset: Dataset, data: Data, console: PlainConsole, report: Path | None) -> None:
    """Reports the issues; stops if there are any and data.on_error=raise, or if no clip is left.

    Raises:
        UserError: the dataset cannot be used.
    """
    issues, good = dataset.issues, len(dataset.clips) + len(dataset.held_out)
    if issues:
        print_issues(issues, console)
        where = f" (all of them: {report})" if report else ""
        if report:
            write_issues(issues, report)
        if data.on_error == "raise":
            raise UserError(
                f"{len(issues)} of {len(issues) + good} rows cannot be used{where}; fix them, or skip them with "
                "data.on_error=skip"
            )
        console.warn(f"Skipping {len(issues)} rows that cannot be used{where}")
    if not dataset.clips:
        raise UserError(f"data.root={data.root} has no clips to train on")


def assign_buckets(
    rows: list[Row], infos: dict[str, VideoInfo], data: Data, source: int
) -> tuple[list[Clip], list[DataIssue]]:
    """Assigns a bucket to every row whose video was probed."""
    clips, issues = [], []
    # Clips of a dataset share few shapes, and comparing with all buckets for each of a million is slow.
    chosen: dict[VideoInfo, Bucket | ClipError] = {}
    for row in rows:
        info = infos.get(row.key)
        if info is None:
            continue
        if info not in chosen:
            chosen[info] = _bucket_or_issue(info, data)
        bucket = chosen[info]
        if isinstance(bucket, ClipError):
            issues.append(issue_of(row.number, row.path, bucket))
        else:
            clips.append(Clip(row, source, info, bucket))
    return clips, issues


def split_holdout(clips: list[Clip], data: Data) -> tuple[list[Clip], list[Clip]]:
    """Splits training and held-out clips. The choice depends only on the videos' names, so it is the same in every run.

    Raises:
        UserError: too many clips are held out, or a listed path is not in the dataset.
    """
    wanted: int | float | list[str] = data.holdout
    # By a hash of the name: as good as random, and independent of folders and of the manifest's order.
    paths = sorted({clip.row.path for clip in clips}, key=lambda path: fingerprint(Path(path).name))
    if isinstance(wanted, list):
        held = _listed(wanted, set(paths), data)
    else:
        count = _share(wanted, len(paths)) if isinstance(wanted, float) else wanted
        if count > len(paths):
            raise UserError(f"data.holdout={count}: there are only {len(paths)} videos; leave some to train on")
        # By video and not by row: rows of one video would otherwise be on both sides.
        held = set(paths[:count])
    if held and len(held) >= len(paths):
        raise UserError(f"data.holdout={wanted} holds out all {len(paths)} videos; leave some to train on")
    return [clip for clip in clips if clip.row.path not in held], [clip for clip in clips if clip.row.path in held]


def short_paths(issues: list[DataIssue], data: Data) -> list[DataIssue]:
    """The issues with paths relative to the root, safe to print and write."""
    roots = _roots(data)
    return [replace(issue, file=_shown(issue.file, roots), what=visible(issue.what)) for issue in issues]


def place_of(data: Data) -> Place:
    """The root of a dataset that is one folder."""
    assert data.root is not None
    return Place(Path(data.root), None if data.allow_outside_root else os.path.realpath(data.root))


def _roots(data: Data) -> list[str]:
    return [f"{Path(source.root)}{os.sep}" for source in data.all_sources() if source.root]


def _shown(path: str, roots: list[str]) -> str:
    root = next((root for root in roots if path.startswith(root)), "")
    return visible(path.removeprefix(root), layout="")


def _share(share: float, count: int) -> int:
    """A fraction of a number of videos: at least one, unless it is 0."""
    return max(round(share * count), 1) if share > 0 and count else 0


def _with_controls(clips: list[Clip], data: Data, cache_dir: Path) -> tuple[list[Clip], list[DataIssue]]:
    """The clips with their control videos."""
    rows, issues = refuse_images([clip.row for clip in clips], data)
    rows = [replace(row, path=str(row.control), window=None) for row in rows]
    infos, of_files = examine_videos(rows, data, cache_dir, probe_controls)
    issues += of_files
    cropped = [replace(clip.row, window=None) for clip in clips if clip.row.window and clip.row.window.crop]
    wholes, _ = examine_videos(cropped, data, cache_dir)
    good = []
    for clip in clips:
        info, whole = infos.get(str(clip.row.control)), wholes.get(clip.row.path, clip.info)
        found = pair(clip.row, clip.info, whole, clip.bucket.num_frames, info, data) if info else None
        if isinstance(found, DataIssue):
            issues.append(found)
        elif found:
            good.append(replace(clip, control=found))
    return good, issues


def _latent_clips(
    rows: list[Row], source: int, allowed: str | None, *, needs_control: bool
) -> tuple[list[Clip], list[DataIssue]]:
    """Clips that are already encoded; their bucket is their encoded shape."""
    clips, issues = [], []
    for row in rows:
        try:
            files = latent_files(row.path)
            _check_place(files, allowed)
            info = latent_info(files)
            if needs_control:
                check_control(files)
        except ClipError as error:
            issues.append(issue_of(row.number, row.path, error))
        else:
            clips.append(Clip(row, source, info, Bucket(info.num_frames, info.height, info.width), files))
    return clips, issues


def _check_place(files: LatentFiles, allowed: str | None) -> None:
    """Refuses encoded files that lie outside the root, through a link of the file or of a folder.

    Raises:
        ClipError: a file lies outside.
    """
    # Checked here, because these files are named after the video and never appear in a manifest.
    place = Place(Path(), allowed)
    paths = (files.moments, files.embeds, files.image, files.control)
    outside = [path for path in paths if path and not place.holds(path)]
    if outside:
        fix = "move it there, or set data.allow_outside_root=true"
        raise ClipError(f"{os.path.realpath(outside[0])} lies outside data.root", fix)


def _bucket_or_issue(info: VideoInfo, data: Data) -> Bucket | ClipError:
    try:
        return choose_bucket(info, data)
    except ClipError as error:
        return error


def _listed(wanted: list[str], paths: set[str], data: Data) -> set[str]:
    roots = [source.root for source in data.all_sources() if source.root]
    held = set()
    for name in wanted:
        matches = {find_file(Path(root), name) for root in roots} & paths
        if not matches:
            raise UserError(f"data.holdout: {name} is not in the dataset; give paths relative to data.root")
        held |= matches
    return held


def _rates(repeats: list[float], weights: list[float | None], counts: Counter[int]) -> list[float]:
    """How often a clip of each source is seen per epoch."""
    if all(weight is None for weight in weights):
        return repeats
    total, shares = sum(counts.values()), sum(weight or 0 for weight in weights)
    # Scaled to as many samples per epoch as there are clips, whatever the weights add up to.
    return [(weight or 0) / shares * total / max(counts[number], 1) for number, weight in enumerate(weights)]
