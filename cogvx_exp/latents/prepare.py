"""Fills the cache: each clip and each distinct caption is encoded once.

Each encoder is loaded only if something is missing, and released before the next one is loaded. Decoding runs ahead in
worker processes. Encoding batches are formed from the whole dataset, not from the missing entries, so a killed and
restarted run writes the same bytes as an uninterrupted one. Processes split the work by batch number and do not have to
communicate, because entries are written atomically.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch

from cogvx_exp.config.schema import Data
from cogvx_exp.console.progress import progress
from cogvx_exp.core.files import read_json
from cogvx_exp.data.control.reading import ClipFrames, ControlFile, control_source, read_with_control
from cogvx_exp.data.dataset import Clip
from cogvx_exp.data.decoding import DecodingPool
from cogvx_exp.data.factory_latents import load_tensor
from cogvx_exp.data.frames import choose_frames
from cogvx_exp.data.index.files import content_hashes
from cogvx_exp.data.issues import ClipError, DataIssue, issue_of
from cogvx_exp.data.resize import ResizeSpec
from cogvx_exp.latents.cache import TensorCache
from cogvx_exp.latents.context import PipelineContext
from cogvx_exp.latents.encode import encode_videos, moments_shape, to_pixels
from cogvx_exp.media.timeline import DECORD
from cogvx_exp.media.video import READER_VERSION
from cogvx_exp.model.device import release
from cogvx_exp.model.load import load_vae
from cogvx_exp.tasks.base import Cached, Task

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """Cache keys of one encoded clip."""

    moments: str
    extras: tuple[tuple[str, str], ...] = ()
    """Names and keys of the task's cached tensors."""


@dataclass(frozen=True)
class _Work:
    """One entry to encode."""

    entry: Entry
    clip: Clip
    flip: bool
    shape: tuple[int, ...] | None = None
    """Shape of the moments if known: (2C, F, H, W)."""
    content: str = ""
    """Hash of the video of which the clip is a window."""

    @property
    def key(self) -> str:
        """Identifies the whole entry."""
        return self.entry.moments

    @property
    def place(self) -> tuple[str, float, str]:
        """Sorts clips so that the windows of a video follow each other: opening a long video takes time."""
        return self.content, self.clip.row.window.start if self.clip.row.window else 0.0, self.key

    def done(self, cache: TensorCache, task: Task) -> bool:
        """Whether the entry is in the cache."""
        return self.has_moments(cache) and not self.missing_extras(cache, task)

    def has_moments(self, cache: TensorCache) -> bool:
        """Whether the moments are in the cache."""
        return cache.has(self.entry.moments, self.shape)

    def missing_extras(self, cache: TensorCache, task: Task) -> list[tuple[str, str]]:
        """Names and keys of the task's tensors that are not in the cache."""
        return [(name, key) for name, key in self.entry.extras if not cache.has(key, self._shape(task.cached[name]))]

    def _shape(self, item: Cached) -> tuple[int, ...] | None:
        if self.clip.latents:
            return None
        return item.shape(self.clip.bucket) if item.shape else self.shape


def prepare_videos(
    clips: list[Clip], data: Data, context: PipelineContext
) -> tuple[list[tuple[Entry, ...]], list[DataIssue]]:
    """Encodes clips that are not in the cache.

    Returns:
        The entries of every clip (with data.random_flip, of the clip and its mirror image), and the issues of those
        that
            could not be encoded.
    """
    works = _all_work(clips, data, context)
    issues: dict[str, ClipError] = {}
    # Of all groups, also those that are done: otherwise shares would shift between processes that look at different
    # times.
    groups = _groups(works, data.encode_batch_size)[context.processes.rank :: context.processes.world_size]
    missing = [group for group in groups if not all(work.done(context.cache, context.task) for work in group)]
    logger.info("clips: %d entries, %d to encode or import here", len(works), sum(map(len, missing)))
    _log_missing(missing, context)
    # Imported clips need no encoder, so they come before it is loaded.
    for work in (work for group in missing for work in group if work.clip.latents):
        _import(work, context, issues)
    missing = [group for group in missing if not group[0].clip.latents]
    if missing:
        started = time.perf_counter()
        vae = load_vae(context.folder, context.compute, context.memory)
        done = _encode_groups(missing, data, vae, context, issues)
        for _ in progress("Encoding clips", done, sum(map(len, missing))):
            pass
        del vae
        release(context.compute.device)
        logger.info("clips encoded in %.1f s, loading included", time.perf_counter() - started)
    entries: dict[str, list[Entry]] = {}
    for work in works:
        entries.setdefault(_id(work.clip), []).append(work.entry)
    bad = [clip for clip in clips if _id(clip) in issues]
    return [tuple(dict.fromkeys(entries[_id(clip)])) for clip in clips], [
        issue_of(clip.row.number, clip.row.path, issues[_id(clip)]) for clip in bad
    ]


