"""A dataset in the cache, ready for sampling."""

from dataclasses import astuple, dataclass, replace
from pathlib import Path

from cogvx_exp.config.schema import Data
from cogvx_exp.console.progress import console
from cogvx_exp.data.dataset import Clip, Dataset, accept, short_paths
from cogvx_exp.data.issues import DataIssue
from cogvx_exp.latents.cache import TensorCache
from cogvx_exp.latents.captions import import_embeds, prepare_captions
from cogvx_exp.latents.context import PipelineContext
from cogvx_exp.latents.prepare import Entry, prepare_videos


@dataclass(frozen=True)
class EncodedClips:
    """Cache keys of clips and captions."""

    cache: TensorCache
    videos: list[tuple[Entry, ...]]
    """Per clip: the clip and, with data.random_flip, its mirror image. Empty if clips are encoded in the training
    loop."""
    captions: list[tuple[str, ...]]
    """Per clip: its captions, one of which is drawn."""
    no_caption: str
    """Key of the empty caption."""
    names: list[str]
    """Per clip, for messages."""


@dataclass(frozen=True)
class EncodedDataset:
    """The successfully encoded clips and their cache keys."""

    dataset: Dataset
    training: EncodedClips
    held_out: EncodedClips
    text_keys: dict[str, str]
    """Keys of the other encoded texts."""


def encode_dataset(
    dataset: Dataset, data: Data, context: PipelineContext, texts: list[str], report: Path | None
) -> EncodedDataset:
    """Encodes the clips (unless data.encode=online), their captions and other `texts` into the cache.

    Raises:
        UserError: clips cannot be encoded and data.on_error=raise; the others are in the cache nevertheless.
    """
    everything = [*dataset.clips, *dataset.held_out]
    raw = [clip for clip in everything if not clip.latents]
    # The empty caption always: caption dropout and guidance need it.
    text_keys = prepare_captions([*(text for clip in raw for text in clip.row.captions), "", *texts], context)
    imported = [clip for clip in everything if clip.latents]
    embeds = dict(zip((clip.name for clip in imported), import_embeds(imported, context.cache), strict=True))

    entries: dict[str, tuple[Entry, ...]] = {}
    # Held-out clips are always cached, so their loss is measured on the same pixels every time.
    to_cache = everything if data.encode == "cache" else dataset.held_out
    if to_cache:
        new_entries, issues = prepare_videos(to_cache, data, context)
        # Every process must drop the same clips, or their batches would differ.
        gathered = context.processes.all_gather([astuple(issue) for issue in issues])
        issues = [DataIssue(*issue) for of_process in gathered for issue in of_process]
        entries = {clip.name: entry for clip, entry in zip(to_cache, new_entries, strict=True)}
        dataset = _without(dataset, {(issue.row, issue.file) for issue in issues})
        accept(replace(dataset, issues=short_paths(issues, data)), data, console, report)

    def gather(clips: list[Clip]) -> EncodedClips:
        return EncodedClips(
            cache=context.cache,
            videos=[entries[clip.name] for clip in clips if clip.name in entries],
            captions=[
                (embeds[clip.name],) if clip.latents else tuple(text_keys[text] for text in clip.row.captions)
                for clip in clips
            ],
            no_caption=text_keys[""],
            names=[clip.name for clip in clips],
        )

    context.processes.barrier()  # the other processes have finished encoding
    return EncodedDataset(dataset, gather(dataset.clips), gather(dataset.held_out), text_keys)


def _without(dataset: Dataset, faulty: set[tuple[int | None, str]]) -> Dataset:
    def good(clips: list[Clip]) -> list[Clip]:
        return [clip for clip in clips if (clip.row.number, clip.row.path) not in faulty]

    return replace(dataset, clips=good(dataset.clips), held_out=good(dataset.held_out))