def _log_missing(groups: list[list[_Work]], context: PipelineContext) -> None:
    """Which entries are made, and why: all of a group, if one of it is missing."""
    if not logger.isEnabledFor(logging.DEBUG):
        return
    for work in (work for group in groups for work in group):
        lacks = [] if work.has_moments(context.cache) else ["moments"]
        lacks += [name for name, _ in work.missing_extras(context.cache, context.task)]
        why = f"{', '.join(lacks)} missing" if lacks else "there, but others of its batch are not"
        logger.debug("%s %s, flip %s: entry %s: %s", work.clip.row.key, work.clip.bucket, work.flip, work.key, why)


def _all_work(clips: list[Clip], data: Data, context: PipelineContext) -> list[_Work]:
    """The entries of all clips, in order; two per clip with data.random_flip."""
    hashes = content_hashes(_hashed_files(clips, context.task), context.cache_dir)
    made_by, vae = context.made_by("vae"), read_json(context.folder / "vae" / "config.json")
    works = []
    for clip in clips:
        if clip.latents:
            works.append(_Work(_imported_entry(clip, hashes, context), clip, flip=False))
            continue
        pixels = pixels_of(clip, data, hashes[clip.row.path])
        for flip in (False, True) if data.random_flip else (False,):
            origin = pixels | {"reshape": data.reshape, "flip": flip}
            extras = tuple(
                (name, context.cache.key(origin | _part(item, clip, data, hashes, made_by)))
                for name, item in context.task.cached.items()
            )
            entry = Entry(context.cache.key(origin | made_by), extras)
            content = hashes[clip.row.path] if clip.row.window else ""
            works.append(_Work(entry, clip, flip, moments_shape(vae, clip.bucket), content))
    return works


def _part(item: Cached, clip: Clip, data: Data, hashes: dict[str, str], made_by: dict[str, str]) -> dict[str, Any]:
    """The part of the cache key that distinguishes a task's tensor from others made from the same pixels."""
    part: dict[str, Any] = {"part": item.part, **(made_by if item.video else {})}
    if not item.uses_control:
        return part
    control = control_source(data, clip.control)
    made_from = {"file": hashes[control.path]} if isinstance(control, ControlFile) else control and control.made_from()
    return part | {"control": made_from}


def pixels_of(clip: Clip, data: Data, content: str) -> dict[str, Any]:
    """The part of the cache key that determines the pixels read from a file.

    Clips that older versions read correctly keep their keys from before `READER_VERSION`.
    """
    choice = choose_frames(data, clip.bucket.num_frames)
    pixels: dict[str, Any] = {"video": content, "frames": asdict(choice), "bucket": str(clip.bucket)}
    if clip.info.decoder != DECORD:
        pixels["reader"] = READER_VERSION
    if clip.row.window:
        pixels["window"] = str(clip.row.window)
    if choice.is_new(clip.info.num_frames):
        pixels["spread"] = True
    return pixels


def _imported_entry(clip: Clip, hashes: dict[str, str], context: PipelineContext) -> Entry:
    assert clip.latents
    extras = tuple(
        (name, context.cache.key({f"{name} moments": hashes[item.imported(clip.latents)]}))
        for name, item in context.task.cached.items()
    )
    return Entry(context.cache.key({"moments": hashes[clip.latents.moments]}), extras)


def _import(work: _Work, context: PipelineContext, issues: dict[str, ClipError]) -> None:
    """Copies an already encoded clip into the cache."""
    assert work.clip.latents
    _try(issues, work.clip, context.cache, work.entry.moments, load_tensor(work.clip.latents.moments, 4))
    for name, key in work.entry.extras:
        imported = load_tensor(context.task.cached[name].imported(work.clip.latents), 4)
        _try(issues, work.clip, context.cache, key, imported)


def _groups(works: list[_Work], size: int) -> list[list[_Work]]:
    """Entries that are encoded together: of one bucket, in an order independent of the dataset's order."""
    # Several rows may show one video.
    distinct = {work.key: work for work in works}
    # By content and not by row: a clip is encoded beside the same others whatever the manifest's order.
    ordered = sorted(distinct.values(), key=lambda work: (work.clip.latents is None, work.clip.bucket, *work.place))
    groups = []
    for _, same in groupby(ordered, key=lambda work: (work.clip.latents is None, work.clip.bucket)):
        alike = list(same)
        groups += [alike[first : first + size] for first in range(0, len(alike), size)]
    return groups


def _encode_groups(
    groups: list[list[_Work]], data: Data, vae: Any, context: PipelineContext, issues: dict[str, ClipError]
) -> Iterator[None]:
    """Encodes and saves groups; yields once per clip."""
    tasks = (_decoding_task(work, data) for group in groups for work in group)
    with DecodingPool(data.decode_workers, data.decode_timeout) as pool:
        decoded = pool.map(read_with_control, tasks)
        for group in groups:
            frames = {work: next(decoded) for work in group}
            issues |= {_id(work.clip): found for work, found in frames.items() if isinstance(found, ClipError)}
            good = {work: found for work, found in frames.items() if isinstance(found, ClipFrames)}
            _encode_group(good, data, vae, context, issues)
            yield from (None for _ in group)


def _decoding_task(work: _Work, data: Data) -> tuple[Any, ...]:
    clip = work.clip
    choice, fit = choose_frames(data, clip.bucket.num_frames), ResizeSpec(data.reshape, flip=work.flip)
    return clip.row.path, choice, clip.bucket, fit, clip.info, control_source(data, clip.control), clip.row.window


def _encode_group(
    group: dict[_Work, ClipFrames], data: Data, vae: Any, context: PipelineContext, issues: dict[str, ClipError]
) -> None:
    """Encodes and saves what is missing. Always whole groups: batches must not depend on what is in the cache."""
    cache, task = context.cache, context.task

    def moments_of(videos: list[np.ndarray]) -> torch.Tensor:
        return encode_videos(to_pixels(videos, vae.device, data.pin_memory), vae)

    if not all(work.has_moments(cache) for work in group):
        for work, moments in zip(group, moments_of([frames.clip for frames in group.values()]), strict=True):
            if not work.has_moments(cache):
                _try(issues, work.clip, cache, work.entry.moments, moments)
    for name, item in task.cached.items():
        missing = {work: dict(work.missing_extras(cache, task)).get(name) for work in group}
        if any(missing.values()):
            made = moments_of([item.video(frames) for frames in group.values()]) if item.video else None
            for number, (work, frames) in enumerate(group.items()):
                if key := missing[work]:
                    tensor = item.make(frames.clip) if item.make else made[number]  # type: ignore[index]
                    _try(issues, work.clip, cache, key, tensor)


def _try(issues: dict[str, ClipError], clip: Clip, cache: TensorCache, key: str, tensor: torch.Tensor) -> None:
    try:
        cache.save(key, tensor)
    except ClipError as error:
        issues[_id(clip)] = error


def _id(clip: Clip) -> str:
    """Identifies a clip's entries, which rows of the same video share."""
    return f"{clip.row.key} {clip.bucket}"


def _hashed_files(clips: list[Clip], task: Task) -> set[str]:
    """Files whose content determines the entries."""
    paths = {clip.latents.moments if clip.latents else clip.row.path for clip in clips}
    paths |= {clip.control.path for clip in clips if clip.control}
    return paths | {item.imported(clip.latents) for clip in clips if clip.latents for item in task.cached.values()}
